"""An engine that ends, in good order or not, and another one that goes on with its store: the embedded one, strict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.engine.cluster import TestWorker, register, show_run, start, wait
from tests.engine.documents import delayed, one_task, waiting
from tests.engine.served import DAY, FakeClock
from windlass.definition.compile import compile_canonical
from windlass.engine.core.commands import Signal
from windlass.engine.core.events import AttemptEnded
from windlass.engine.core.limits import AWAY_MAX, CRASHES_MAX
from windlass.engine.engine import Engine, Options
from windlass.engine.reading import history
from windlass.storage.opening import open_embedded
from windlass.storage.port import Storage
from windlass.v1 import common_pb2


class Machine:
    """One data directory, and the engine that has it open."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.clock = directory, FakeClock()
        self.engine: Engine = None  # type: ignore[assignment]
        self.store: Storage = None  # type: ignore[assignment]

    async def start(self) -> Engine:
        self.store = open_embedded(self.directory, strict=True)
        self.engine = Engine(self.store, compile_canonical, clock=self.clock, options=Options(lease_us=5_000_000))
        await self.engine.start()
        return self.engine

    async def stop(self) -> None:
        await self.engine.stop()
        await self.store.close()

    async def die(self) -> None:
        """The process is gone: no loop ends its turn in good order, nothing is given back."""
        for loop in self.engine._loops:
            await loop.stop()
        await self.store.close()

    async def types(self, run_id: str) -> list[str]:
        found = await self.store.read(lambda tr: history(tr, "default", run_id, limit=1000))
        return [type(each.event).__name__ for each in found]


async def restarted(directory: Path, before: Callable[[Machine], Any], died: bool) -> tuple[Machine, Any]:
    machine = Machine(directory)
    await machine.start()
    left = await before(machine)
    await (machine.die() if died else machine.stop())
    await machine.start()
    return machine, left


async def test_overdue_timers_fire_in_order_after_the_downtime(tmp_path: Path) -> None:
    async def before(machine: Machine) -> list[str]:
        runs = []
        for name, span in (("c", "3h"), ("a", "1h"), ("b", "2h")):
            await register(machine.engine, delayed(span, name))
            runs.append(await start(machine.engine, name, {}))
        machine.clock.at_us += DAY
        return runs

    machine, runs = await restarted(tmp_path, before, died=True)
    closed = {name: await wait(machine.engine, run_id) for name, run_id in zip("cab", runs, strict=True)}
    times = {name: (run.close_time.seconds, run.close_time.nanos) for name, run in closed.items()}
    assert times["a"] <= times["b"] <= times["c"]
    for run_id in runs:
        assert (await machine.types(run_id)).count("RunClosed") == 1
    await machine.stop()


async def test_tasks_of_workers_that_never_came_back_go_to_others(tmp_path: Path) -> None:
    async def before(machine: Machine) -> str:
        await register(machine.engine, one_task())
        worker = await TestWorker(machine.engine, lambda task: TestWorker.HOLD).connect()
        run_id = await start(machine.engine, "task", {})
        await worker.until(lambda: bool(worker.held))
        return run_id

    machine, run_id = await restarted(tmp_path, before, died=True)
    # A worker that registers before the first look must not hide the sessions of the time before.
    await TestWorker(machine.engine, lambda task: "by another", name="other").connect()
    machine.clock.at_us += 4_000_000
    await machine.engine.sessions.turn()
    other = next(iter(machine.engine.dispatch.connected))
    machine.clock.at_us += 2_000_000
    await machine.engine.sessions.renew(other)
    machine.engine.sessions.wake()
    assert (await wait(machine.engine, run_id)).context["done"] == b'"by another"'
    await machine.stop()


async def held_by_a_worker(machine: Machine, **more: Any) -> str:
    await register(machine.engine, one_task(**more))
    worker = await TestWorker(machine.engine, lambda task: TestWorker.HOLD).connect()
    run_id = await start(machine.engine, "task", {})
    await worker.until(lambda: bool(worker.held))
    return run_id


async def away(machine: Machine, **more: Any) -> str:
    """A task under way, and no engine for much longer than its worker's lease."""
    run_id = await held_by_a_worker(machine, **more)
    machine.clock.at_us += DAY
    return run_id


async def ends(machine: Machine, run_id: str) -> list[tuple[str, str]]:
    """How the run's attempts ended that were not the last: why, and with which code."""
    found = await machine.store.read(lambda tr: history(tr, "default", run_id, limit=1000))
    events = [each.event for each in found if isinstance(each.event, AttemptEnded)]
    return [(event.why, event.failure.code if event.failure else "") for event in events]


