"""A worker is killed under load: how long until all its tasks run elsewhere, beyond the lease that must pass."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from benchmarks.extra.figures import Asked, Figure
from benchmarks.extra.filling import fill, prepare, until
from benchmarks.handlers import HELD_LOG
from benchmarks.load import Batch, started
from benchmarks.processes import Stack, stack
from windlass.client import Client

LEASE_SECONDS = 2.0
#: A worker has at most 1024 slots; it must hold all tasks, also those of the killed one, beside the load.
SIZE_MAX = 480
HOLDING: dict[str, Any] = {
    "workflow": "holding",
    "initial": "hold",
    "states": {"hold": {"task": {"runtime": "python", "handler": "bench_hold"}, "input": {"key": "x"}}},
}


class Begin(NamedTuple):
    """An attempt that a worker began."""

    run: int
    process: int
    at: float


async def recovery(asked: Asked) -> list[Figure]:
    """Two workers hold `size` tasks and serve 64 one-step runs at a time besides; one of them is killed."""
    if asked.size > SIZE_MAX:
        raise SystemExit(f"recovery holds its tasks in one worker's slots: --size is at most {SIZE_MAX}")
    log = asked.directory / "held"
    log.touch()
    os.environ[HELD_LOG] = str(log)
    slots = str(2 * asked.size + 64)
    options = ["--slots", slots, "--runtimes", "python", "--handlers", "benchmarks.handlers", "--drain-seconds", "0"]
    lease = ["--lease-seconds", str(LEASE_SECONDS)]
    with stack(asked.directory, workers=2, worker_options=options, engine_options=lease) as running:
        async with Client(running.address) as client, grpc.aio.insecure_channel(running.address) as channel:
            await prepare(client, running.address, "python", HOLDING)
            await until(lambda: _workers(client, 2))
            for number in range(asked.size):
                await fill(client, "holding", 1, {"x": number})
            await until(lambda: _held(log, asked.size))
            async with started(Batch(channel, "w1", 64)) as loop:
                await asyncio.sleep(asked.seconds)
                late = await _killed(running, log)
                finished, failed = loop.load.finished, loop.load.failed
    if failed:
        raise RuntimeError(f"{failed} of {finished + failed} runs of the load failed")
    made = [
        ("tasks of the killed worker", float(len(late)), "", None),
        ("last of them runs elsewhere, lease subtracted", max(late) * 1000, "ms", 100.0),
        ("half of them, lease subtracted", statistics.median(late) * 1000, "ms", None),
    ]
    return [Figure("recovery", asked.size, *each) for each in made]


async def _workers(client: Client, number: int) -> bool:
    return len([each async for each in client.workers()]) == number


async def _held(log: Path, number: int) -> bool:
    return len(_begins(log)) == number


def _begins(log: Path) -> list[Begin]:
    return [
        Begin(int(run), int(process), float(at)) for run, process, at in map(str.split, log.read_text().splitlines())
    ]


async def _killed(running: Stack, log: Path) -> list[float]:
    """Kill the first worker; for each task it held, the seconds until it ran elsewhere, beyond the lease."""
    before = _begins(log)
    victim = running.workers[0].pid
    lost = {begin.run for begin in before if begin.process == victim}
    if not lost:
        raise RuntimeError("the worker to be killed held no task")
    at = time.time()
    os.kill(victim, signal.SIGKILL)
    running.workers[0].wait()

    async def all_back() -> bool:
        return lost <= {begin.run for begin in _begins(log)[len(before) :]}

    await until(all_back, every=0.05, patience=60)
    back = {begin.run: begin.at for begin in reversed(_begins(log)[len(before) :])}
    return [back[run] - at - LEASE_SECONDS for run in lost]
