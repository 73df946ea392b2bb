"""An engine as a process: whatever goes wrong on the way down, the store is closed, and last."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from windlass.engine import composition
from windlass.engine.config import Settings
from windlass.engine.engine import Engine
from windlass.engine.service.server import Server
from windlass.storage.opening import open_embedded
from windlass.storage.port import Unavailable


def settings(folder: Path, listen: str = "127.0.0.1:0") -> Settings:
    return Settings.model_validate({"listen": listen, "data_dir": str(folder)})


async def closed(folder: Path) -> None:
    """The store is free again: it opens only for one at a time."""
    await open_embedded(folder).close()


async def ended_by_sigterm(folder: Path) -> int:
    ready = asyncio.Event()
    serving = asyncio.create_task(composition.serve(settings(folder), ready))
    await asyncio.wait([serving, asyncio.create_task(ready.wait())], return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        os.kill(os.getpid(), signal.SIGTERM)
    return await serving


async def test_sigterm_ends_it_in_good_order(tmp_path: Path) -> None:
    assert await ended_by_sigterm(tmp_path) == 0
    await closed(tmp_path)


def failing(real: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    async def stop(self: Any) -> None:
        await real(self)
        raise Unavailable("the store does not answer")

    return stop


@pytest.mark.parametrize("broken", [(Engine, "start"), (Engine, "stop"), (Server, "stop")])
async def test_the_store_is_closed_whatever_fails(
    broken: tuple[type, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, method = broken
    monkeypatch.setattr(part, method, failing(getattr(part, method)))
    with pytest.raises(Unavailable):
        await ended_by_sigterm(tmp_path)
    await closed(tmp_path)


async def test_an_address_in_use_is_said_and_the_store_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert await composition.serve(settings(tmp_path, address)) == composition.EXIT_CANNOT_START
    assert "cannot listen on" in capsys.readouterr().err
    await closed(tmp_path)


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("embedded:{}?strict=2", r"the only option is strict=1"),
        ("embedded:/proc/nowhere/x", "/proc/nowhere/x cannot be written"),
        ("cassandra://here", "unknown storage 'cassandra://here': use embedded:PATH, fdb:CLUSTERFILE"),
        ("postgres://somebody@/database?host={}", "no answer from PostgreSQL at /database"),
    ],
)
async def test_a_store_that_cannot_be_had_is_one_line_and_an_exit_code(
    storage: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Settings.model_validate({"listen": "127.0.0.1:0", "storage": storage.format(tmp_path)})
    assert await composition.serve(asked) == composition.EXIT_CANNOT_START
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