async def test_a_lease_that_ran_out_while_no_engine_was_there_is_no_crash(tmp_path: Path) -> None:
    machine, run_id = await restarted(tmp_path, lambda machine: away(machine, retry="none"), died=True)
    await TestWorker(machine.engine, lambda task: "by another", name="other").connect()
    assert (await wait(machine.engine, run_id)).context["done"] == b'"by another"'
    assert await ends(machine, run_id) == [("returned", "ENGINE_AWAY")]
    await machine.stop()


async def test_an_at_most_once_task_that_was_under_way_then_is_not_run_again(tmp_path: Path) -> None:
    task = {"runtime": "javascript", "code": "input", "at_most_once": True}
    machine, run_id = await restarted(tmp_path, lambda machine: away(machine, task=task), died=True)
    await machine.engine.sessions.maintain(1)
    assert (await show_run(machine.engine, run_id)).state == common_pb2.RUN_STATE_INCIDENT
    assert await ends(machine, run_id) == [("crashed", "LEASE_LOST")]
    await machine.stop()


async def test_a_lease_that_had_a_moment_left_is_no_crash_either(tmp_path: Path) -> None:
    """The worker had no whole lease's time to come back."""
    machine, run_id = await restarted(tmp_path, lambda machine: held_by_a_worker(machine, retry="none"), died=True)
    machine.clock.at_us += 6_000_000
    await machine.engine.sessions.maintain(1)
    assert await ends(machine, run_id) == [("returned", "ENGINE_AWAY")]
    await machine.stop()


async def test_a_worker_that_has_come_back_and_falls_silent_has_crashed(tmp_path: Path) -> None:
    machine, run_id = await restarted(tmp_path, lambda machine: held_by_a_worker(machine, retry="none"), died=True)
    (record,) = await machine.engine.sessions.all()
    machine.clock.at_us += 3_000_000
    await machine.engine.sessions.renew(record.session)
    machine.clock.at_us += 6_000_000
    await machine.engine.sessions.maintain(1)
    assert await ends(machine, run_id) == [("crashed", "CRASH_LOOP")]
    await machine.stop()


async def test_a_worker_that_comes_back_in_time_goes_on_after_a_restart(tmp_path: Path) -> None:
    held: list[TestWorker] = []

    async def before(machine: Machine) -> str:
        await register(machine.engine, one_task())
        worker = await TestWorker(machine.engine, lambda task: TestWorker.HOLD).connect()
        held.append(worker)
        run_id = await start(machine.engine, "task", {})
        await worker.until(lambda: bool(worker.held))
        return run_id

    machine, run_id = await restarted(tmp_path, before, died=True)
    again = TestWorker(machine.engine, lambda task: TestWorker.HOLD)
    again.held = held[0].held
    await again.connect(resume=held[0].session_id)
    await again.until(lambda: bool(again.session_id))
    assert again.session_id == held[0].session_id
    again.finish(again.held[0], "after the restart")
    assert (await wait(machine.engine, run_id)).context["done"] == b'"after the restart"'
    assert (await machine.types(run_id)).count("AttemptStarted") == 1
    await machine.stop()


async def test_what_waited_waits_on(tmp_path: Path) -> None:
    async def before(machine: Machine) -> list[str]:
        await register(machine.engine, waiting())
        await register(machine.engine, one_task())
        return [await start(machine.engine, "wait", {}), await start(machine.engine, "task", {})]

    for died in (False, True):
        machine, (waits, queued) = await restarted(tmp_path / str(died), before, died)
        await machine.engine.transition.give("default", waits, Signal(name="go", payload=b"1"))
        await TestWorker(machine.engine, lambda task: 1).connect()
        for run_id in (waits, queued):
            assert (await wait(machine.engine, run_id)).state == common_pb2.RUN_STATE_COMPLETED
        await machine.stop()


async def test_a_task_that_ends_worker_and_engine_again_and_again_is_parked_at_last(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    await machine.start()
    run_id = await away(machine)
    for _ in range(AWAY_MAX + CRASHES_MAX):
        await machine.die()
        await machine.start()
        await machine.engine.sessions.maintain(1)
        if (await show_run(machine.engine, run_id)).state == common_pb2.RUN_STATE_INCIDENT:
            break
        machine.clock.at_us += DAY
        worker = await TestWorker(machine.engine, lambda task: TestWorker.HOLD).connect()
        await worker.until(lambda worker=worker: bool(worker.held))  # type: ignore[misc]
        machine.clock.at_us += DAY
    whys = [why for why, _ in await ends(machine, run_id)]
    assert whys == ["returned"] * AWAY_MAX + ["crashed"] * len(whys[AWAY_MAX:])
    assert (await show_run(machine.engine, run_id)).state == common_pb2.RUN_STATE_INCIDENT
    await machine.stop()
