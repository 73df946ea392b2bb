"""What must not grow: the record of a run that loops, and the work of an engine whose runs only wait."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.engine.cluster import register, running_engine, show_run, start
from tests.engine.documents import waiting
from windlass.engine import keys
from windlass.engine.core.commands import Signal
from windlass.engine.starting import StartPlan
from windlass.engine.starting import start as start_run
from windlass.v1 import common_pb2

LOOP: dict[str, Any] = {
    "workflow": "loop",
    "initial": "step",
    "states": {
        "step": {
            "enter": [{"set": {"n": "${n}"}}],
            "wait": "next",
            "output": "last",
            "transitions": [{"on": "success", "to": "step"}],
        }
    },
}
#: More for a long look: a million takes a while.
ROUNDS = int(os.environ.get("WINDLASS_LOOP_ROUNDS", "20000"))
SOME = 2_000  #: rounds between two looks
#: What the heap may grow by from the second quarter of the rounds to their second half, in bytes. It goes up and
#: down by about as much, as the history of the run is written and compacted.
GROWTH_BYTES = 400_000
WAITS = 10_000


@pytest.mark.timeout(60 + ROUNDS / 100)
async def test_the_record_of_a_looping_run_keeps_its_size() -> None:
    async with running_engine() as engine:
        await register(engine, LOOP)
        run_id = await start(engine, "loop", {"n": 0})
        sizes, heaps = set(), []
        with _heap_counted():
            for at in range(0, ROUNDS, SOME):
                for number in range(at, at + SOME):
                    payload = str(number % 10).encode()
                    await engine.transition.give("default", run_id, Signal(name="next", payload=payload))
                sizes.add(await _record_bytes(engine, run_id))
                gc.collect()
                heaps.append(tracemalloc.get_traced_memory()[0])
        quarter = len(heaps) // 4
        grown = max(heaps[2 * quarter :]) - max(heaps[quarter : 2 * quarter + 1])
        print(f"{ROUNDS} rounds: the heap was {max(heaps)} bytes at most and grew by {grown}")
        assert grown < GROWTH_BYTES, heaps
        run = await show_run(engine, run_id)
        assert run.visit == ROUNDS + 1
        assert max(sizes) - min(sizes) <= 16  # a counter gains a digit
        assert max(sizes) < 1500


@contextlib.contextmanager
def _heap_counted() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


async def _record_bytes(engine: Any, run_id: str) -> int:
    return len(await engine.storage.read(lambda tr: tr.get(keys.run("default", run_id))))


async def test_ten_thousand_open_waits_cost_no_time() -> None:
    async with running_engine() as engine:
        await register(engine, waiting())
        plan = StartPlan(namespace="default", workflow="wait", run_id="", input=b"{}")
        for at in range(0, WAITS, 250):

            async def some(unit: Any, at: int = at) -> None:
                for number in range(at, at + 250):
                    await start_run(unit, _named(plan, number))

            await engine.transition.run(some)
        run = await show_run(engine, f"{WAITS - 1:032x}")
        assert run.state == common_pb2.RUN_STATE_WAITING
        before = time.process_time()
        await asyncio.sleep(1)
        # Generous: a sweep over the waits would take a hundred times as long.
        assert time.process_time() - before < 0.1


def _named(plan: StartPlan, number: int) -> StartPlan:
    return msgspec.structs.replace(plan, run_id=f"{number:032x}")
