"""Starts that do not fit one transaction together are started one by one."""

from __future__ import annotations

from tests.engine.cluster import TestWorker, register, running_engine
from tests.engine.documents import one_task
from windlass.engine.service.starts import start_many
from windlass.engine.starting import Started, StartPlan


async def test_large_starts_of_one_batch_do_not_refuse_each_other() -> None:
    async with running_engine() as engine:
        await register(engine, one_task())
        await TestWorker(engine, lambda task: TestWorker.HOLD).connect()
        value = b'"' + b"x" * 900_000 + b'"'
        plans = [
            StartPlan(namespace="default", workflow="task", run_id=engine.clock.new_id(), input=value)
            for _ in range(12)
        ]
        outcomes = await start_many(engine, plans)
        assert all(isinstance(outcome, Started) for outcome in outcomes)
