"""Running a worker as a process: signals, exit codes, and the line every minute that says what was done."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import Final

from windlass.runtimes.jail_settings import JailBroken, JailIncomplete
from windlass.worker.composition import composed
from windlass.worker.contact import Unreachable
from windlass.worker.driver import Worker
from windlass.worker.execution import Execution
from windlass.worker.journal import NAME as JOURNAL_NAME
from windlass.worker.journal import Journal, log_to
from windlass.worker.settings import BadSettings, WorkerSettings

#: Exit codes, by the names that sysexits.h gives them.
EXIT_OK: Final = 0
EXIT_UNREACHABLE: Final = os.EX_UNAVAILABLE
EXIT_NO_JAIL: Final = os.EX_OSERR
EXIT_BAD_SETTINGS: Final = os.EX_CONFIG

_DRAIN_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


async def run(settings: WorkerSettings, *, stop: asyncio.Event | None = None) -> int:
    """Run a worker until it is drained. Returns the exit code, after a line on standard error if it is not 0.

    It drains on SIGTERM and SIGINT, and ends at once on the second one. Where the process is somebody else's (`windlass
    dev`, tests), give `stop`: signals are left alone then, and the worker drains when the event is set.
    """
    journal = Journal()
    if stop is None and not logging.getLogger(JOURNAL_NAME).hasHandlers():
        log_to(sys.stderr, level=settings.log_level, as_json=settings.log_json)
    try:
        settings.check()
        async with composed(settings, journal) as worker:
            await _supervised(worker, settings, journal, stop)
    except BadSettings as error:
        return _refused(error, EXIT_BAD_SETTINGS)
    except (JailIncomplete, JailBroken) as error:
        return _refused(error, EXIT_NO_JAIL)
    except Unreachable as error:
        return _refused(error, EXIT_UNREACHABLE)
    journal.info("stopped")
    return EXIT_OK


async def _supervised(worker: Worker, settings: WorkerSettings, journal: Journal, stop: asyncio.Event | None) -> None:
    """Run the worker with its signals and its summaries."""
    loop = asyncio.get_running_loop()
    beside = [loop.create_task(_summaries(worker.execution, journal, settings.summary_s))]
    if stop is not None:
        beside.append(loop.create_task(_drain_when(stop, worker)))
    else:
        for number in _DRAIN_SIGNALS:
            loop.add_signal_handler(number, worker.drain)
    try:
        await worker.run()
    finally:
        if stop is None:
            for number in _DRAIN_SIGNALS:
                loop.remove_signal_handler(number)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


async def _drain_when(stop: asyncio.Event, worker: Worker) -> None:
    await stop.wait()
    worker.drain()


async def _summaries(execution: Execution, journal: Journal, every_s: float) -> None:
    """Say what was done, as long as something was: an idle worker writes nothing."""
    tally = execution.tally
    said, busy_before_s = 0, 0.0
    while every_s > 0:
        await asyncio.sleep(every_s)
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
            busy_s=round(tally.busy_s - busy_before_s, 3),
        )
        busy_before_s = tally.busy_s


def _refused(error: Exception, code: int) -> int:
    print(f"windlass worker: {error}", file=sys.stderr)
    return code
