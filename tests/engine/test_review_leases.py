"""Leases that nobody would end, queues that wait for their turn, and news that the store failed to tell at first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.engine.cluster import TestWorker, register, running_engine, start, wait
from tests.engine.documents import one_task, waiting
from windlass.engine.core.commands import TaskSucceeded, Terminate
from windlass.engine.leases import parse_token
from windlass.engine.starting import StartPlan
from windlass.engine.starting import start as start_run
from windlass.storage.memory import MemoryWorld
from windlass.storage.opening import open_embedded
from windlass.storage.port import Transaction, Unavailable

T = TypeVar("T")


async def soon(work: Awaitable[T]) -> T:
    """The time only ends a test that hangs."""
    async with asyncio.timeout(15):
        return await work


class Between:
    """A store that does something while a transaction of its user is being committed."""

    def __init__(self, store: Any, then: Callable[[], None]) -> None:
        self._store, self._then = store, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """The body has run when `then` is called, the commit is not done."""
        commit = asyncio.ensure_future(self._store.transact(body))
        await asyncio.sleep(0)
        self._then()
        return await commit  # type: ignore[no-any-return]


async def test_a_lease_committed_while_its_session_is_closed_is_returned(tmp_path: Path) -> None:
    store = open_embedded(tmp_path)
    async with running_engine(store) as engine:
        await register(engine, one_task())
        gone = await TestWorker(engine, lambda task: TestWorker.HOLD, name="gone").connect()
        assert gone.link.session is not None
        session = gone.link.session.record.session
        engine.dispatch.backlog.clear()
        engine.sessions._strays._look_us = engine.clock.now_us()  # the look at all leases after a start is over
        plan = StartPlan(namespace="default", workflow="task", run_id=engine.clock.new_id(), input=b"{}")
        starts: list[asyncio.Task[Any]] = []

        def begin() -> None:
            if not starts:
                starts.append(asyncio.create_task(engine.transition.run(lambda unit: start_run(unit, plan))))

        engine.sessions._storage = Between(store, begin)
        await engine.sessions.end(session, "closed by the test")
        engine.sessions._storage = store
        await starts[0]
        assert [task[1] for task, _ in await engine.sessions.leases_of(session)] == [plan.run_id]
        await TestWorker(engine, lambda task: 1, name="next").connect()
        await soon(wait(engine, plan.run_id))
    await store.close()


async def test_the_queues_of_one_worker_take_turns() -> None:
    async with running_engine() as engine:
        await register(engine, one_task())
        for queue in ("a", "a", "a", "a", "b"):
            await start(engine, "task", queue, queue=queue)
        worker = await TestWorker(engine, lambda task: TestWorker.HOLD, credits=1).connect(queues=("a", "b"))
        order: list[bytes] = []
        for _ in range(5):
            await soon(worker.until(lambda: bool(worker.held)))
            order.append(worker.held[0].input)
            worker.finish(worker.held[0], 1)
        assert order.index(b'{"input":"b"}') <= 1


async def test_a_lease_that_ended_elsewhere_is_watched_no_more() -> None:
    world = MemoryWorld()
    async with running_engine(world.open()) as here, running_engine(world.open()) as there:
        await register(here, one_task(timeout="1ms"))
        worker = await TestWorker(here, lambda task: TestWorker.HOLD).connect()
        run_id = await start(here, "task", 1)
        await soon(worker.until(lambda: bool(worker.held)))
        task = parse_token(worker.held[0].task_token)
        assert worker.link.session is not None
        (held,) = worker.link.session.held.values()
        done = TaskSucceeded(path=task[3], visit=task[2], epoch=task[4], output=b"1")
        await there.leases.report([(task, done)])
        await soon(wait(there, run_id))
        held.deadline_us = 1
        await soon(worker.until(lambda: bool(worker.cancels)))
        assert worker.link.session.held == {}


class FailsOnce:
    """A store whose first read fails."""

    def __init__(self, store: Any) -> None:
        self._store, self.failed = store, asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        if not self.failed.is_set():
            self.failed.set()
            raise Unavailable
        return await self._store.read(body)  # type: ignore[no-any-return]


async def test_what_the_feed_could_not_read_is_read_at_the_next_turn() -> None:
    world = MemoryWorld()
    async with running_engine(world.open()) as here, running_engine(world.open()) as there:
        await register(there, waiting())
        run_id = await start(there, "wait", 1)
        here.feed._storage = store = FailsOnce(here.storage)
        waiter = here.notices.closes("default", run_id)
        await there.transition.give("default", run_id, Terminate(reason="done"))
        await soon(store.failed.wait())
        assert (await soon(waiter)).status == "terminated"


async def test_a_result_that_was_recorded_after_all_counts_as_recorded_when_the_engine_gives_up_on_it() -> None:
    async with running_engine() as engine:
        document = one_task(next="hold")
        document["states"]["hold"] = waiting()["states"]["hold"]
        await register(engine, document)
        worker = await TestWorker(engine, lambda task: 1).connect()
        await start(engine, "task", {})
        await soon(worker.until(lambda: bool(worker.accepted)))
        told = await engine.leases._park(parse_token(worker.accepted[0]), "TEST", "its commit's answer was lost")
        assert told.accepted
        assert told.over
