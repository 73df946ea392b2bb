"""The worker of the documentation, on the plain path, as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import grpc

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


class LosingEngine(FakeEngine):
    """The answer of the first poll that has tasks never arrives."""

    lost: wire.PollTasksResponse | None = None

    async def PollTasks(self, request: wire.PollTasksRequest, context: Any) -> wire.PollTasksResponse:
        reply = await super().PollTasks(request, context)
        if reply.tasks and self.lost is None:
            self.lost = reply
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        return reply


async def test_what_a_lost_answer_carried_comes_back_at_once() -> None:
    engine = LosingEngine(lease_s=600)
    async with engine:
        task = engine.submit("python", handler="shout", input=b'{"text": "hello"}')
        process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), engine.address)
        try:
            await asyncio.wait_for(task.done.wait(), 30)
            assert engine.lost is not None
            assert [each.resume_session_id for each in engine.registers] == ["", *engine.sessions]
            assert task.epoch == 2
        finally:
            process.kill()
            await process.wait()
