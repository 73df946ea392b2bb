"""What the contract promises of single calls: an answer within the caller's time, and a word on what cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from tests.engine.documents import one_task, waiting
from tests.engine.plain import poll, register
from tests.engine.served import Served, payload, refused, seconds, serving
from windlass.engine.core.limits import AWAY_MAX
from windlass.engine.service import status
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb

Call = Callable[[Served], Awaitable[Any]]
MINUTE = seconds(60)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        await engine.register(one_task(timeouts={"start_to_close": "10s"}, retry="none"))
        await engine.register(waiting())
        yield engine


# The caller's deadline


async def a_poll(served: Served) -> Any:
    request = pb.PollTasksRequest(session_id=await register(served), wait_timeout=MINUTE)
    return await served.workers.PollTasks(request, timeout=60)


async def a_wait(served: Served) -> Any:
    request = run_pb.WaitRunRequest(run_id=await served.start("wait"), wait_timeout=MINUTE)
    return await served.runs.WaitRun(request, timeout=60)


async def a_start_and_wait(served: Served) -> Any:
    start = run_pb.StartRunRequest(workflow="wait", input=payload({}))
    request = run_pb.StartAndWaitRunRequest(start=start, wait_timeout=MINUTE)
    return await served.runs.StartAndWaitRun(request, timeout=60)


@pytest.mark.parametrize("call", [a_poll, a_wait, a_start_and_wait])
async def test_a_call_that_waits_is_answered_before_its_caller_gives_up(
    call: Call, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "MARGIN_SECONDS", (60.0, 60.0))  # the whole deadline is kept for the answer
    async with asyncio.timeout(20):
        answer = await call(served)
    assert not answer.ListFields() or not answer.HasField("result")


def test_the_margin_of_a_deadline_is_a_tenth_within_bounds() -> None:
    margins = {left_s: status.margin_s(left_s) for left_s in (0.1, 1.5, 300.0)}
    assert margins == {0.1: 0.05, 1.5: pytest.approx(0.15), 300.0: 1.0}


# Failures


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ("CARD_DECLINED", "CARD_DECLINED", "no"),
        ("TIMEOUT", "TIMEOUT", "no"),
        ("", "USER_ERROR", "no"),
        ("a b c!", "USER_ERROR", "'a b c!' is not a failure code: no"),
        ("A" * 5000, "USER_ERROR", f"'{'A' * 100}' is not a failure code: no"),
        ("CRASH_LOOP", "USER_ERROR", "'CRASH_LOOP' is the engine's own failure code: no"),
    ],
)
async def test_what_cannot_be_a_failure_code_is_kept_in_the_message(
    given: str, code: str, message: str, served: Served
) -> None:
    session = await register(served)
    run_id = await served.start("task")
    (task,) = await poll(served, session, wait=20)
    failure = common_pb2.Failure(code=given, message="no", retryable=False)
    results = [pb.TaskResult(task_token=task.task_token, failure=failure)]
    reply = await served.workers.CompleteTasks(pb.CompleteTasksRequest(session_id=session, results=results))
    assert list(reply.accepted_task_tokens) == [task.task_token]
    kept = (await served.closed(run_id)).failure
    assert (kept.code, kept.message) == (code, message)


# Tasks to stop


async def test_a_polling_worker_is_told_that_the_time_of_a_task_is_over(served: Served) -> None:
    session = await register(served)
    await served.start("task")
    (task,) = await poll(served, session, wait=20)
    served.advance(20)  # the engine is the second to judge: the worker should have
    request = pb.PollTasksRequest(session_id=session, wait_timeout=seconds(20))
    (cancel,) = (await served.workers.PollTasks(request)).cancels
    assert (cancel.task_token, cancel.reason) == (task.task_token, pb.CANCEL_REASON_TIMED_OUT)


# What a call cannot say


@pytest.mark.parametrize("call", ["PollTasks", "HeartbeatTasks", "HeartbeatWorker", "DrainWorker", "CompleteTasks"])
async def test_a_call_without_a_session_is_told_that_it_is_missing(call: str, served: Served) -> None:
    more = {"max_tasks": 1} if call == "CompleteTasks" else {}
    refusal = await refused(getattr(served.workers, call)(getattr(pb, f"{call}Request")(**more)), "INVALID_FIELD")
    assert refusal.fields() == ["session_id"]
    assert "session_id is missing" in refusal.message


async def test_one_call_takes_a_thousand_results_and_no_more(served: Served) -> None:
    results = [pb.TaskResult(task_token=b"x")] * 1001
    refusal = await refused(served.workers.CompleteTasks(pb.CompleteTasksRequest(results=results)), "INVALID_FIELD")
    assert refusal.fields() == ["results"]
    assert len((await served.workers.CompleteTasks(pb.CompleteTasksRequest(results=results[1:]))).rejected) == 1000


async def test_one_call_takes_a_thousand_releases_and_no_more(served: Served) -> None:
    releases = [pb.TaskRelease(task_token=b"x")] * 1001
    refusal = await refused(served.workers.ReleaseTasks(pb.ReleaseTasksRequest(releases=releases)), "INVALID_FIELD")
    assert refusal.fields() == ["releases"]
    assert "1001" in refusal.message


# What a worker cannot take


async def test_a_task_that_its_worker_never_gets_is_parked_at_last(served: Served) -> None:
    """Its message is larger than what a client of gRPC takes unless told otherwise: the answer is lost each time."""
    large = dict.fromkeys("abcd", "${text}")  # the context comes with it
    await served.register(one_task("large", input={"template": large}, retry="none"))
    session = await register(served)
    run_id = await served.start("large", {"text": "x" * 900_000})
    again = pb.RegisterWorkerRequest(worker_id="u", slots=2, resume_session_id=session)
    again.runtimes.add(name="javascript", version="1")
    for _ in range(AWAY_MAX + 1):
        with pytest.raises(grpc.aio.AioRpcError, match="larger than max"):
            await poll(served, session, 20)
        assert (await served.workers.RegisterWorker(again)).resumed
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_INCIDENT
