"""Work put off to later transactions: both parts of two units of one microsecond, and what is too large for one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.cluster import TestWorker, register, running_engine, start, wait
from tests.engine.documents import Document, instant, one_task, waiting
from windlass.engine import keys
from windlass.engine.core.commands import Cancel, Pause, Signal, Unpause
from windlass.engine.engine import Engine
from windlass.engine.unit import Unit
from windlass.storage.memory import MemoryWorld
from windlass.v1 import common_pb2

#: What one context may nearly be; a dozen of them fit into no transaction.
LARGE = "x" * 900_000

stores = pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])


async def test_two_units_of_one_microsecond_put_off_work_for_one_run() -> None:
    async with running_engine() as engine:
        await engine.timers.stop()
        now = engine.clock.now_us() + 1_000_000

        async def put_off(unit: Unit) -> None:
            unit.now_us = now
            unit.put_off("default", "r", Cancel(source="user"))

        for _ in range(2):
            await engine.transition.run(put_off)
        begin = keys.timers(0)
        rows = await engine.storage.read(lambda tr: tr.get_range(begin, keys.end(begin)))
        assert len([key for key, _ in rows if keys.unpack(key)[4] == "r"]) == 2


def calling(body: dict[str, Any]) -> Document:
    states = {"go": {**body, "next": "end"}, "end": {}}
    return {"workflow": "parent", "initial": "go", "states": states}


async def children(engine: Engine) -> list[str]:
    head = keys.listing("default", "kid")
    rows = await engine.storage.read(lambda tr: tr.get_range(head, keys.end(head)))
    return [str(keys.unpack(key)[4]) for key, _ in rows]


@stores
async def test_a_run_is_cancelled_with_its_children_however_large_they_are_together(shared: bool) -> None:
    kid = one_task("kid", next="hold")
    kid["states"]["hold"] = {"wait": "go", "next": "end"}
    branches = {f"b{n}": {"spawn": {"workflow": "kid", "close_policy": "cancel"}} for n in range(12)}
    async with running_engine(MemoryWorld().open(shared=shared)) as engine:
        await register(engine, kid)
        await register(engine, calling({"parallel": {"branches": branches}}))
        worker = await TestWorker(engine, lambda task: LARGE).connect()
        run_id = await start(engine, "parent", {})
        await worker.until(lambda: len(worker.accepted) == 12)
        await engine.transition.give("default", run_id, Cancel(source="user"))
        for child in await children(engine):
            assert (await wait(engine, child)).state == common_pb2.RUN_STATE_CANCELLED
        assert (await wait(engine, run_id)).state == common_pb2.RUN_STATE_CANCELLED


@stores
async def test_a_map_starts_its_children_a_few_at_a_time_if_their_inputs_are_large(shared: bool) -> None:
    """Two hundred children that get 60 kB each; they end at once, and so the map goes on and ends."""
    async with running_engine(MemoryWorld().open(shared=shared)) as engine:
        await register(engine, instant("kid"))
        await register(engine, calling({"map": {"items": "items", "spawn": "kid", "input": "full"}}))
        run_id = await start(engine, "parent", {"items": list(range(200)), "rest": LARGE[:60_000]})
        assert (await wait(engine, run_id)).state == common_pb2.RUN_STATE_COMPLETED
        assert len(await children(engine)) == 200


async def test_a_map_that_is_resumed_starts_its_next_children_a_few_at_a_time() -> None:
    """All hundred of its window end while it is paused, so that the next hundred are to be started at once."""
    spawn = {"map": {"items": "items", "concurrency": 100, "spawn": "kid", "input": "full"}}
    async with running_engine() as engine:
        await register(engine, waiting("kid"))
        await register(engine, calling(spawn))
        run_id = await start(engine, "parent", {"items": list(range(200)), "rest": LARGE[:120_000]})
        first = await children_when(engine, 100)
        await engine.transition.give("default", run_id, Pause())
        for child in first:
            await engine.transition.give("default", child, Signal(name="go", payload=b"1"))
        await engine.transition.give("default", run_id, Unpause())
        assert len(await children_when(engine, 200)) == 200


async def children_when(engine: Engine, number: int) -> list[str]:
    """The children that there are, once they are so many."""
    while len(found := await children(engine)) < number:
        await engine.timers.maintain(100)
    return found
