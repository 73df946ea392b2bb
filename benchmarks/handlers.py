"""The Python handler of the benchmark, for a worker started with `--handlers benchmarks.handlers`."""

from __future__ import annotations

from windlass.runtimes.python_handlers import handler


@handler("bench_double")
async def double(input: float) -> float:
    """Returns at once: measures the engine and the way to the worker, not the work."""
    return input * 2
