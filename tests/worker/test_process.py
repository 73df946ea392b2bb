"""Workers as processes: drained, killed, frozen. What they leave behind is somebody else's to finish, once."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.worker.fake_engine import FakeEngine, Stored
from tests.worker.worker_process import worker_process
from windlass.v1 import worker_service_pb2 as wire

COUNT = b"let n = 0; while (n < input) n++; n"
FOREVER = b"while (true);"
JS = ["javascript"]


async def done(*stored: Stored) -> None:
    for each in stored:
        await asyncio.wait_for(each.done.wait(), 60)


def children_of(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def watched(pids: set[int]) -> list[asyncio.Event]:
    """Events that are set when the processes have ended."""
    loop = asyncio.get_running_loop()
    endings = []
    for pid in pids:
        ended, handle = asyncio.Event(), os.pidfd_open(pid)
        loop.add_reader(handle, partial(note_end, handle, ended))
        endings.append(ended)
    return endings


def note_end(handle: int, ended: asyncio.Event) -> None:
    asyncio.get_running_loop().remove_reader(handle)
    os.close(handle)
    ended.set()


async def test_sigterm_drains_and_exits_with_zero(engine: FakeEngine) -> None:
    async with worker_process(engines=[engine.address], runtimes=JS, slots=2) as process:
        running = engine.submit("javascript", code=COUNT, input=b"20000000")
        await done(engine.submit("javascript", code=COUNT, input=b"1"))  # it came later: the first one runs by now
        process.send_signal(signal.SIGTERM)
        await done(running)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert running.epoch == 1
        assert len(engine.left) == 1


async def test_a_second_sigterm_gives_back_what_runs_at_once(engine: FakeEngine) -> None:
    async with worker_process(engines=[engine.address], runtimes=JS, slots=1) as process:
        running = engine.submit("javascript", code=FOREVER, timeout_s=600)
        await engine.until(lambda: any(m.heartbeat.running for m in engine.messages))
        process.send_signal(signal.SIGTERM)
        await engine.until(lambda: any(m.drain for m in engine.messages))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert [release.reason for release in running.releases] == [wire.RELEASE_REASON_INTERRUPTED]


async def test_a_killed_worker_takes_its_slots_along_and_another_finishes_its_tasks() -> None:
    async with FakeEngine(lease_s=1.5, interval_s=0.3) as engine:
        async with worker_process(engines=[engine.address], runtimes=JS, slots=2, worker_id="doomed") as doomed:
            await done(engine.submit("javascript", code=COUNT, input=b"1"))
            tasks = [engine.submit("javascript", code=COUNT, input=b"%d" % (n * 500_000)) for n in range(8)]
            await engine.until(lambda: any(task.session for task in tasks))
            slots = watched(children_of(doomed.pid))
            assert slots
            doomed.kill()
            async with asyncio.timeout(10):
                await asyncio.gather(*(ended.wait() for ended in slots))
            async with worker_process(engines=[engine.address], runtimes=JS, slots=2, worker_id="heir"):
                await done(*tasks)
        values = [int(task.result.output) for task in tasks if task.result]
        assert values == [n * 500_000 for n in range(8)]


async def test_a_frozen_worker_is_replaced_and_its_late_result_is_refused() -> None:
    async with FakeEngine(lease_s=1.5, interval_s=0.3) as engine:
        async with worker_process(engines=[engine.address], runtimes=JS, slots=1, worker_id="frozen") as frozen:
            await done(engine.submit("javascript", code=COUNT, input=b"1"))
            task = engine.submit("javascript", code=COUNT, input=b"3000000")
            await engine.until(lambda: bool(task.session))
            first = task.session
            os.kill(frozen.pid, signal.SIGSTOP)  # its slot goes on and finishes; the worker cannot say so
            async with worker_process(engines=[engine.address], runtimes=JS, slots=1, worker_id="heir") as heir:
                await done(task)
                assert task.epoch >= 2
                assert task.session != first
                heir.send_signal(signal.SIGTERM)
                assert await heir.wait() == 0
            os.kill(frozen.pid, signal.SIGCONT)
            after = engine.submit("javascript", code=COUNT, input=b"2")
            await done(after)
            assert after.result is not None
            frozen.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(frozen.wait(), 20) == 0
        recorded = [each for each in engine.tasks.values() if each.result]
        assert len(recorded) == len(engine.tasks)


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ({"engines": ["127.0.0.1:9"], "first_contact_s": 0.2, "runtimes": JS}, os.EX_UNAVAILABLE, "no engine at"),
        ({"engines": ["nowhere"]}, os.EX_CONFIG, "--engine takes host:port"),
        ({"slots": 0}, os.EX_CONFIG, "--slots must be between"),
        ({"runtimes": ["cobol"]}, os.EX_CONFIG, "no runtime 'cobol'"),
    ],
)
async def test_a_worker_that_cannot_work_says_why_in_one_line(
    settings: dict[str, object], code: int, message: str
) -> None:
    async with worker_process(**settings) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == code
        last = errors.decode().strip().splitlines()[-1]
        assert last.startswith("windlass worker: ")
        assert message in last
