"""Workers that do one task, or what there is, and end: nothing stays leased, however they end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.engine.documents import one_task
from tests.engine.served import serving
from tests.runtimes.guests import BURGLAR, assemble
from tests.worker.fake_engine import FakeEngine, seconds
from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.actions import Start
from windlass.worker.contact import Unreachable
from windlass.worker.hosting import Done, Errand, handle_available, handle_one
from windlass.worker.main import EXIT_NO_TASK, EXIT_OK, run_errand
from windlass.worker.session import Session
from windlass.worker.settings import BadSettings, WorkerSettings

FOREVER = b"while (true);"


def settings(address: str, **more: Any) -> WorkerSettings:
    return WorkerSettings(engines=(address,), **{"runtimes": ("javascript",), **more})


def registered(session: Session) -> None:
    session.opened(0.0)
    reply = wire.RegisterWorkerResponse(session_id="s1", lease_duration=seconds(10), heartbeat_interval=seconds(2))
    session.received(wire.StreamTasksResponse(registered=reply), 0.0)


def test_a_session_for_one_task_asks_for_one_and_gives_back_another() -> None:
    session = Session(wire.RegisterWorkerRequest(worker_id="w"), capacity=8, most=1)
    registered(session)
    asked = session.outgoing()
    assert asked is not None
    assert asked.credits == 1
    tasks = [wire.Task(task_token=b"a"), wire.Task(task_token=b"b")]  # the second was meant for an earlier stream
    assert session.received(wire.StreamTasksResponse(tasks=tasks), 0.0) == [Start(tasks[0])]
    session.answered(wire.TaskResult(task_token=b"a", output=b"1"))
    last = session.outgoing()
    assert last is not None
    assert ([each.task_token for each in last.results], [each.task_token for each in last.releases]) == ([b"a"], [b"b"])
    assert (last.drain, last.credits) == (True, 0)


def test_a_session_for_few_tasks_asks_for_no_more_after_a_reconnect() -> None:
    session = Session(wire.RegisterWorkerRequest(worker_id="w"), capacity=8, most=3)
    registered(session)
    assert session.outgoing() is not None
    session.received(wire.StreamTasksResponse(tasks=[wire.Task(task_token=b"a"), wire.Task(task_token=b"b")]), 0.0)
    session.lost()
    registered(session)
    again = session.outgoing()
    assert again is not None
    assert again.credits == 1


async def test_one_task_is_done_and_the_session_ended(engine: FakeEngine) -> None:
    first, second = (engine.submit("javascript", code=b"input + 1", input=b"%d" % n) for n in (1, 2))
    assert await handle_one(settings(engine.address, slots=4)) == Done(started=1, succeeded=1)
    assert first.result is not None
    assert first.result.output == b"2"
    assert (second.result, second.session, engine.sessions) == (None, "", {})


async def test_no_task_within_the_wait(engine: FakeEngine) -> None:
    assert await handle_one(settings(engine.address), wait_s=0.05) == Done()
    assert len(engine.left) == 1
    code, done = await run_errand(settings(engine.address), Errand(most=1, wait_s=0.05), stop=asyncio.Event())
    assert (code, done) == (EXIT_NO_TASK, Done())
    code, _ = await run_errand(settings(engine.address), Errand(wait_s=0.05), stop=asyncio.Event())
    assert code == EXIT_OK


async def test_what_there_is_is_done_and_counted(engine: FakeEngine) -> None:
    good = [engine.submit("javascript", code=b"input * 2", input=b"%d" % n) for n in range(30)]
    bad = [engine.submit("javascript", code=b"throw new Error('no')") for _ in range(3)]
    done = await handle_available(settings(engine.address), wait_s=0.5)
    assert (done.succeeded, done.failed, done.dropped) == (30, 3, 0)
    assert done.started == 33 + done.released
    assert done.failures == {"USER_ERROR": 3}
    assert all(each.result for each in (*good, *bad))
    assert engine.sessions == {}


async def test_what_sandboxes_refuse_is_told_and_counted(engine: FakeEngine) -> None:
    stored = engine.submit("wasm", code=assemble(BURGLAR))
    done = await handle_available(settings(engine.address, runtimes=("wasm",)), wait_s=0.5)
    assert (done.succeeded, done.denied) == (1, {"file": 3})
    assert stored.result is not None
    denial = wire.TaskDenial(kind="file", call="path_open", argument="/etc/passwd", count=3)
    assert list(stored.result.denials) == [denial]
    assert stored.result.usage.wall_time.ToMicroseconds() > 0
    assert stored.result.usage.memory_bytes == 2 << 16


async def test_a_host_that_is_told_to_stop_waits_for_nothing(engine: FakeEngine) -> None:
    stop = asyncio.Event()
    hosted = asyncio.create_task(handle_one(settings(engine.address), wait_s=600, stop=stop))
    await engine.until(lambda: any(message.credits for message in engine.messages))
    stop.set()
    assert await asyncio.wait_for(hosted, 10) == Done()
    assert len(engine.left) == 1


async def test_a_host_without_time_gives_back_what_runs(engine: FakeEngine) -> None:
    endless = engine.submit("javascript", code=FOREVER, timeout_s=600)
    hosted = asyncio.create_task(handle_available(settings(engine.address, slots=1)))
    await engine.until(lambda: any(message.heartbeat.running for message in engine.messages))
    hosted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hosted
    assert [release.reason for release in endless.releases] == [wire.RELEASE_REASON_INTERRUPTED]
    assert engine.sessions == {}


async def test_an_engine_that_goes_away_for_good_is_not_waited_for(engine: FakeEngine) -> None:
    chosen = settings(engine.address, first_contact_s=0.3)
    hosted = asyncio.create_task(handle_one(chosen, wait_s=600))
    await engine.until(lambda: any(message.credits for message in engine.messages))
    await engine.stop()
    with pytest.raises(Unreachable, match="went away"):
        await asyncio.wait_for(hosted, 20)


async def test_a_host_with_wrong_settings_says_so() -> None:
    with pytest.raises(BadSettings, match="--slots"):
        await handle_available(WorkerSettings(slots=0))


async def test_the_engine_holds_nothing_for_a_worker_that_is_gone() -> None:
    async with serving(lease_us=60_000_000) as served:
        await served.register(one_task())
        runs = [await served.start("task", {"n": n}) for n in range(3)]
        address = served.address
        assert await handle_one(settings(address)) == Done(started=1, succeeded=1)
        assert await served.engine.sessions.all() == []
        done = await handle_available(settings(address), wait_s=0.5)
        assert (done.succeeded, done.failed) == (2, 0)
        assert [bool((await served.closed(run)).output) for run in runs] == [True] * 3
        assert await served.engine.sessions.all() == []
