"""What waits in the engine for one worker's stream has a bound, however fast it sends and however slowly it reads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.engine.cluster import TestWorker, running_engine
from windlass.engine import link as links
from windlass.engine.leases import token_of
from windlass.engine.service.worker import WorkerServicer
from windlass.v1 import worker_service_pb2 as pb


class Flood:
    """The wire of a worker that sends the same message without end."""

    MOST = 100_000

    def __init__(self, message: pb.StreamTasksRequest) -> None:
        self.message, self.reads = message, 0

    async def read(self) -> pb.StreamTasksRequest:
        self.reads += 1
        assert self.reads < self.MOST, "it is read from without end"
        await asyncio.sleep(0)
        return self.message


async def read_on(servicer: WorkerServicer, worker: TestWorker, flood: Flood) -> asyncio.Task[None]:
    """Read until the engine has enough."""
    reading = asyncio.create_task(servicer._read(worker.link, flood))
    before = -1
    while not reading.done() and flood.reads > before:
        before = flood.reads
        await asyncio.wait((reading,), timeout=0.1)
    assert not reading.done(), reading.exception()
    return reading


async def test_a_worker_is_not_read_from_while_the_store_does_not_take_its_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = pb.TaskResult(task_token=token_of(("default", "gone", 1, "work", 1)))
    flood = Flood(pb.StreamTasksRequest(results=[result]))
    async with running_engine() as engine:
        worker = await TestWorker(engine, lambda task: TestWorker.HOLD).connect()
        report, answers = engine.leases.report, asyncio.Event()

        async def slow(reports: Any) -> Any:
            await answers.wait()
            return await report(reports)

        monkeypatch.setattr(engine.leases, "report", slow)
        reading = await read_on(WorkerServicer(engine.workers, engine.modules), worker, flood)
        assert len(worker.link._recording) <= links.RECORDING_MAX + 1
        before = flood.reads
        answers.set()
        while flood.reads == before:
            await asyncio.wait((reading,), timeout=0.01)
        reading.cancel()
        await worker.vanish()


async def test_a_worker_that_does_not_read_is_not_read_from_either() -> None:
    flood = Flood(pb.StreamTasksRequest(results=[pb.TaskResult(task_token=b"nobody's")] * 100))
    async with running_engine() as engine:
        worker = await TestWorker(engine, lambda task: TestWorker.HOLD).connect()
        assert worker._task is not None
        worker._task.cancel()  # it reads no more
        reading = await read_on(WorkerServicer(engine.workers, engine.modules), worker, flood)
        before = flood.reads
        await worker.link.next()
        while flood.reads == before:
            await asyncio.wait((reading,), timeout=0.01)
        worker.link.lapsed()  # whatever ends the stream ends the wait
        reading.cancel()
        await worker.link.close()
