"""A worker of unary calls only: register, poll, heartbeat, complete, release, drain. The leases are the stream's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest

from tests.engine.documents import one_task
from tests.engine.served import Served, refusal_of, refused, seconds, serving, value
from windlass.v1 import common_pb2, worker_service_pb2_grpc
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(lease_us=5_000_000) as engine:
        await engine.register(one_task(task={"runtime": "python", "handler": "steady"}, timeouts={"heartbeat": "1h"}))
        yield engine


async def register(served: Served, name: str = "u1") -> str:
    request = pb.RegisterWorkerRequest(worker_id=name, slots=2)
    request.runtimes.add(name="javascript", version="1")
    request.handlers.add(handler="steady")
    response = await served.workers.RegisterWorker(request)
    assert response.lease_duration.seconds == 5
    assert response.heartbeat_interval.seconds < 5
    return str(response.session_id)


async def poll(served: Served, session: str, most: int = 1, wait: float = 20) -> pb.PollTasksResponse:
    request = pb.PollTasksRequest(session_id=session, max_tasks=most, wait_timeout=seconds(wait))
    response: pb.PollTasksResponse = await served.workers.PollTasks(request)
    return response


async def test_a_whole_worker_of_unary_calls(served: Served) -> None:
    session = await register(served)
    run_id = await served.start("task", {"n": 1})
    (task,) = (await poll(served, session)).tasks
    assert (task.run_id, value(task.input)) == (run_id, {"n": 1})
    mark = pb.TaskHeartbeat(task_token=task.task_token, progress=b"1", checkpoint=b"2")
    beat = await served.workers.HeartbeatTasks(pb.HeartbeatTasksRequest(session_id=session, heartbeats=[mark]))
    assert not beat.cancels
    alive = await served.workers.HeartbeatWorker(
        pb.HeartbeatWorkerRequest(session_id=session, heartbeat=pb.WorkerHeartbeat(number=7))
    )
    assert alive.heartbeat.number == 7
    result = pb.TaskResult(task_token=task.task_token, output=b"42", context_patch={"extra": b"true"})
    done = await served.workers.CompleteTasks(pb.CompleteTasksRequest(session_id=session, results=[result]))
    assert list(done.accepted_task_tokens) == [task.task_token]
    run = await served.closed(run_id)
    assert (value(run.context["done"]), value(run.context["extra"])) == (42, True)


async def test_a_poll_waits_for_the_first_task(served: Served) -> None:
    session = await register(served)
    waiting = asyncio.ensure_future(poll(served, session, most=5))
    run_id = await served.start("task")
    assert [task.run_id for task in (await waiting).tasks] == [run_id]


async def test_a_poll_is_answered_empty_before_its_caller_gives_up(served: Served) -> None:
    session = await register(served)
    assert not (await poll(served, session, wait=0.01)).tasks
    run_id = await served.start("task")  # nobody asks now: it must not be leased to a worker that is not there
    (work,) = (await served.run(run_id)).open_work
    assert work.phase == "queued"


async def test_a_poll_takes_no_more_than_it_asked_for(served: Served) -> None:
    session = await register(served)
    for _ in range(5):
        await served.start("task")
    first = await poll(served, session, most=2)
    rest = [(await poll(served, session, most=2)).tasks for _ in range(2)]
    assert len(first.tasks) <= 2
    assert len(first.tasks) + sum(map(len, rest)) <= 5
    request = pb.PollTasksRequest(session_id=session, max_tasks=-1)
    await refused(served.workers.PollTasks(request), "INVALID_FIELD")


async def test_a_cancel_reaches_a_polling_worker_with_its_next_call(served: Served) -> None:
    session = await register(served)
    run_id = await served.start("task")
    (task,) = (await poll(served, session)).tasks
    await served.runs.CancelRun(run_pb.CancelRunRequest(run_id=run_id))
    beat = pb.HeartbeatWorkerRequest(session_id=session, heartbeat=pb.WorkerHeartbeat(number=1))
    (cancel,) = (await served.workers.HeartbeatWorker(beat)).cancels
    assert (cancel.task_token, cancel.reason) == (task.task_token, pb.CANCEL_REASON_CANCELLED)


async def test_what_is_given_back_goes_to_the_next(served: Served) -> None:
    first, second = await register(served, "u1"), await register(served, "u2")
    await served.start("task")
    (task,) = (await poll(served, first)).tasks
    release = pb.TaskRelease(task_token=task.task_token, reason=pb.RELEASE_REASON_UNABLE)
    request = pb.ReleaseTasksRequest(session_id=first, releases=[release, pb.TaskRelease(task_token=b"forged")])
    response = await served.workers.ReleaseTasks(request)
    assert list(response.accepted_task_tokens) == [task.task_token]
    assert refusal_of(response.rejected[0].error).info.reason == "BAD_TASK_TOKEN"
    (again,) = (await poll(served, second)).tasks
    assert again.run_id == task.run_id


async def test_a_worker_that_leaves_returns_what_it_holds(served: Served) -> None:
    session, other = await register(served, "u1"), await register(served, "u2")
    await served.start("task")
    (task,) = (await poll(served, session)).tasks
    drained = await served.workers.DrainWorker(pb.DrainWorkerRequest(session_id=session))
    assert drained.held == 1
    await served.workers.DrainWorker(pb.DrainWorkerRequest(session_id=session, close=True))
    (again,) = (await poll(served, other)).tasks
    assert again.run_id == task.run_id
    await refused(poll(served, session), "SESSION_NOT_FOUND")


async def test_a_session_that_lapsed_is_not_found(served: Served) -> None:
    session = await register(served)
    served.advance(6)
    await served.engine.sessions.turn()
    await refused(poll(served, session), "SESSION_NOT_FOUND")
    beat = pb.HeartbeatWorkerRequest(session_id=session)
    await refused(served.workers.HeartbeatWorker(beat), "SESSION_NOT_FOUND")
    await refused(served.workers.HeartbeatTasks(pb.HeartbeatTasksRequest(session_id="x")), "SESSION_NOT_FOUND")
    await refused(served.workers.DrainWorker(pb.DrainWorkerRequest(session_id="x")), "SESSION_NOT_FOUND")


async def test_a_poll_keeps_the_session(served: Served) -> None:
    session = await register(served)
    for _ in range(3):
        served.advance(4)
        await poll(served, session, wait=0.001)
    await served.start("task")
    assert (await poll(served, session)).tasks


async def test_a_failure_is_reported_with_all_it_has(served: Served) -> None:
    await served.register(one_task("once", retry={"max_attempts": 1}))
    session = await register(served)
    run_id = await served.start("once")
    (task,) = (await poll(served, session)).tasks
    failure = common_pb2.Failure(code="CARD_DECLINED", message="no", details=b'{"card":1}', retryable=False)
    result = pb.TaskResult(task_token=task.task_token, failure=failure)
    await served.workers.CompleteTasks(pb.CompleteTasksRequest(results=[result]))
    run = await served.closed(run_id)
    assert (run.failure.code, run.failure.message, run.failure.details) == ("CARD_DECLINED", "no", b'{"card":1}')


async def test_anyone_with_the_token_finishes_the_task(served: Served) -> None:
    """The worker that took it goes on without it, as long as its session stands."""
    session = await register(served)
    run_id = await served.start("task")
    (task,) = (await poll(served, session)).tasks
    result = pb.TaskResult(task_token=task.task_token, output=b"7")
    async with grpc.aio.insecure_channel(served.address) as elsewhere:
        stub: Any = worker_service_pb2_grpc.WorkerServiceStub(elsewhere)
        reply = await stub.CompleteTasks(pb.CompleteTasksRequest(results=[result]))
    assert list(reply.accepted_task_tokens) == [task.task_token]
    assert value((await served.closed(run_id)).context["done"]) == 7


async def logged(served: Served, run_id: str) -> list[list[Any]]:
    """The log lines in a run's history, one list per attempt."""
    request = run_pb.GetHistoryRequest(run_id=run_id, view=run_pb.VIEW_FULL)
    events = (await served.runs.GetHistory(request)).events
    return [msgspec.json.decode(event.attributes)["lines"] for event in events if event.type == "TaskLogged"]


