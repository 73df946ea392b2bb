"""A run that loops keeps a record of the same size and a bounded history, which still folds to its state."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.cluster import TestWorker, register, running_engine, start, wait
from windlass.engine import keys
from windlass.engine.checking import check_store
from windlass.engine.core.commands import Signal
from windlass.engine.core.events import Compacted
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.reading import get_run, history, oldest_number
from windlass.engine.records import get_large
from windlass.engine.service import forks
from windlass.v1 import common_pb2

KEEP = 100
LOOP: dict[str, Any] = {
    "workflow": "loop",
    "initial": "work",
    "states": {
        "work": {
            "task": {"runtime": "javascript", "code": "input"},
            "output": "n",
            "transitions": [{"on": "success", "when": "n < limit", "to": "work"}, {"on": "success", "to": "end"}],
        },
        "end": {},
    },
}


async def looped(engine: Engine, rounds: int) -> tuple[str, int]:
    """Loop a run; its id and the size of its record at the end."""
    await register(engine, LOOP)
    count = 0

    def next_number(task: object) -> int:
        nonlocal count
        count += 1
        return count

    await TestWorker(engine, next_number).connect()
    run_id = await start(engine, "loop", {"n": 0, "limit": rounds})
    run = await wait(engine, run_id)
    assert run.state == common_pb2.RUN_STATE_COMPLETED
    record = await engine.storage.read(lambda tr: get_large(tr, keys.run("default", run_id)))
    assert record is not None
    return run_id, len(record)


async def test_history_is_bounded_and_folds_to_the_state() -> None:
    async with running_engine(history_keep=KEEP) as engine:
        run_id, _ = await looped(engine, 500)
        oldest = await engine.storage.read(lambda tr: oldest_number(tr, "default", run_id))
        kept = await engine.storage.read(lambda tr: history(tr, "default", run_id, limit=10_000))
        assert oldest > 1000
        assert isinstance(kept[0].event, Compacted)
        assert KEEP <= len(kept) <= 3 * KEEP
        assert kept[-1].state == "end"
        assert await check_store(engine.storage) == []


async def test_what_was_dropped_is_refused_by_name_and_what_is_kept_can_be_seen() -> None:
    async with running_engine(history_keep=KEEP) as engine:
        run_id, _ = await looped(engine, 300)
        oldest = await engine.storage.read(lambda tr: oldest_number(tr, "default", run_id))
        then, _ = await forks.past(engine, "default", run_id, oldest + 20)
        assert then.seq == oldest + 20
        with pytest.raises(EngineError) as refused:
            await forks.past(engine, "default", run_id, 5)
        assert refused.value.reason == "HISTORY_COMPACTED"
        assert refused.value.metadata["oldest"] == str(oldest)


async def test_the_record_does_not_grow_with_the_loop() -> None:
    async with running_engine(history_keep=KEEP) as engine:
        short = (await looped(engine, 50))[1]
    async with running_engine(history_keep=KEEP) as engine:
        long = (await looped(engine, 3000))[1]
    assert abs(long - short) < 40  # numbers got longer, nothing else


async def test_the_log_of_a_run_with_a_large_record_is_begun_afresh_too() -> None:
    """The record and the fresh log's first event hold it all; written more often, they fit into no transaction."""
    task = {"task": {"runtime": "javascript", "code": "input"}}
    branches = dict.fromkeys("abc", task) | {"d": {"wait": "go"}}
    states = {"work": {"parallel": {"branches": branches}, "next": "end"}, "end": {}}
    async with running_engine(history_keep=20) as engine:
        await register(engine, {"workflow": "large", "initial": "work", "states": states})
        worker = await TestWorker(engine, lambda task: "x" * 900_000).connect()
        run_id = await start(engine, "large", {"given": "x" * 900_000})
        await worker.until(lambda: len(worker.accepted) == 3)
        for _ in range(30):
            await engine.transition.give("default", run_id, Signal(name="other", payload=b"1"))
        assert (await engine.storage.read(lambda tr: get_run(tr, "default", run_id))).compacted
        assert await check_store(engine.storage) == []
