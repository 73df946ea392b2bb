"""Many runs that stand: a backlog that is drained, and waits that should cost nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.__main__ import worker_options
from benchmarks.extra.figures import Asked, Figure
from benchmarks.extra.filling import fill, prepare, registered, starts, until
from benchmarks.processes import Stack, cpu_seconds, rss_mb, stack
from windlass.client import Client


async def backlog(asked: Asked) -> list[Figure]:
    """So many one-step runs are queued while there is no worker; then one comes."""
    options = worker_options(asked.runtime, 0)
    with stack(asked.directory, workers=0, worker_options=options) as running:
        async with Client(running.address) as client:
            await prepare(client, running.address, asked.runtime)
            queued, drained, used = await _queued_and_drained(client, running, asked.size)
    per_run = 1e6 / asked.size
    made = [
        ("runs queued per second", asked.size / queued, "/s"),
        ("runs done per second, from the worker's start", asked.size / drained, "/s"),
        ("CPU of the engine to queue a run", used[0] * per_run, "µs"),
        ("CPU of the engine to drain a run", used[1] * per_run, "µs"),
    ]
    return [Figure("backlog", asked.size, what, value, unit) for what, value, unit in made]


async def _queued_and_drained(client: Client, running: Stack, size: int) -> tuple[float, float, tuple[float, float]]:
    """Seconds of each half, and the engine's CPU seconds in each."""
    accepted = done = 0
    cpu = [cpu_seconds(running.engine.pid)]
    times = [time.perf_counter()]
    async for outcome in client.stream(starts(client, "w1", size, {"x": 1}), wait=True, open_max=size + 1):
        if outcome.error is not None:
            raise RuntimeError(f"a start was refused: {outcome.error}")
        accepted += outcome.started is not None
        done += outcome.result is not None
        if accepted == size and len(times) == 1:
            times.append(time.perf_counter())
            cpu.append(cpu_seconds(running.engine.pid))
            running.add_worker()
    if done != size:
        raise RuntimeError(f"{done:,} of {size:,} runs ended")
    times.append(time.perf_counter())
    cpu.append(cpu_seconds(running.engine.pid))
    return times[1] - times[0], times[2] - times[1], (cpu[1] - cpu[0], cpu[2] - cpu[1])


async def open_waits(asked: Asked) -> list[Figure]:
    """An engine with so many runs in a wait, and one idle worker."""
    with stack(asked.directory, worker_options=worker_options(asked.runtime, 0)) as running:
        async with Client(running.address) as client:
            await prepare(client, running.address, asked.runtime)
            fresh = rss_mb(running.engine.pid)
            seconds = await fill(client, "waiting", asked.size)
            await until(lambda: registered(client))
        pid = running.engine.pid
        await asyncio.sleep(asked.seconds / 10)  # what the load left to do, such as freeing pages
        before = cpu_seconds(pid)
        await asyncio.sleep(asked.seconds)
        idle = (cpu_seconds(pid) - before) / asked.seconds * 100
        own, all_of_it = rss_mb(pid), resident_mb(pid)
    made = [
        ("CPU of the idle engine", idle, "% of a core", 1.0),
        ("own memory of the engine", own, "MB", 300.0),
        ("own memory before", fresh, "MB", None),
        ("resident memory with the mapped file", all_of_it, "MB", None),
        ("runs brought into the wait per second", asked.size / seconds, "/s", None),
    ]
    return [Figure("open-waits", asked.size, *each) for each in made]


def resident_mb(pid: int) -> float:
    """Resident memory, with the pages of the store's file that the kernel keeps for everybody."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024