async def test_what_tasks_log_and_use_is_in_the_history_of_each_attempt(served: Served) -> None:
    await served.register(one_task("twice", retry={"max_attempts": 2, "initial_delay": "1ms"}))
    session = await register(served)
    run_id = await served.start("twice")
    (task,) = (await poll(served, session)).tasks
    lines = [pb.LogLine(level="warn", message="careful", metadata=b'{"n":1}'), pb.LogLine(message="x")]
    failure = common_pb2.Failure(code="BROKEN", message="no")
    first = pb.TaskResult(task_token=task.task_token, failure=failure, logs=lines)
    await served.workers.CompleteTasks(pb.CompleteTasksRequest(results=[first]))
    served.advance(1)
    (task,) = (await poll(served, session)).tasks
    many = [pb.LogLine(level="info", message=f"line {number}") for number in range(1000)]
    second = pb.TaskResult(task_token=task.task_token, output=b"1", logs=many, usage=pb.TaskUsage(fuel=12))
    await served.workers.CompleteTasks(pb.CompleteTasksRequest(results=[second]))
    await served.closed(run_id)
    failed, succeeded = await logged(served, run_id)
    assert failed == [{"level": "warn", "message": "careful", "metadata": {"n": 1}}, {"level": "info", "message": "x"}]
    assert [line["message"] for line in succeeded] == [
        *(f"line {number}" for number in range(200)), "800 more log lines are not kept",
    ]  # fmt: skip
    history = (await served.runs.GetHistory(run_pb.GetHistoryRequest(run_id=run_id, view=run_pb.VIEW_FULL))).events
    (completed,) = [event for event in history if event.type == "TaskCompleted"]
    assert msgspec.json.decode(completed.attributes)["usage"] == {"fuel": 12}


async def test_what_a_lying_worker_says_of_an_attempt_is_cut(served: Served) -> None:
    session = await register(served)
    run_id = await served.start("task", {"n": 1})
    (task,) = (await poll(served, session)).tasks
    usage = pb.TaskUsage(memory_bytes=2**64 - 1, fuel=2**63)
    usage.wall_time.seconds, usage.cpu_time.nanos = 2**63 - 1, -1
    long = pb.TaskDenial(kind="x" * 1000, call="y" * 1000, argument="z" * 100_000, count=2**64 - 1)
    denials = [long, *(pb.TaskDenial(kind="file", call="path_open"),) * 10_000]
    result = pb.TaskResult(task_token=task.task_token, output=b"1", usage=usage, denials=denials)
    await served.workers.CompleteTasks(pb.CompleteTasksRequest(results=[result]))
    await served.closed(run_id)
    history = (await served.runs.GetHistory(run_pb.GetHistoryRequest(run_id=run_id, view=run_pb.VIEW_FULL))).events
    (completed,) = [event for event in history if event.type == "TaskCompleted"]
    attributes = msgspec.json.decode(completed.attributes)
    assert attributes["usage"] == {"wall_us": 1 << 53, "memory_bytes": 1 << 53, "fuel": 1 << 53}
    first, *others = attributes["denials"]
    assert first == {"kind": "other", "call": "y" * 64, "argument": "z" * 200, "count": 1 << 53}
    assert others == [{"kind": "file", "call": "path_open"}] * 31
