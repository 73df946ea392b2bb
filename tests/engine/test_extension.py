"""A worker that needs more time for an attempt says so, and has it; what bounds the whole task stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf import timestamp_pb2

from tests.engine.cluster import TestWorker
from tests.engine.documents import one_task
from tests.engine.plain import poll, register
from tests.engine.served import Served, seconds, serving
from windlass.client.cli.plain import local_time
from windlass.client.cli.story import detail_of
from windlass.engine.unit import DEADLINE_SLACK_US
from windlass.storage.memory import Faults, MemoryWorld
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb

HOLD = TestWorker.HOLD
SLACK_S = DEADLINE_SLACK_US / 1e6


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        await engine.register(one_task(timeouts={"start_to_close": "10s"}, retry={"max_attempts": 1}))
        yield engine


async def holding(served: Served) -> TestWorker:
    """A worker with the task of a fresh run."""
    worker = await served.worker(lambda task: HOLD)
    await served.start("task")
    await worker.until(lambda: bool(worker.held))
    return worker


def beat(task: pb.Task, span_s: float) -> pb.TaskHeartbeat:
    return pb.TaskHeartbeat(task_token=task.task_token, extension=seconds(span_s))


async def extend(worker: TestWorker, span_s: float) -> None:
    worker.link.receive(pb.StreamTasksRequest(task_heartbeats=[beat(worker.held[0], span_s)]))
    await worker.link.settle()


async def later(served: Served, span_s: float) -> None:
    served.advance(span_s)
    await served.engine.deadlines.turn()


async def timed_out(served: Served, run_id: str) -> bool:
    return (await served.run(run_id)).failure.code == "START_TO_CLOSE_TIMEOUT"


async def extensions(served: Served, run_id: str) -> list[common_pb2.HistoryEvent]:
    events = (await served.runs.GetHistory(run_pb.GetHistoryRequest(run_id=run_id))).events
    return [event for event in events if event.type == "AttemptExtended"]


async def test_the_history_says_until_when(served: Served) -> None:
    worker = await holding(served)
    await extend(worker, 3600)
    (event,) = await extensions(served, worker.held[0].run_id)
    until = timestamp_pb2.Timestamp(seconds=event.time.seconds + 3600, nanos=event.time.nanos)
    until.FromMicroseconds(until.ToMicroseconds() + int(SLACK_S * 1e6))
    assert detail_of(event) == f"until {local_time(until)}"


async def test_an_attempt_has_the_time_that_it_asked_for(served: Served) -> None:
    worker = await holding(served)
    (task,) = worker.held
    await later(served, 8)
    await extend(worker, 30)
    await later(served, 29 + SLACK_S)
    assert not worker.cancels
    assert len(await extensions(served, task.run_id)) == 1
    await later(served, 2)
    await worker.until(lambda: bool(worker.cancels))
    assert worker.cancels[0].reason == pb.CANCEL_REASON_TIMED_OUT
    assert await timed_out(served, task.run_id)


async def test_the_same_on_the_plain_path(served: Served) -> None:
    session = await register(served)
    await served.start("task")
    (task,) = await poll(served, session, 20)
    request = pb.HeartbeatTasksRequest(session_id=session, heartbeats=[beat(task, 60)])
    assert not (await served.workers.HeartbeatTasks(request)).cancels
    await later(served, 59 + SLACK_S)
    assert not await timed_out(served, task.run_id)
    await later(served, 2)
    assert await timed_out(served, task.run_id)


@pytest.mark.parametrize("span_s", [0, 1, -5, -1e9])
async def test_no_deadline_comes_nearer(served: Served, span_s: float) -> None:
    worker = await holding(served)
    (task,) = worker.held
    await extend(worker, span_s)
    await later(served, 9 + SLACK_S)
    assert (worker.cancels, await extensions(served, task.run_id)) == ([], [])
    worker.finish(task, 1)
    await served.closed(task.run_id)


async def test_it_holds_for_whoever_watches_the_lease_next(served: Served) -> None:
    worker = await holding(served)
    (task,) = worker.held
    await extend(worker, 60)
    await worker.vanish()
    again = TestWorker(served.engine, lambda task: HOLD)
    again.held = [task]
    await again.connect(resume=worker.session_id)
    await later(served, 59 + SLACK_S)
    assert not again.cancels
    await later(served, 2)
    await again.until(lambda: bool(again.cancels))
    assert await timed_out(served, task.run_id)


async def test_the_time_of_the_task_as_a_whole_is_not_extended(served: Served) -> None:
    await served.register(one_task(timeouts={"schedule_to_close": "15s"}, retry={"max_attempts": 1}))
    worker = await holding(served)
    (task,) = worker.held
    await extend(worker, 600)
    served.advance(16)
    assert (await served.closed(task.run_id)).failure.code == "SCHEDULE_TO_CLOSE_TIMEOUT"


async def test_an_attempt_without_a_lease_is_lost_and_not_extended(served: Served) -> None:
    worker = await holding(served)
    (task,) = worker.held
    await served.runs.TerminateRun(run_pb.TerminateRunRequest(run_id=task.run_id))
    await extend(worker, 60)
    await worker.until(lambda: len(worker.cancels) == 2)
    assert [each.reason for each in worker.cancels] == [pb.CANCEL_REASON_CANCELLED, pb.CANCEL_REASON_LOST]


async def test_a_store_that_fails_delays_an_extension_and_does_not_lose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = Faults()
    async with serving(MemoryWorld(faults=faults).open(shared=False)) as served:
        await served.register(one_task(timeouts={"start_to_close": "10s"}, retry={"max_attempts": 1}))
        worker = await holding(served)
        (task,) = worker.held
        faults.unavailable = 1.0
        report, refused = served.engine.workers.leases.report, asyncio.Event()

        async def refused_once(reports: Any) -> Any:
            try:
                return await report(reports)
            finally:
                refused.set()

        monkeypatch.setattr(served.engine.workers.leases, "report", refused_once)
        worker.link.receive(pb.StreamTasksRequest(task_heartbeats=[beat(task, 60)]))
        await refused.wait()
        faults.unavailable = 0.0
        await worker.link.settle()
        await later(served, 59)
        assert not worker.cancels
        worker.finish(task, 1)
        assert (await served.closed(task.run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def test_what_a_person_sees_is_the_new_deadline(served: Served) -> None:
    worker = await holding(served)
    (task,) = worker.held
    (before,) = (await served.run(task.run_id)).open_work
    await extend(worker, 600)
    (after,) = (await served.run(task.run_id)).open_work
    assert 580 < after.due_time.seconds - before.due_time.seconds < 600
