"""A worker inside some program: a process of its own, a scheduler's job, a serverless function.

Theory of operation. A worker's life has three ends: it is drained from outside (`stop`), its errand is done, or the
program that hosts it is in a hurry and cancels it. Each ends the session in good order, so that nothing stays leased:
what runs is finished or given back, and the engine is told. An *errand* is what a host came for: one task, or whatever
there is. No engine can say "that was all", since new work may come at any moment; so "nothing there" means that a
worker with free slots and an engine at hand was given nothing for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from windlass.worker.composition import composed
from windlass.worker.contact import Unreachable
from windlass.worker.driver import Worker
from windlass.worker.execution import Execution
from windlass.worker.journal import Journal
from windlass.worker.settings import WorkerSettings

#: How long to wait for the one task, and how long nothing must come before a queue counts as empty, unless told.
WAIT_FOR_ONE_S: Final = 20.0
WAIT_FOR_MORE_S: Final = 1.0


@dataclass(frozen=True)
class Errand:
    """What a worker does before it ends by itself."""

    most: int = 0  #: tasks in all; 0 = as many as there are
    wait_s: float = WAIT_FOR_MORE_S  #: it also ends when it has had nothing to do for this long


@dataclass(frozen=True)
class Done:
    """What a worker did. What counts in the end is the run's history: a result may have come too late to be taken."""

    started: int = 0
    succeeded: int = 0
    failed: int = 0
    released: int = 0  #: given back unfinished
    dropped: int = 0  #: stopped, because the lease was lost or nobody wanted the result any more
    failures: dict[str, int] = field(default_factory=dict)  #: failed ones, by code
    denied: dict[str, int] = field(default_factory=dict)  #: what sandboxes refused, by kind: file, network, address …


async def handle_one(
    settings: WorkerSettings, *, wait_s: float = WAIT_FOR_ONE_S, stop: asyncio.Event | None = None
) -> Done:
    """Take one task, answer it, and end. `started` is 0 if none came within `wait_s` seconds.

    For serverless functions. Setting `stop`, or cancelling this call, gives back what is not done. Raises BadSettings,
    JailIncomplete, JailBroken, Unreachable.
    """
    errand = Errand(most=1, wait_s=wait_s)
    return await host(settings, Journal(), stop or asyncio.Event(), errand)


async def handle_available(
    settings: WorkerSettings, *, wait_s: float = WAIT_FOR_MORE_S, stop: asyncio.Event | None = None
) -> Done:
    """Do the tasks that are there, and end when none has come for `wait_s` seconds. Otherwise as `handle_one`."""
    return await host(settings, Journal(), stop or asyncio.Event(), Errand(wait_s=wait_s))


@contextlib.asynccontextmanager
async def beside(settings: WorkerSettings, journal: Journal | None = None) -> AsyncIterator[Worker]:
    """A worker beside what else a program does: it is there when the block begins, and drains when the block ends.

    For programs that start runs themselves: `client.start(..., eager=worker)` has a run's first task done right here.
    Cancelling the block gives back at once what is not done. Raises BadSettings, JailIncomplete, JailBroken,
    Unreachable.
    """
    settings.check()
    async with composed(settings, journal or Journal()) as worker:
        running = asyncio.create_task(worker.run())
        contact = asyncio.create_task(worker.contact.wait())
        try:
            await asyncio.wait((running, contact), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():  # else it never got to work, and says why below
                yield worker
        except asyncio.CancelledError:
            worker.drain()  # and once more below, which is a hurry
            raise
        finally:
            contact.cancel()
            worker.drain()
            await running


async def host(
    settings: WorkerSettings,
    journal: Journal,
    stop: asyncio.Event,
    errand: Errand | None = None,
    signals: Sequence[int] = (),
) -> Done:
    """Run a worker until `stop` is set or the errand is done. It also drains on these signals, on the second at once.

    Raises BadSettings, JailIncomplete, JailBroken, Unreachable.
    """
    settings.check()
    if errand and errand.most:
        settings = dataclasses.replace(settings, slots=min(settings.slots, errand.most))
    async with composed(settings, journal, most=errand.most if errand else 0) as worker:
        beside = [_summaries(worker.execution, journal, settings.summary_s), _drain_when(stop, worker)]
        lost: list[Unreachable] = []
        if errand is not None:
            beside.append(_end_when_quiet(worker, settings, errand.wait_s, lost))
        with _draining_on(signals, worker):
            await _accompanied(worker, beside)
        if lost:
            raise lost[0]
        return _done(worker.execution)


@contextlib.contextmanager
def _draining_on(signals: Sequence[int], worker: Worker) -> Iterator[None]:
    """Not by the loop's own handlers, which end with the loop: a signal that comes when all is done would then kill."""
    loop = asyncio.get_running_loop()
    for number in signals:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(worker.drain))
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)


async def _accompanied(worker: Worker, beside: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run the worker, and what goes on beside it as long as it runs."""
    running = asyncio.create_task(worker.run())
    tasks = [asyncio.create_task(each) for each in beside]
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:  # the host has no time left: everything goes back at once
        if not running.done():
            worker.drain()
            worker.drain()
            await asyncio.gather(running, return_exceptions=True)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drain_when(stop: asyncio.Event, worker: Worker) -> None:
    await stop.wait()
    worker.drain()


async def _end_when_quiet(worker: Worker, settings: WorkerSettings, wait_s: float, lost: list[Unreachable]) -> None:
    """End the worker once it has had an engine and no task for `wait_s`; `lost` gets the error if the engine is gone.

    That no engine answers at the start is the worker's own to find out.
    """
    await worker.contact.wait()
    while True:
        if not await _within(settings.first_contact_s or None, worker.contact.wait()):
            lost.append(Unreachable(f"the engine at {', '.join(settings.engines)} went away and did not come back"))
            break
        await worker.idle.wait()
        if not await _within(wait_s, _first_of(worker.busy, worker.alone)):
            break
    if lost:
        worker.drain()
        worker.drain()
    else:
        worker.finish()


async def _within(seconds: float | None, happening: Coroutine[Any, Any, object]) -> bool:
    """Whether it happens in this time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await happening
            return True
    return False


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


async def _summaries(execution: Execution, journal: Journal, every_s: float) -> None:
    """Say what was done, as long as something was: an idle worker writes nothing."""
    said, busy_before_s = 0, 0.0
    while every_s > 0:
        await asyncio.sleep(every_s)
        tally = execution.tally
        if tally.started == said:
            continue
        said = tally.started
        journal.info(
            "worked",
            tasks=tally.started,
            succeeded=tally.succeeded,
            failed=sum(tally.failed.values()),
            failures=",".join(f"{code}:{count}" for code, count in sorted(tally.failed.items())) or "none",
            released=tally.released,
            dropped=tally.dropped,
            denied=",".join(f"{kind}:{count}" for kind, count in sorted(tally.denied.items())) or "none",
            busy_s=round(tally.busy_s - busy_before_s, 3),
        )
        busy_before_s = tally.busy_s


def _done(execution: Execution) -> Done:
    tally = execution.tally
    return Done(
        started=tally.started,
        succeeded=tally.succeeded,
        failed=sum(tally.failed.values()),
        released=tally.released,
        dropped=tally.dropped,
        failures=dict(sorted(tally.failed.items())),
        denied=dict(sorted(tally.denied.items())),
    )
