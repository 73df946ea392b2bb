"""A defect met in the middle of a stream ends the stream, is told and logged, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.engine.documents import instant
from tests.engine.served import refused_stream, serving
from windlass.engine.link import Link
from windlass.engine.service import start_stream
from windlass.v1 import worker_service_pb2 as worker_pb
from windlass.v1 import workflow_service_pb2 as pb


def defect(*_: Any) -> Any:
    raise RuntimeError("a defect of the test")


async def read_out(call: Any) -> None:
    """Its status comes after all that was said before it."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_the_writer_of_a_workers_stream_ends_with_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    register = worker_pb.RegisterWorkerRequest(worker_id="w", slots=1)
    register.runtimes.add(name="javascript", version="1")
    async with asyncio.timeout(20), serving() as served:
        call = served.workers.StreamTasks()
        await call.write(worker_pb.StreamTasksRequest(register=register))
        assert (await call.read()).HasField("registered")
        monkeypatch.setattr(Link, "receive", defect)
        await call.write(worker_pb.StreamTasksRequest(credits=1))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read_out(call)
        assert refused.value.code() is grpc.StatusCode.INTERNAL
        assert not [task for task in asyncio.all_tasks() if "WorkerServicer._write" in repr(task)]


async def test_a_stream_of_starts_does_not_wait_for_what_nobody_does_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_stream, "start_many", defect)

    async def said() -> AsyncIterator[pb.StreamRunsRequest]:
        start = pb.StreamedStart(tag=1, request=pb.StartRunRequest(workflow="instant"), wait=True)
        yield pb.StreamRunsRequest(starts=[start])

    async with asyncio.timeout(20), serving() as served:
        await served.register(instant())
        await refused_stream(served.runs.StreamRuns(said()), "INTERNAL")
        assert not served.engine.notices.waited_for()
