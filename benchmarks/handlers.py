"""The Python handlers of the benchmarks, for a worker started with `--handlers benchmarks.handlers`."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from windlass.runtimes.python_handlers import handler

#: Where `bench_hold` writes who runs what since when, a line each.
HELD_LOG = "WINDLASS_BENCH_HELD"


@handler("bench_double")
async def double(input: float) -> float:
    """Returns at once: measures the engine and the way to the worker, not the work."""
    return input * 2


@handler("bench_next")
async def following(input: float) -> float:
    """Counts the turns of a loop."""
    return input + 1


@handler("bench_hold")
async def hold(input: int) -> int:
    """Says that it has begun, and stays."""
    with Path(os.environ[HELD_LOG]).open("a") as log:  # noqa: ASYNC230 - one short line
        log.write(f"{input} {os.getpid()} {time.time()}\n")
    await asyncio.sleep(3600)
    return input
