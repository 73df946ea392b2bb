"""Ports for programs that are about to start: tests run side by side, and none may be given another's."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from windlass.client.cli.children import free_port


@pytest.fixture(autouse=True)
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks tries the same ports, from the lowest on."""
    monkeypatch.setattr(random, "sample", lambda ports, count: list(ports[:count]))


def test_a_port_is_given_once_though_nobody_listens_on_it_yet() -> None:
    assert len({free_port() for _ in range(5)}) == 5


def test_a_port_that_somebody_listens_on_is_not_given() -> None:
    before = free_port()
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.MonkeyPatch.context() as only:
        only.setattr(random, "sample", lambda ports, count: [listening.getsockname()[1]])
        with pytest.raises(OSError, match="was free"):
            free_port()
    assert free_port() > before


def test_the_kernel_does_not_give_it_to_anybody_who_asks_for_any() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port() < max(lowest, 11_000)
