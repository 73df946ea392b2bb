"""Two engines on one store that others share: in memory with the conflicts of FoundationDB, over FoundationDB's adapter
and a stand-in for its library, and PostgreSQL for real.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.cluster import TestWorker, register, result_of, show_run, start, wait
from tests.engine.documents import delayed, one_task, waiting
from tests.storage import backends_postgres
from tests.storage.backends_foundationdb import over_fake
from tests.storage.fdb_fake import FakeLibrary
from windlass.definition.compile import compile_canonical
from windlass.engine.core.commands import Signal
from windlass.engine.engine import Engine, Options
from windlass.engine.errors import EngineError
from windlass.engine.queues import tasks_held
from windlass.engine.service import starts
from windlass.storage.foundationdb_open import open_foundationdb
from windlass.storage.memory import MemoryWorld
from windlass.storage.port import Storage
from windlass.storage.postgres import open_postgres
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb

Pair = tuple[Engine, Engine]


@contextlib.asynccontextmanager
async def stores(kind: str) -> AsyncIterator[tuple[Storage, Storage]]:
    if kind == "memory":
        world = MemoryWorld()
        pair: tuple[Storage, Storage] = (world.open(), world.open())
    elif kind == "foundationdb":
        async with over_fake() as (one, cluster):
            two = await open_foundationdb("f", native=FakeLibrary(cluster))
            try:
                yield one, two
            finally:
                await two.close()
        return
    else:
        url = backends_postgres.fresh_url()
        pair = (await open_postgres(url), await open_postgres(url))
    try:
        yield pair
    finally:
        for store in pair:
            await store.close()


@pytest.fixture(params=["memory", "foundationdb", "postgres"])
async def engines(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    if request.param == "postgres" and (why := backends_postgres.missing()):
        pytest.skip(why)
    async with stores(request.param) as (one, two):
        options = Options(member_us=3_000_000, lease_us=600_000_000)  # workers of tests send no heartbeats
        pair = tuple(Engine(store, compile_canonical, options=options) for store in (one, two))
        for engine in pair:
            await engine.start()
        try:
            yield pair[0], pair[1]
        finally:
            for engine in pair:
                await engine.stop()


async def test_a_run_started_on_one_is_worked_off_on_the_other(engines: Pair) -> None:
    first, second = engines
    await register(first, one_task())
    worker = await TestWorker(second, lambda task: task.run_id).connect()
    runs = [await start(first, "task", {"n": n}) for n in range(20)]
    ended = await asyncio.gather(*(wait(first, run_id) for run_id in runs))
    assert {run.state for run in ended} == {common_pb2.RUN_STATE_COMPLETED}
    assert sorted(task.run_id for task in worker.seen) == sorted(runs)


async def test_the_workers_of_both_share_a_backlog_and_each_result_counts_once(engines: Pair) -> None:
    first, second = engines
    await register(first, one_task())
    runs = [await start(engine, "task", {}) for engine in engines for _ in range(20)]
    workers = [
        await TestWorker(engine, lambda task: task.run_id, name=name, credits=4).connect()
        for name, engine in (("a", first), ("b", second))
    ]
    for run_id in runs:
        run = await wait(second, run_id)
        assert run.state == common_pb2.RUN_STATE_COMPLETED
    seen = [task.run_id for worker in workers for task in worker.seen]
    assert sorted(seen) == sorted(runs)


async def test_a_result_may_be_handed_to_any_engine_and_counts_once(engines: Pair) -> None:
    first, second = engines
    await register(first, one_task())
    worker = await TestWorker(first, lambda task: TestWorker.HOLD).connect()
    run_id = await start(first, "task", {})
    await worker.until(lambda: bool(worker.held))
    (task,) = worker.held
    answers = await asyncio.gather(*(_complete(engine, task, name) for engine, name in zip(engines, "ab", strict=True)))
    assert all(answers)  # the second is told that the attempt's result is recorded
    run = await wait(second, run_id)
    assert run.context["done"] in (b'"a"', b'"b"')
    completed = [event for event in await _events(first, run_id) if event == "TaskCompleted"]
    assert len(completed) == 1


async def _complete(engine: Engine, task: pb.Task, value: Any) -> bool:
    from windlass.engine.link import results_in

    (told,) = await engine.leases.report(results_in([result_of(task, value)], engine.clock))
    return told.error is None


async def _events(engine: Engine, run_id: str) -> list[str]:
    from windlass.engine.reading import history

    found = await engine.storage.read(lambda tr: history(tr, "default", run_id, limit=1000))
    return [type(each.event).__name__ for each in found]


async def test_timers_fire_once_whoever_looks(engines: Pair) -> None:
    first, second = engines
    await register(first, delayed("30ms"))
    runs = [await start(engine, "delay", {}) for engine in engines for _ in range(15)]
    for run_id in runs:
        assert (await wait(second, run_id)).state == common_pb2.RUN_STATE_COMPLETED
        assert (await _events(first, run_id)).count("RunClosed") == 1


async def test_a_wait_on_one_ends_when_the_run_closes_on_the_other(engines: Pair) -> None:
    first, second = engines
    await register(first, waiting())
    run_id = await start(first, "wait", {})
    waiter = asyncio.ensure_future(starts.wait_closed(first, "default", run_id, 60_000_000))
    await asyncio.sleep(0)
    await second.transition.give("default", run_id, Signal(name="go", payload=b"1"))
    state = await waiter
    assert state is not None
    assert state.status == "completed"


async def test_an_engine_that_stops_hands_everything_to_the_other(engines: Pair) -> None:
    first, second = engines
    await register(first, one_task())
    await register(first, delayed("300ms"))
    rests = [await start(first, "delay", {}) for _ in range(8)]
    works = [await start(first, "task", {}) for _ in range(8)]
    await first.stop()
    await TestWorker(second, lambda task: 1).connect()
    for run_id in (*rests, *works):
        assert (await wait(second, run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def test_a_worker_takes_its_session_to_the_other_engine(engines: Pair) -> None:
    first, second = engines
    await register(first, one_task())
    worker = await TestWorker(first, lambda task: TestWorker.HOLD).connect()
    run_id = await start(first, "task", {})
    await worker.until(lambda: bool(worker.held))
    await worker.vanish()
    again = TestWorker(second, lambda task: TestWorker.HOLD)
    again.held = list(worker.held)
    await again.connect(resume=worker.session_id)
    await again.until(lambda: bool(again.session_id))
    assert again.session_id == worker.session_id
    again.finish(again.held[0], "there")
    assert (await wait(first, run_id)).context["done"] == b'"there"'


async def test_every_engine_knows_what_a_worker_holds_also_when_it_is_cut_off(engines: Pair) -> None:
    first, second = engines
    await register(first, one_task())
    worker = await TestWorker(first, lambda task: TestWorker.HOLD).connect()
    await start(first, "task", {})
    await worker.until(lambda: bool(worker.held))
    record = await second.sessions.find(worker.session_id)
    assert [await tasks_held(engine, record) for engine in engines] == [1, 1]
    await worker.vanish()
    assert [await tasks_held(engine, record) for engine in engines] == [1, 1]


async def test_the_stream_at_the_old_engine_is_told_that_it_is_replaced(engines: Pair) -> None:
    first, second = engines
    old = await TestWorker(first, lambda task: 1).connect()
    await old.until(lambda: bool(old.session_id))
    await TestWorker(second, lambda task: 2).connect(resume=old.session_id)
    first.sessions.wake()
    with pytest.raises(EngineError) as refused:
        await old._task  # type: ignore[misc]
    assert refused.value.reason == "SESSION_REPLACED"
    assert old.session_id not in first.dispatch.connected
    assert (await second.sessions.find(old.session_id)).engine == second.engine_id


async def test_the_tasks_of_a_worker_whose_engine_died_come_back(engines: Pair) -> None:
    first, second = engines
    await register(first, one_task())
    silent = await TestWorker(first, lambda task: TestWorker.HOLD, name="silent").connect()
    run_id = await start(first, "task", {})
    await silent.until(lambda: bool(silent.held))
    for loop in first._loops:  # the process is gone: nothing of it says goodbye
        await loop.stop()
    second.clock.read_us = _later(second.clock.read_us, 700_000_000)  # type: ignore[method-assign]
    second.sessions.wake()
    await TestWorker(second, lambda task: "other", name="alive").connect()
    run = await wait(second, run_id)
    assert run.context["done"] == b'"other"'
    assert not await _complete(second, silent.held[0], "late")
    assert (await show_run(second, run_id)).context["done"] == b'"other"'


def _later(read: Any, by_us: int) -> Any:
    return lambda: read() + by_us


async def test_both_know_each_other_and_divide_the_shards(engines: Pair) -> None:
    first, second = engines
    for engine in (*engines, *engines):
        await engine.members.turn()
    assert set(first.members.live) == {first.engine_id, second.engine_id}
    mine, others = set(first.members.mine), set(second.members.mine)
    assert not mine & others
    assert mine | others == set(range(16))
