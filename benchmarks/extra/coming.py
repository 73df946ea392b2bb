"""How soon there is an engine: from nothing, and after a crash with many open runs."""

from __future__ import annotations

import statistics
import time

from benchmarks.__main__ import ready, worker_options
from benchmarks.extra.figures import Asked, Figure
from benchmarks.extra.filling import fill, prepare, registered, until
from benchmarks.processes import Stack, stack
from windlass.client import Client

#: Starts of a process vary; their median counts.
TRIES = 5


async def cold_start(asked: Asked) -> list[Figure]:
    """Processes that start on a store with a definition in it; `size` is how often."""
    alone: list[float] = []
    together: list[float] = []
    workers: list[float] = []
    options = worker_options(asked.runtime, 0)
    with stack(asked.directory, worker_options=options) as running:
        async with Client(running.address) as client:
            await prepare(client, running.address, asked.runtime)
        for _ in range(asked.size):
            _stop(running)
            running.start_engine()
            alone.append(await _timed_ready(running))
            workers.append(await _timed_worker(running))
            _stop(running)
            began = time.perf_counter()
            running.start_engine()
            running.add_worker()
            await first_completion(running)
            together.append(time.perf_counter() - began)
    made = [
        ("engine's process → it answers", alone),
        ("worker's process → registered", workers),
        ("both processes → first run completed", together),
    ]
    return [Figure("cold-start", asked.size, what, statistics.median(each) * 1000, "ms") for what, each in made]


def _stop(running: Stack) -> None:
    """The workers first: an engine that comes back must not take them for connected."""
    running.stop(*running.workers)
    running.stop()


async def _timed_ready(running: Stack) -> float:
    began = time.perf_counter()
    await ready(running.address)
    return time.perf_counter() - began


async def _timed_worker(running: Stack) -> float:
    async with Client(running.address) as client:
        began = time.perf_counter()
        running.add_worker()
        await until(lambda: registered(client))
        return time.perf_counter() - began


async def first_completion(running: Stack) -> None:
    """A new run to its end, as soon as the engine takes it."""
    await ready(running.address)
    async with Client(running.address) as client:
        await client.start_and_wait("w1", {"x": 1})


async def restart(asked: Asked) -> list[Figure]:
    """The engine is killed with so many runs open, and started again; its worker is there all the time."""
    options = worker_options(asked.runtime, 0)
    with stack(asked.directory, worker_options=options) as running:
        async with Client(running.address) as client:
            await prepare(client, running.address, asked.runtime)
            await fill(client, "waiting", asked.size)
            await until(lambda: registered(client))
        began = await _killed_and_started(running)
        answers = time.perf_counter() - began
        await first_completion(running)
        waiting = time.perf_counter() - began
    found = [
        Figure("restart", asked.size, "open waits: killed engine's start → it answers", answers * 1000, "ms"),
        Figure("restart", asked.size, "open waits: → first run completed", waiting * 1000, "ms", 2000),
    ]
    return [*found, await _restart_with_queue(asked)]


async def _killed_and_started(running: Stack) -> float:
    """Killed as by a crash; when the new process began."""
    running.engine.kill()
    running.engine.wait()
    began = time.perf_counter()
    running.start_engine()
    await ready(running.address)
    return began


async def _restart_with_queue(asked: Asked) -> Figure:
    """All of the open runs have a task in the queue, and the worker starts together with the engine."""
    directory = asked.directory / "queued"
    directory.mkdir()
    with stack(directory, workers=0, worker_options=worker_options(asked.runtime, 0)) as running:
        async with Client(running.address) as client:
            await prepare(client, running.address, asked.runtime)
            await fill(client, "w1", asked.size, {"x": 1})
        running.engine.kill()
        running.engine.wait()
        began = time.perf_counter()
        running.start_engine()
        running.add_worker()
        await ready(running.address)
        async with Client(running.address) as client:
            await until(lambda: _any_completed(client))
        took = time.perf_counter() - began
    what = "queued runs: engine and worker start → first of them completed"
    return Figure("restart", asked.size, what, took * 1000, "ms", 2000)


async def _any_completed(client: Client) -> bool:
    async for _ in client.list(workflow="w1", states=["completed"], page_size=1):
        return True
    return False
