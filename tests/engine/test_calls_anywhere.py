"""A worker of unary calls behind a balancer: each of its calls may reach another engine of the same store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.documents import one_task
from tests.engine.plain import complete, nothing_more_for, poll, register, start
from tests.engine.served import DAY, Served, seconds, serving, value
from windlass.engine.connected import UNHEARD_US
from windlass.engine.unit import DEADLINE_SLACK_US
from windlass.storage.memory import MemoryWorld
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb

SLACK_S = DEADLINE_SLACK_US / 1e6


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Served, Served]]:
    world = MemoryWorld()
    async with serving(world.open()) as one, serving(world.open()) as two:
        await one.register(one_task(timeouts={"start_to_close": "10s"}, retry={"max_attempts": 1}))
        yield one, two


async def later(pair: tuple[Served, Served], span_s: float) -> None:
    for served in pair:
        served.advance(span_s)
        await served.engine.deadlines.turn()


async def test_an_extension_holds_although_the_lease_is_watched_elsewhere(pair: tuple[Served, Served]) -> None:
    one, two = pair
    session = await register(one)
    await one.start("task")
    (task,) = await poll(one, session, 20)
    beat = pb.TaskHeartbeat(task_token=task.task_token, extension=seconds(60))
    await two.workers.HeartbeatTasks(pb.HeartbeatTasksRequest(session_id=session, heartbeats=[beat]))
    await later(pair, 59 + SLACK_S)
    assert (await one.run(task.run_id)).state == common_pb2.RUN_STATE_RUNNING
    await later(pair, 2)
    assert (await one.closed(task.run_id)).failure.code == "START_TO_CLOSE_TIMEOUT"


async def test_an_extension_that_is_over_too_when_its_engine_hears_of_it_times_out(
    pair: tuple[Served, Served],
) -> None:
    one, two = pair
    session = await register(one)
    await one.start("task")
    (task,) = await poll(one, session, 20)
    beat = pb.TaskHeartbeat(task_token=task.task_token, extension=seconds(60))
    await two.workers.HeartbeatTasks(pb.HeartbeatTasksRequest(session_id=session, heartbeats=[beat]))
    one.advance(1000)
    for _ in range(2):
        await one.engine.deadlines.turn()
    assert (await one.closed(task.run_id)).failure.code == "START_TO_CLOSE_TIMEOUT"


async def moments(pair: tuple[Served, Served], count: int) -> None:
    for _ in range(count):
        for served in pair:
            served.advance(1)
            await served.engine.sessions.turn()


async def accepted(served: Served, session: str, task: pb.Task) -> bool:
    return bool((await complete(served, session, task)).accepted_task_tokens)


async def test_what_one_engine_leased_is_not_taken_back_by_another(pair: tuple[Served, Served]) -> None:
    one, two = pair
    await one.register(one_task())
    session = await register(one)
    await two.workers.HeartbeatWorker(pb.HeartbeatWorkerRequest(session_id=session))
    await one.start("task")
    (task,) = await poll(one, session, 20)
    await moments(pair, 15)
    beat = pb.TaskHeartbeat(task_token=task.task_token)
    request = pb.HeartbeatTasksRequest(session_id=session, heartbeats=[beat])
    assert not (await two.workers.HeartbeatTasks(request)).cancels  # nor told that it is lost
    assert await accepted(one, session, task)


async def test_a_session_goes_with_its_polls_and_takes_its_leases_along(pair: tuple[Served, Served]) -> None:
    one, two = pair
    await one.register(one_task())
    session = await register(one)
    tasks = []
    for engine in (one, two, one):
        await engine.start("task")
        tasks += await poll(engine, session, 20)
        await moments(pair, 15)
    assert len(tasks) == 3
    for task in tasks:
        assert await accepted(two, session, task)


async def test_only_the_engine_of_a_session_answers_a_start_with_a_task(pair: tuple[Served, Served]) -> None:
    one, two = pair
    await one.register(one_task())
    session = await register(one)
    await two.workers.HeartbeatWorker(pb.HeartbeatWorkerRequest(session_id=session))
    assert not (await start(two, session)).HasField("task")
    assert (await start(one, session)).HasField("task")


async def test_a_first_task_that_is_done_elsewhere_is_not_sent_again(pair: tuple[Served, Served]) -> None:
    one, two = pair
    await one.register(one_task())
    session = await register(one)
    started = await start(one, session)
    assert await accepted(two, session, started.task)
    one.advance(UNHEARD_US / 1e6)
    await nothing_more_for(one, session)


async def test_a_sign_of_life_that_went_astray_once_is_not_waited_for_again(pair: tuple[Served, Served]) -> None:
    one, two = pair
    task_of = {"runtime": "python", "handler": "steady"}
    await one.register(one_task(task=task_of, timeouts={"start_to_close": "1h", "heartbeat": "10s"}, retry="none"))
    session = await register(one, handlers=[common_pb2.StepType(handler="steady")])
    await one.start("task")
    (task,) = await poll(one, session, 20)
    beat = pb.TaskHeartbeat(task_token=task.task_token)
    request = pb.HeartbeatTasksRequest(session_id=session, heartbeats=[beat])
    for engine in (two, one, one, one):
        await engine.workers.HeartbeatTasks(request)
        await later(pair, 6)
    assert await accepted(one, session, task)


async def test_whoever_closes_a_session_says_what_became_of_its_worker(
    pair: tuple[Served, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two engines come back after an outage: to one the session is gone while the other still returns its leases."""
    one, two = pair
    session = await register(one)
    await one.start("task")
    (task,) = await poll(one, session, 20)
    closing, report = one.engine.sessions, one.engine.leases.report
    await two.engine.sessions.maintain(1)
    for served in pair:
        served.clock.at_us += 1001 * DAY

    async def after_the_other(reports: Any) -> Any:
        await two.engine.sessions.maintain(1)
        return await report(reports)

    monkeypatch.setattr(closing, "_unattended_until_us", one.clock.at_us)
    monkeypatch.setattr(one.engine.leases, "report", after_the_other)
    await closing.maintain(1)
    request = run_pb.GetHistoryRequest(run_id=task.run_id)
    ended = [event for event in (await one.runs.GetHistory(request)).events if event.type == "AttemptEnded"]
    assert [value(event.attributes)["why"] for event in ended] == ["returned"]
