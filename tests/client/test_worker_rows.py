"""What `windlass workers list` says of workers that tell little."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from windlass.client.cli.operations import _told_apart, _worker
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


async def test_workers_with_one_id_are_told_apart() -> None:
    ids = [("a", "11112222aaaa"), ("b", "33334444aaaa"), ("b", "55556666aaaa"), ("b", "77778888aaaa"), ("c", "9999")]

    async def found() -> AsyncIterator[queue_service_pb2.Worker]:
        for worker, instance in ids:
            yield queue_service_pb2.Worker(worker_id=worker, instance_id=instance)

    shown = [_worker(each)[0] async for each in _told_apart(found())]
    assert shown == ["a", "b (instance 33334444)", "b (instance 55556666)", "b (instance 77778888)", "c"]
