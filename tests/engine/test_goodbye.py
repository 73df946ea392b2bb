"""What becomes of tasks that a worker still holds when it ends its session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.engine.documents import one_task
from tests.engine.plain import CODE, poll, register
from tests.engine.served import Served, serving
from windlass.engine import keys, tasks
from windlass.storage.memory import MemoryWorld
from windlass.storage.port import Transaction
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        once = one_task("once")
        once["states"]["work"]["task"]["at_most_once"] = True
        await engine.register(once)
        await engine.register(one_task())
        yield engine


async def goodbye(served: Served, session: str, *, unbegun: bool = False) -> None:
    request = pb.DrainWorkerRequest(session_id=session, close=True, unbegun=unbegun)
    await served.workers.DrainWorker(request)


async def test_an_at_most_once_task_that_may_have_begun_is_not_run_again(served: Served) -> None:
    run_id, session = await served.start("once"), await register(served)
    assert await poll(served, session, 20)
    await goodbye(served, session)
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_INCIDENT


async def test_a_worker_says_that_nothing_had_begun(served: Served) -> None:
    run_id, session = await served.start("once"), await register(served)
    assert await poll(served, session, 20)
    await goodbye(served, session, unbegun=True)
    (again,) = await poll(served, await register(served), 20)
    assert (again.run_id, again.attempt) == (run_id, 1)


async def test_a_task_that_may_run_twice_goes_to_others_and_has_no_attempt_less(served: Served) -> None:
    run_id, session = await served.start("task"), await register(served)
    assert await poll(served, session, 20)
    await goodbye(served, session)
    (again,) = await poll(served, await register(served), 20)
    assert (again.run_id, again.attempt) == (run_id, 1)


async def test_what_was_not_sent_had_not_begun(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tasks that came for one poll its answer holds one: the other waits for the next poll; none comes."""
    monkeypatch.setattr(tasks, "TASKS_BYTES", 1)
    branches = {name: {"task": {**CODE, "at_most_once": True}} for name in "ab"}
    state = {"parallel": {"branches": branches}, "next": "end"}
    await served.register({"workflow": "two", "initial": "a", "states": {"a": state, "end": {}}})
    run_id, session = await served.start("two"), await register(served)
    while not (sent := await poll(served, session, 20, most=2)):
        pass
    await goodbye(served, session)
    phases = {work.path: work.phase for work in (await served.run(run_id)).open_work if work.path}
    (other,) = {"a", "b"} - {sent[0].path}
    assert phases == {sent[0].path: "incident", other: "queued"}


async def test_an_engine_that_dies_while_it_ends_a_session_leaves_no_at_most_once_task_to_run_again() -> None:
    """The session's record is gone, its leases are not: whoever finds them cannot know what had begun."""
    world = MemoryWorld()
    async with serving(world.open()) as one, serving(world.open()) as two:
        once = one_task("once", timeouts={"start_to_close": "1h"})
        once["states"]["work"]["task"]["at_most_once"] = True
        await one.register(once)
        run_id, session = await one.start("once"), await register(one)
        assert await poll(one, session, 20)
        one.engine.dispatch.disconnect(session, one.engine.dispatch.connected[session].outlet)
        await one.engine.storage.transact(partial(_cleared, keys.session(session)))
        for _ in range(3):
            two.advance(11)
            await two.engine.sessions.turn()
        assert (await two.run(run_id)).state == common_pb2.RUN_STATE_INCIDENT


async def _cleared(key: bytes, tr: Transaction) -> None:
    tr.clear(key)
