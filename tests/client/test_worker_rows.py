"""What `windlass workers list` says of workers that tell little."""

from __future__ import annotations

import pytest

from windlass.client.cli.operations import _worker
from windlass.v1 import common_pb2, queue_service_pb2


@pytest.mark.parametrize(
    ("active", "missing", "told"),
    [(["seccomp"], ["landlock"], "landlock"), (["seccomp"], [], "none"), ([], [], "not told")],
)
def test_isolation_is_praised_only_where_it_is_known(active: list[str], missing: list[str], told: str) -> None:
    assert _worker(queue_service_pb2.Worker(active_guards=active, missing_guards=missing))[-1] == told


def test_handlers_are_served_whatever_runtimes_are_named() -> None:
    python = [common_pb2.RuntimeInfo(name="python")]
    assert _worker(queue_service_pb2.Worker(handlers=["pay"]))[4] == "python"
    assert _worker(queue_service_pb2.Worker(handlers=["pay"], runtimes=python))[4] == "python"
