"""Running a worker as a process: signals and exit codes. `windlass.worker.hosting` is the worker inside it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from typing import Final

from windlass.runtimes.jail_settings import JailBroken, JailIncomplete
from windlass.runtimes.python import THREADS_NAME
from windlass.worker.contact import Refused, Unreachable
from windlass.worker.hosting import Done, Errand, host
from windlass.worker.journal import NAME as JOURNAL_NAME
from windlass.worker.journal import Journal, log_to
from windlass.worker.settings import BadSettings, WorkerSettings

#: Exit codes, by the names that sysexits.h gives them.
EXIT_OK: Final = 0
EXIT_UNREACHABLE: Final = os.EX_UNAVAILABLE
EXIT_NO_JAIL: Final = os.EX_OSERR
EXIT_BAD_SETTINGS: Final = os.EX_CONFIG
EXIT_NO_TASK: Final = os.EX_TEMPFAIL  #: of an errand for one task: none came in time

#: Tasks leave hardly any circles behind, and with Python's own setting looking for them took a fifth of the CPU.
_GC_THRESHOLD: Final = (50_000, 20, 50)
#: How long the threads of the pool that have nothing to do may take to end.
_IDLE_THREADS_S: Final = 0.1
_DRAIN_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


async def run(settings: WorkerSettings, *, stop: asyncio.Event | None = None) -> int:
    """Run a worker until it is drained. Returns the exit code, after a line on standard error if it is not 0.

    It drains on SIGTERM and SIGINT, and ends at once on the second one. Where the process is somebody else's (`windlass
    dev`, tests), give `stop`: signals are left alone then, and the worker drains when the event is set.
    """
    return (await run_errand(settings, None, stop=stop))[0]


async def run_errand(
    settings: WorkerSettings, errand: Errand | None, *, stop: asyncio.Event | None = None
) -> tuple[int, Done]:
    """The same, until the errand is done. Returns the exit code and what was done."""
    journal = Journal()
    if stop is None and not logging.getLogger(JOURNAL_NAME).hasHandlers():
        log_to(sys.stderr, level=settings.log_level, as_json=settings.log_json)
    if stop is None:
        gc.set_threshold(*_GC_THRESHOLD)
    try:
        signals = _DRAIN_SIGNALS if stop is None else ()
        done = await host(settings, journal, stop or asyncio.Event(), errand, signals)
    except BadSettings as error:
        return _refused(error, EXIT_BAD_SETTINGS), Done()
    except (JailIncomplete, JailBroken) as error:
        return _refused(error, EXIT_NO_JAIL), Done()
    except Refused as error:
        return _refused(error, EXIT_BAD_SETTINGS), Done()
    except Unreachable as error:
        return _refused(error, EXIT_UNREACHABLE), Done()
    journal.info("stopped")
    return EXIT_NO_TASK if errand and errand.most and not done.started else EXIT_OK, done


def leave(code: int) -> None:
    """End the process now if threads of synchronous handlers still run; return if there are none.

    Python waits for such threads before it ends, and nobody can end them from outside: a handler that hangs would keep
    a drained worker for ever. Their tasks are given back or failed by now, so nothing that they do is wanted.
    """
    left = [thread for thread in threading.enumerate() if thread.name.startswith(THREADS_NAME)]
    until_s = time.monotonic() + _IDLE_THREADS_S
    for thread in left:
        thread.join(max(0.0, until_s - time.monotonic()))
    if not (stuck := sum(thread.is_alive() for thread in left)):
        return
    Journal().warning("ending though synchronous handlers still run", threads=stuck)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _refused(error: Exception, code: int) -> int:
    print(f"windlass worker: {error}", file=sys.stderr)
    return code
