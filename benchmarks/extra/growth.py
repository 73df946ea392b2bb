"""What a run costs when there are many others: it must not depend on how many are open, or were ever closed."""

from __future__ import annotations

import statistics

import grpc

from benchmarks.__main__ import worker_options
from benchmarks.extra.figures import Asked, Figure
from benchmarks.extra.filling import fill, prepare
from benchmarks.load import Batch, started
from benchmarks.processes import Stack, cpu_seconds, rss_mb, stack
from windlass.client import Client

WINDOWS = 3
IN_FLIGHT = 64


async def growth(asked: Asked) -> list[Figure]:
    """The cost of a one-step run beside 0 and then each of `sizes` open runs, and likewise closed ones."""
    found: list[Figure] = []
    for what, workflow in (("open", "waiting"), ("closed", "instant")):
        directory = asked.directory / what
        directory.mkdir()
        with stack(directory, worker_options=worker_options(asked.runtime, 0)) as running:
            async with Client(running.address) as client:
                await prepare(client, running.address, asked.runtime)
                there = 0
                for size in (0, *sorted(asked.sizes)):
                    await fill(client, workflow, size - there)
                    there = size
                    found += await _beside(running, asked, size, what)
    return found


async def _beside(running: Stack, asked: Asked, size: int, what: str) -> list[Figure]:
    costs: list[float] = []
    rates: list[float] = []
    async with grpc.aio.insecure_channel(running.address) as channel, started(Batch(channel, "w1", IN_FLIGHT)) as loop:
        length = await loop.warm(asked.seconds)
        for _ in range(WINDOWS):
            before = cpu_seconds(running.engine.pid)
            load = await loop.window(length)
            costs.append((cpu_seconds(running.engine.pid) - before) * 1e6 / max(load.finished, 1))
            rates.append(load.rate)
    beside = f"beside {what} runs"
    return [
        Figure("growth", size, f"engine's CPU per one-step run {beside}", statistics.median(costs), "µs"),
        Figure("growth", size, f"one-step runs {beside}", statistics.median(rates), "/s"),
        Figure("growth", size, f"own memory {beside}", rss_mb(running.engine.pid), "MB"),
    ]
