"""What takes too long together is done in parts: the store's age limit, met by decisions that take a third of a second
each, as the core allows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.cluster import TestWorker, register, running_engine, wait
from tests.engine.documents import one_task
from windlass.engine.core.decide import decide
from windlass.engine.engine import Engine
from windlass.engine.service.starts import start_many
from windlass.engine.starting import Started, StartPlan
from windlass.storage.embedded import EmbeddedStorage
from windlass.storage.opening import open_embedded
from windlass.v1 import common_pb2

RUNS = 40


@pytest.fixture
async def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    store = open_embedded(tmp_path)
    assert isinstance(store, EmbeddedStorage)
    now = 0.0

    def slowly(*given: Any) -> Any:
        nonlocal now
        now += 0.3
        return decide(*given)

    monkeypatch.setattr("windlass.engine.unit.decide", slowly)
    monkeypatch.setattr(store, "_clock", lambda: now)
    async with running_engine(store) as engine:
        document = one_task(next="rest")
        document["states"]["rest"] = {"delay": "1ms", "next": "end"}
        await register(engine, document)
        yield engine
    await store.close()


def plan(engine: Engine) -> StartPlan:
    return StartPlan(namespace="default", workflow="task", run_id=engine.clock.new_id(), input=b"{}")


async def test_starts_claims_results_and_timers_that_are_slow_together(engine: Engine) -> None:
    started = await start_many(engine, [plan(engine) for _ in range(RUNS)])
    worker = await TestWorker(engine, lambda task: TestWorker.HOLD, credits=RUNS).connect()
    async with asyncio.timeout(20):
        await worker.until(lambda: len(worker.held) == RUNS)
        for task in list(worker.held):
            worker.finish(task, 1)
        for each in started:
            assert isinstance(each, Started)
            assert (await wait(engine, each.run_id)).state == common_pb2.RUN_STATE_COMPLETED
