"""Random calls of polling workers over some engines: each step is done once, by somebody, and frees all it took.

A seed fixes the calls; how they interleave with what the engines do by themselves is left to the event loop.
"""

from __future__ import annotations

import contextlib
import os
from random import Random

import pytest

from tests.engine.documents import one_task
from tests.engine.plain import CODE, chain
from tests.engine.random_calls import Book, Caller
from tests.engine.served import Served, serving
from windlass.storage.memory import MemoryWorld

#: Which seeds; for more of them than in every run of the tests, WINDLASS_RANDOM_CALLS=first:count.
FIRST, COUNT = (int(part) for part in os.environ.get("WINDLASS_RANDOM_CALLS", "0:16").split(":"))
#: Rounds of polls and results, a second each, in which everything is over once no answer is lost any more.
ROUNDS = 120


async def registered(engine: Served, rnd: Random) -> None:
    timeouts = {"start_to_close": "1h"}
    await engine.register(one_task(timeouts=timeouts))
    await engine.register(one_task("gpu", task={**CODE, "needs": {"gpu": rnd.randint(1, 2)}}, timeouts=timeouts))
    steps = chain(3)
    for state in list(steps["states"].values())[:3]:
        state["timeouts"] = timeouts
    await engine.register(steps)


async def pass_time(engines: list[Served], seconds: float) -> None:
    for each in engines:
        each.advance(seconds)
        await each.engine.sessions.turn()
        await each.engine.deadlines.turn()


async def still_open(engine: Served, runs: set[str]) -> set[str]:
    return {run_id for run_id in runs if not (await engine.run(run_id)).HasField("close_time")}


def taken(engine: Served) -> list[object]:
    """What an engine with nothing to do takes for taken."""
    sessions = engine.engine.dispatch.connected.values()
    units = [s.capacity.used() for s in sessions if s.capacity is not None and any(s.capacity.used().values())]
    return [*units, *(s.held for s in sessions if s.held), *(s.reserved for s in sessions if s.reserved)]


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
async def test_random_calls_do_everything_once(seed: int) -> None:
    rnd, world, book = Random(seed), MemoryWorld(), Book()
    async with contextlib.AsyncExitStack() as stack:
        count = rnd.choice([1, 2, 2, 3])
        engines = [await stack.enter_async_context(serving(world.open())) for _ in range(count)]
        await registered(engines[0], rnd)
        lossy, moves = rnd.choice([0, 0.1, 0.2]), rnd.choice([0, 0.02, 0.1])
        callers = [Caller(f"w{n}", engines, rnd, lossy, book) for n in range(rnd.randint(1, 3))]
        for caller in callers:
            await caller.register()
        await storm(callers, engines, rnd, moves)
        assert not await settled(callers, engines, set(book.runs))
        await pass_time(engines, 11)  # a look at what other engines have ended, and one more
        for _ in range(3):
            await pass_time(engines, 1)
        assert not book.twice()
        assert [taken(each) for each in engines] == [[]] * count


async def storm(callers: list[Caller], engines: list[Served], rnd: Random, moves: float) -> None:
    for _ in range(rnd.randint(60, 200)):
        caller = rnd.choice(callers)
        if rnd.random() < 0.1:
            await pass_time(engines, rnd.choice([0.1, 1, 3]))
        else:
            await caller.anything()
        if rnd.random() < moves:
            await caller.move()


async def settled(callers: list[Caller], engines: list[Served], runs: set[str]) -> set[str]:
    """Go on until all runs are closed; those that are not in the end."""
    for _ in range(ROUNDS):
        for caller in callers * 3:
            await caller.settle()
        if not (runs := await still_open(engines[0], runs)):
            break
        await pass_time(engines, 1)
    return runs
