"""One run that goes on and on: what a step costs at the beginning, in the middle and at the end of its history."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.__main__ import worker_options
from benchmarks.extra.figures import Asked, Figure
from benchmarks.extra.filling import prepare, until
from benchmarks.processes import Stack, cpu_seconds, stack
from windlass.client import Client

COUNTER: dict[str, Any] = {"runtime": "python", "handler": "bench_next"}


def looping(limit: int) -> dict[str, Any]:
    """A run that takes `limit` turns."""
    turn = {
        "task": COUNTER,
        "input": {"key": "x"},
        "output": "x",
        "transitions": [{"on": "success", "when": f"x < {limit}", "to": "turn"}],
    }
    return {"workflow": "looping", "initial": "turn", "states": {"turn": turn}}


@dataclass
class Moment:
    """How far the run was at a time."""

    at: float
    cpu: float
    events: int
    turns: float


async def long_history(asked: Asked) -> list[Figure]:
    """A run grows until it has `size` events, all of them kept; a turn of its loop is one task."""
    options = worker_options("python", 0)
    keeping = ["--history-keep", str(2 * asked.size)]
    with stack(asked.directory, worker_options=options, engine_options=keeping) as running:
        async with Client(running.address) as client:
            await prepare(client, running.address, "python", looping(asked.size))
            run_id = (await client.start("looping", {"x": 0})).run_id
            moments = [await _moment(client, running, run_id)]
            while moments[-1].events < asked.size:
                await asyncio.sleep(min(asked.seconds, 1.0) / 4)
                moments.append(await _moment(client, running, run_id))
            await client.terminate(run_id)
            await until(lambda: _closed(client, run_id))
            pages = [await _page(client, run_id, reverse) for reverse in (False, True)]
    found = [figure for share in (0.05, 0.5, 0.95) for figure in _cost(asked.size, moments, share)]
    found.append(Figure("long-history", asked.size, "events per turn", moments[-1].events / moments[-1].turns, ""))
    for what, seconds in zip(("first", "last"), pages, strict=True):
        found.append(Figure("long-history", asked.size, f"read the {what} 100 events", seconds * 1000, "ms"))
    return found


def _cost(size: int, moments: list[Moment], share: float) -> list[Figure]:
    """Of the steps in the tenth of the history around `share`."""
    within = [each for each in moments if abs(each.events / size - share) <= 0.05]
    if len(within) < 2 or within[0].turns == within[-1].turns:
        return []
    turns = within[-1].turns - within[0].turns
    where = f"at event {round(share * size):,}"
    return [
        Figure("long-history", size, f"a step {where}", (within[-1].at - within[0].at) / turns * 1e6, "µs"),
        Figure("long-history", size, f"engine's CPU {where}", (within[-1].cpu - within[0].cpu) / turns * 1e6, "µs"),
    ]


async def _moment(client: Client, running: Stack, run_id: str) -> Moment:
    run = await client.get(run_id)
    turns = float(run.context.get("x", b"0"))
    return Moment(time.perf_counter(), cpu_seconds(running.engine.pid), run.last_event_number, turns)


async def _page(client: Client, run_id: str, reverse: bool) -> float:
    began = time.perf_counter()
    events = client.history(run_id, reverse=reverse, page_size=100)
    for _ in range(100):
        await anext(events)
    return time.perf_counter() - began


async def _closed(client: Client, run_id: str) -> bool:
    return (await client.get(run_id)).HasField("close_time")
