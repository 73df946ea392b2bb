"""StreamRuns: who waits for a run that was there before is told its end, or why it cannot be known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.engine.documents import waiting
from tests.engine.served import Served, payload, refusal_of, serving
from windlass.engine.service import start_stream
from windlass.v1 import workflow_service_pb2 as pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        await engine.register(waiting())
        yield engine


def joining() -> AsyncIterator[pb.StreamRunsRequest]:
    async def said() -> AsyncIterator[pb.StreamRunsRequest]:
        start = pb.StartRunRequest(workflow="wait", workflow_id="w", open_run_policy=pb.OPEN_RUN_POLICY_USE_EXISTING)
        yield pb.StreamRunsRequest(starts=[pb.StreamedStart(tag=7, request=start, wait=True)])

    return said()


async def test_a_long_wait_is_taken_up_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_stream, "WAIT_MAX_US", 1000)
    run_id = await served.start("wait", workflow_id="w")
    seen: list[str] = []
    async with asyncio.timeout(20):
        async for message in served.runs.StreamRuns(joining()):
            seen += [str(each.WhichOneof("outcome")) for each in message.outcomes]
            if seen == ["started"]:
                await asyncio.sleep(0.02)  # longer than the wait
                await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_id, name="go", payload=payload(1)))
    assert seen == ["started", "closed"]


async def test_a_run_that_is_gone_ends_the_wait_with_an_error(served: Served) -> None:
    stream = start_stream.Stream(served.engine, None)
    await stream._wait(7, "default", "nowhere")
    (outcome,) = stream._next_outcomes()
    assert outcome.tag == 7
    assert refusal_of(outcome.error).info.reason == "RUN_NOT_FOUND"
