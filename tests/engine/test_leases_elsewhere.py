"""What one engine does to a task whose worker is with another one: that hears of it, and tells its worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.cluster import TestWorker
from tests.engine.documents import one_task
from tests.engine.plain import CODE, complete, poll, register
from tests.engine.served import Served, seconds, serving
from windlass.storage.memory import MemoryWorld
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb

HOLD = TestWorker.HOLD
#: Less than an attempt has, after which its lease would be looked at in any case.
SOON_S = 20


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Served, Served]]:
    world = MemoryWorld()
    async with serving(world.open()) as one, serving(world.open()) as two:
        await one.register(one_task(timeouts={"start_to_close": "1h"}))
        yield one, two


async def moments(served: Served, count: int) -> None:
    for _ in range(count):
        served.advance(1)
        await served.engine.sessions.turn()


async def holding(served: Served) -> TestWorker:
    worker = await served.worker(lambda task: HOLD)
    await served.start("task")
    await worker.until(lambda: bool(worker.held))
    return worker


@pytest.mark.parametrize(
    ("how", "reason"), [("CancelRun", pb.CANCEL_REASON_CANCELLED), ("TerminateRun", pb.CANCEL_REASON_LOST)]
)
async def test_a_worker_is_told_to_stop_whichever_engine_was_asked(
    pair: tuple[Served, Served], how: str, reason: int
) -> None:
    one, two = pair
    worker = await holding(one)
    await moments(one, 1)
    request: Any = getattr(run_pb, f"{how}Request")(run_id=worker.held[0].run_id)
    await getattr(two.runs, how)(request)
    one.engine.dispatch.on_stops()  # as the feed says, whenever its watch fires
    await moments(one, 3)
    await worker.until(lambda: bool(worker.cancels))
    assert [each.reason for each in worker.cancels] == [reason]


async def test_the_news_of_a_stop_reach_the_other_engine_by_themselves(pair: tuple[Served, Served]) -> None:
    one, two = pair
    worker = await holding(one)
    await two.runs.CancelRun(run_pb.CancelRunRequest(run_id=worker.held[0].run_id))
    one.advance(2)
    await worker.until(lambda: bool(worker.cancels))


async def test_a_worker_that_was_away_is_told_when_it_comes_back() -> None:
    async with serving() as served:
        await served.register(one_task())
        worker = await holding(served)
        await worker.vanish()
        await served.runs.CancelRun(run_pb.CancelRunRequest(run_id=worker.held[0].run_id, reason="enough"))
        again = TestWorker(served.engine, lambda task: HOLD)
        again.held = list(worker.held)
        await again.connect(resume=worker.session_id)
        await again.until(lambda: bool(again.cancels))
        assert [each.message for each in again.cancels] == ["cancelled: enough"]


async def test_what_a_task_took_is_free_when_its_result_was_given_elsewhere(pair: tuple[Served, Served]) -> None:
    one, two = pair
    await one.register(one_task("gpu", task={**CODE, "needs": {"gpu": 1}}, timeouts={"start_to_close": "1h"}))
    session = await register(one, offered_units={"gpu": 1})
    await one.start("gpu")
    (task,) = await poll(one, session, 20)
    await complete(two, session, task)
    next_id = await one.start("gpu")
    await moments(one, SOON_S)
    await poll(one, session)  # that the first one is over
    assert [task.run_id for task in await poll(one, session, 20)] == [next_id]


async def test_what_was_heard_of_a_session_elsewhere_is_not_kept_for_ever(pair: tuple[Served, Served]) -> None:
    one, two = pair
    session = await register(one)
    await one.start("task")
    (task,) = await poll(one, session, 20)
    await two.workers.HeartbeatWorker(pb.HeartbeatWorkerRequest(session_id=session))
    assert len(two.engine.dispatch.connected[session].held) == 1
    await complete(one, session, task)
    await moments(two, SOON_S)
    assert not two.engine.dispatch.connected[session].held


async def test_what_waits_to_be_sent_when_the_polls_go_elsewhere_comes_there(pair: tuple[Served, Served]) -> None:
    """Its lease was committed just after the answer to the last poll here."""
    one, two = pair
    session = await register(one)
    one.engine.dispatch.grant(session, 1)
    run_id = await one.start("task")
    assert not await poll(two, session)
    await moments(one, 3)
    assert [task.run_id for task in await poll(two, session, 20)] == [run_id]


async def test_no_engine_says_that_a_task_is_lost_that_the_next_one_has_leased(pair: tuple[Served, Served]) -> None:
    """The session was this engine's until a moment ago: it has not seen yet that another one looks after it."""
    one, two = pair
    session = await register(one)
    await one.start("task")
    (task,) = await poll(two, session, 20)
    beat = pb.TaskHeartbeat(task_token=task.task_token, extension=seconds(7200))
    request = pb.HeartbeatTasksRequest(session_id=session, heartbeats=[beat])
    assert not (await one.workers.HeartbeatTasks(request)).cancels
    (work,) = (await one.run(task.run_id)).open_work
    assert work.due_time.seconds - work.open_time.seconds > 7000
