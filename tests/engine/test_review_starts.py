"""Starts that do not fit one transaction together are started one by one."""

from __future__ import annotations

from typing import Any

from tests.engine.cluster import TestWorker, register, running_engine, show_run, start
from tests.engine.documents import one_task, waiting
from windlass.engine.core.limits import CONTEXT_BYTES_MAX
from windlass.engine.errors import EngineError
from windlass.engine.service.starts import start_many
from windlass.engine.starting import OpenPolicy, Started, StartPlan
from windlass.v1 import common_pb2


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


async def test_a_start_refused_in_a_batch_leaves_the_run_that_it_would_replace() -> None:
    async with running_engine() as engine:
        await register(engine, waiting())
        old = await start(engine, "wait", 1, workflow_id="w")
        large = b'"' + b"x" * (CONTEXT_BYTES_MAX + 1) + b'"'
        more: dict[str, Any] = {"workflow_id": "w", "open_policy": OpenPolicy.TERMINATE_EXISTING}
        bad = StartPlan(namespace="default", workflow="wait", run_id=engine.clock.new_id(), input=large, **more)
        fine = StartPlan(namespace="default", workflow="wait", run_id=engine.clock.new_id(), input=b"1")
        for plans in ([bad], [fine, bad]):
            refused = (await start_many(engine, plans))[-1]
            assert isinstance(refused, EngineError)
            assert refused.reason == "CONTEXT_TOO_LARGE"
            assert (await show_run(engine, old)).state == common_pb2.RUN_STATE_WAITING
