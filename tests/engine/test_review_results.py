"""What workers of other languages get wrong in a result, and what becomes of the task and of its neighbours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from tests.engine.cluster import TestWorker
from tests.engine.documents import one_task
from tests.engine.served import Served, payload, refusal_of, seconds, serving, value
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb

HOLD = TestWorker.HOLD


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        await engine.register(one_task(retry={"max_attempts": 2, "initial_delay": "0s"}))
        yield engine


async def holding(served: Served, runs: int = 1) -> TestWorker:
    """A worker that holds the tasks of so many runs."""
    worker = await served.worker(lambda task: HOLD)
    for _ in range(runs):
        await served.start("task")
    await worker.until(lambda: len(worker.held) == runs)
    return worker


async def complete(served: Served, *results: pb.TaskResult) -> pb.CompleteTasksResponse:
    response: pb.CompleteTasksResponse = await served.workers.CompleteTasks(pb.CompleteTasksRequest(results=results))
    return response


async def test_one_of_several_signals_is_enough_where_the_task_says_so(served: Served) -> None:
    worker = await holding(served)
    (task,) = worker.held
    asks = pb.TaskAsks(wait_for=["paid", "refused"], wait_any=True)
    await complete(served, pb.TaskResult(task_token=task.task_token, output=b"1", asks=asks))
    await served.runs.SignalRun(run_pb.SignalRunRequest(run_id=task.run_id, name="refused", payload=payload(7)))
    assert value((await served.closed(task.run_id)).context["done"]) == {"refused": 7}


def _hasty(result: pb.TaskResult) -> None:
    result.failure.CopyFrom(common_pb2.Failure(code="X", retryable=False, next_delay=seconds(-5)))


def _waiting(result: pb.TaskResult) -> None:
    result.asks.CopyFrom(pb.TaskAsks(wait_for=["go"], wait_timeout=seconds(-5)))


def _suspending(result: pb.TaskResult) -> None:
    result.asks.CopyFrom(pb.TaskAsks(suspend=b"1", suspend_for=seconds(-5)))


@pytest.mark.parametrize(("spoil", "code"), [(_hasty, "X"), (_waiting, "INVALID_ASK"), (_suspending, "INVALID_ASK")])
async def test_a_span_that_cannot_be_fails_its_own_attempt_only(
    served: Served, spoil: Callable[[pb.TaskResult], None], code: str
) -> None:
    worker = await holding(served, runs=2)
    bad, good = worker.held
    wrong = pb.TaskResult(task_token=bad.task_token)
    spoil(wrong)
    answer = await complete(served, wrong, pb.TaskResult(task_token=good.task_token, output=b"1"))
    assert len(answer.accepted_task_tokens) == 2
    assert (await served.closed(bad.run_id)).failure.code == code
    assert (await served.closed(good.run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def test_a_token_that_no_engine_made_is_refused_alone_on_a_stream(served: Served) -> None:
    worker = await holding(served)
    (task,) = worker.held
    worker.link.receive(
        pb.StreamTasksRequest(
            results=[pb.TaskResult(task_token=b"junk"), pb.TaskResult(task_token=task.task_token, output=b"1")],
            releases=[pb.TaskRelease(task_token=b"")],
            task_heartbeats=[pb.TaskHeartbeat(task_token=b"no", progress=b"1")],
        )
    )
    await worker.until(lambda: len(worker.rejected) == 2 and bool(worker.accepted) and bool(worker.cancels))
    assert [(each.task_token, refusal_of(each.error).info.reason) for each in worker.rejected] == [
        (b"junk", "BAD_TASK_TOKEN"),
        (b"", "BAD_TASK_TOKEN"),
    ]
    assert [(each.task_token, each.reason) for each in worker.cancels] == [(b"no", pb.CANCEL_REASON_LOST)]


@pytest.mark.parametrize(("text", "why"), [(b"{", "is not JSON"), (b'"%s"' % (b"x" * 100_000), "100002 bytes")])
async def test_a_checkpoint_that_cannot_be_kept_fails_the_attempt(served: Served, text: bytes, why: str) -> None:
    """Said to be lost while its lease stood, the task belonged to nobody until its worker ended."""
    worker = await holding(served)
    (task,) = worker.held
    worker.link.receive(
        pb.StreamTasksRequest(task_heartbeats=[pb.TaskHeartbeat(task_token=task.task_token, checkpoint=text)])
    )
    await worker.until(lambda: bool(worker.cancels))
    assert worker.cancels[0].reason == pb.CANCEL_REASON_LOST
    failure = (await served.closed(task.run_id)).failure
    assert (failure.code, why in failure.message) == ("INVALID_ASK", True), failure.message


async def test_a_worker_is_told_the_largest_output_that_is_taken(served: Served) -> None:
    registered = await served.workers.RegisterWorker(pb.RegisterWorkerRequest())
    worker = await holding(served)
    (task,) = worker.held
    most: Any = b'"%s"' % (b"x" * (registered.max_output_bytes - len('""') - len("done")))  # the context has its name
    await complete(served, pb.TaskResult(task_token=task.task_token, output=most))
    run = await served.closed(task.run_id)
    assert run.state == common_pb2.RUN_STATE_COMPLETED, run.failure
    assert msgspec.json.encode(value(run.output)) == most
