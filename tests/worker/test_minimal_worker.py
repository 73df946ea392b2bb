"""The worker of the documentation, on the plain path, as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from tests.worker.fake_engine import FakeEngine
from windlass.v1 import worker_service_pb2 as wire

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "minimal_worker.py"


async def test_the_minimal_worker_works_fails_and_leaves(engine: FakeEngine) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), engine.address)
    try:
        good = engine.submit("python", handler="shout", input=b'{"text": "hello"}')
        bad = engine.submit("python", handler="shout", input=b"{}")
        for stored in (good, bad):
            await asyncio.wait_for(stored.done.wait(), 30)
        assert good.result is not None
        assert json.loads(good.result.output) == {"text": "HELLO!", "attempt": 1}
        assert bad.result is not None
        assert bad.result.failure.code == "USER_ERROR"
        assert "KeyError" in bad.result.failure.message
        engine.lapse(next(iter(engine.sessions)))  # it registers anew
        again = engine.submit("python", handler="shout", input=b'{"text": "still here"}')
        await asyncio.wait_for(again.done.wait(), 30)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        assert len(engine.left) == 1
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


Reply = TypeVar("Reply", wire.PollTasksResponse, wire.CompleteTasksResponse)


class LosingEngine(FakeEngine):
    """The first answer of one method that has tasks never arrives."""

    def __init__(self, method: str) -> None:
        super().__init__(lease_s=600)
        self.method, self.lost = method, False
        self.polls = 0

    async def PollTasks(self, request: wire.PollTasksRequest, context: Any) -> wire.PollTasksResponse:
        reply = await super().PollTasks(request, context)
        self.polls += bool(reply.tasks)
        return await self._perhaps_lost("PollTasks", reply, context)

    async def CompleteTasks(self, request: wire.CompleteTasksRequest, context: Any) -> wire.CompleteTasksResponse:
        return await self._perhaps_lost("CompleteTasks", await super().CompleteTasks(request, context), context)

    async def _perhaps_lost(self, method: str, reply: Reply, context: Any) -> Reply:
        if reply.tasks and method == self.method and not self.lost:
            self.lost = True
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        return reply


@pytest.mark.parametrize(("method", "epochs"), [("PollTasks", [2, 1]), ("CompleteTasks", [1, 2]), ("", [1, 1])])
async def test_what_a_lost_answer_carried_comes_back_at_once(method: str, epochs: list[int]) -> None:
    engine = LosingEngine(method)
    async with engine:
        tasks = [engine.submit("python", handler="shout", input=b'{"text": "hello"}') for _ in epochs]
        process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), engine.address)
        try:
            for task in tasks:
                await asyncio.wait_for(task.done.wait(), 30)
            assert engine.lost is bool(method)
            resumed = list(engine.sessions) if method else []
            assert [each.resume_session_id for each in engine.registers] == ["", *resumed]
            assert [task.epoch for task in tasks] == epochs
            assert method or engine.polls == 1  # the second came with the answer to the first one's result
        finally:
            process.kill()
            await process.wait()


class OutageEngine(FakeEngine):
    """Its store is away when the worker comes."""

    refusals = 2

    async def RegisterWorker(self, request: wire.RegisterWorkerRequest, context: Any) -> wire.RegisterWorkerResponse:
        if self.refusals:
            self.refusals -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the store does not answer")
        return await super().RegisterWorker(request, context)


async def test_an_engine_that_cannot_serve_now_is_asked_again() -> None:
    async with OutageEngine(lease_s=600) as engine:
        task = engine.submit("python", handler="shout", input=b'{"text": "hello"}')
        process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), engine.address)
        try:
            await asyncio.wait_for(task.done.wait(), 30)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
