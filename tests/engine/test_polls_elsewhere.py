"""A numbered poll whose answer was lost, repeated at an engine that does not know what that answer carried."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engine.documents import one_task
from tests.engine.plain import chain, complete, register, start
from tests.engine.served import Served, seconds, serving
from windlass.engine.connected import UNHEARD_US
from windlass.storage.memory import MemoryWorld
from windlass.v1 import worker_service_pb2 as pb


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Served, Served]]:
    world = MemoryWorld()
    async with serving(world.open()) as one, serving(world.open()) as two:
        await one.register(one_task(timeouts={"start_to_close": "1h"}))
        await one.register(chain(2))
        yield one, two


async def ask(served: Served, session: str, number: int, wait: float = 20) -> list[pb.Task]:
    request = pb.PollTasksRequest(session_id=session, number=number, max_tasks=9, wait_timeout=seconds(wait))
    return list((await served.workers.PollTasks(request)).tasks)


async def nothing(served: Served, session: str, number: int) -> None:
    """Its answer carries nothing of what the worker has: it would do that twice."""
    assert not await ask(served, session, number, 0.05)


async def resume(served: Served, session: str, *held: pb.Task) -> None:
    tokens = [task.task_token for task in held]
    request = pb.RegisterWorkerRequest(worker_id="u", slots=2, resume_session_id=session, held_task_tokens=tokens)
    request.runtimes.add(name="javascript", version="1")
    assert (await served.workers.RegisterWorker(request)).resumed


async def test_an_engine_that_was_restarted_mends_a_lost_answer() -> None:
    world = MemoryWorld()
    async with serving(world.open(shared=False)) as before:
        await before.register(one_task())
        session, run_id = await register(before), await before.start("task")
        assert await ask(before, session, 1)
    async with serving(world.open(shared=False)) as after:
        (task,) = await ask(after, session, 1)
        assert (task.run_id, task.attempt) == (run_id, 1)
        await complete(after, session, task)
        await after.closed(run_id)


async def test_the_answer_to_results_is_mended_too(pair: tuple[Served, Served]) -> None:
    one, two = pair
    session, run_id = await register(one), await one.start("chain")
    (first,) = await ask(one, session, 1)
    assert (await complete(one, session, first, max_tasks=1, number=2)).tasks
    (second,) = (await complete(two, session, first, max_tasks=1, number=2)).tasks or await ask(two, session, 3)
    assert (second.run_id, second.state) == (run_id, "s1")
    await complete(two, session, second)
    await two.closed(run_id)


async def test_an_answer_that_is_lost_again_and_again_is_mended_wherever_the_worker_asks(
    pair: tuple[Served, Served],
) -> None:
    session, run_id = await register(pair[0]), await pair[0].start("task")
    answers = [await ask(pair[at], session, 1) for at in (0, 1, 0, 0, 1, 0)]
    assert [[task.run_id for task in tasks] for tasks in answers] == [[run_id]] * 6
    await complete(pair[0], session, answers[-1][0])
    await pair[0].closed(run_id)


async def test_an_engine_that_was_left_for_one_poll_knows_that(pair: tuple[Served, Served]) -> None:
    one, two = pair
    session = await register(one)
    await nothing(one, session, 5)
    run_id = await one.start("task")
    assert await ask(two, session, 6)
    assert [task.run_id for task in await ask(one, session, 6)] == [run_id]


async def test_what_came_is_not_sent_again(pair: tuple[Served, Served]) -> None:
    one, two = pair
    session = await register(one)
    run_id = await one.start("task")
    (task,) = await ask(one, session, 1)
    await nothing(two, session, 2)
    await nothing(one, session, 3)
    assert (await complete(two, session, task)).accepted_task_tokens
    await two.closed(run_id)


async def test_a_first_task_that_came_with_a_start_was_in_no_poll(pair: tuple[Served, Served]) -> None:
    one, two = pair
    session = await register(one)
    await nothing(one, session, 1)
    started = await start(one, session)
    await nothing(two, session, 1)
    assert (await complete(two, session, started.task)).accepted_task_tokens


async def test_a_worker_that_resumed_may_count_from_the_beginning(pair: tuple[Served, Served]) -> None:
    one, two = pair
    session = await register(one)
    await one.start("task")
    (task,) = await ask(one, session, 1)
    await resume(one, session, task)
    await nothing(two, session, 1)
    assert (await complete(two, session, task)).accepted_task_tokens


async def test_a_first_task_that_waits_to_be_sent_again_stays_with_its_worker(
    pair: tuple[Served, Served],
) -> None:
    one, two = pair
    session = await register(one)
    started = await start(one, session)
    one.engine.dispatch.grant(session, 1)  # as if a poll had just ended that it was to go with
    one.advance(UNHEARD_US / 1e6)
    await one.engine.deadlines.turn()
    await nothing(two, session, 1)
    await one.engine.sessions.turn()
    assert session not in one.engine.dispatch.connected
    assert (await complete(two, session, started.task)).accepted_task_tokens


async def test_an_engine_that_the_worker_has_left_leases_it_no_first_task(pair: tuple[Served, Served]) -> None:
    """The engine that it is with now would take that lease for one that was never delivered."""
    one, two = pair
    session = await register(one)
    await nothing(two, session, 1)
    assert not (await start(one, session)).HasField("task")
    assert (await start(two, session)).HasField("task")
