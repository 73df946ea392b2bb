"""One run, task or call that cannot be dealt with keeps nobody else waiting, and an abandoned call loses no wake-up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

import pytest

from tests.engine.cluster import TestWorker, register, running_engine, show_run, start, wait
from tests.engine.documents import delayed, instant, one_task
from windlass.engine import keys
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.leases import parse_token, token_of
from windlass.engine.starting import StartPlan
from windlass.engine.starting import start as start_run
from windlass.storage.opening import open_embedded
from windlass.storage.port import Transaction
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb

T = TypeVar("T")


async def soon(work: Awaitable[T]) -> T:
    """What should take milliseconds; the time only ends a test that hangs."""
    async with asyncio.timeout(10):
        return await work


def plan(engine: Engine, workflow: str, value: bytes = b"{}") -> StartPlan:
    return StartPlan(namespace="default", workflow=workflow, run_id=engine.clock.new_id(), input=value)


async def lose_definition(engine: Engine, name: str) -> None:
    """As if a later program could not read what an earlier one stored."""

    async def body(tr: Transaction) -> None:
        head = keys.revision("default", name)
        tr.clear_range(head, keys.end(head))

    await engine.storage.transact(body)
    engine.definitions.forget("default", name)


async def test_tasks_too_large_to_be_claimed_together_are_claimed_one_by_one() -> None:
    async with running_engine() as engine:
        await register(engine, one_task())
        runs = [await start(engine, "task", "x" * 900_000) for _ in range(12)]
        await TestWorker(engine, lambda task: 1).connect()
        for run_id in runs:
            await soon(wait(engine, run_id))


async def test_a_queued_task_of_a_broken_run_does_not_hold_up_its_queue() -> None:
    async with running_engine() as engine:
        for name in ("bad", "good"):
            await register(engine, one_task(name))
        await start(engine, "bad", 1)
        run_id = await start(engine, "good", 1)
        await lose_definition(engine, "bad")
        await TestWorker(engine, lambda task: 1).connect()
        await soon(wait(engine, run_id))


async def test_a_timer_of_a_broken_run_does_not_hold_up_the_others() -> None:
    async with running_engine() as engine:
        for name in ("bad", "good"):
            await register(engine, delayed("50ms", name))
        await start(engine, "bad", 1)
        run_id = await start(engine, "good", 1)
        await lose_definition(engine, "bad")
        await soon(wait(engine, run_id))


async def test_a_result_whose_consequences_fit_no_key_is_recorded_as_a_failure() -> None:
    async with running_engine() as engine:
        await register(engine, instant("kid"))
        parent = one_task("parent", next="spawn")
        parent["states"]["spawn"] = {"spawn": {"workflow": "kid", "workflow_id": "${done}"}, "next": "end"}
        await register(engine, parent)
        worker = await TestWorker(engine, lambda task: "k" * 600).connect()
        run_id = await start(engine, "parent", 1)
        await soon(worker.until(lambda: len(worker.accepted) == 1))
        assert (await soon(wait(engine, run_id))).state == common_pb2.RUN_STATE_FAILED


@pytest.mark.parametrize("path", ["#", "a/#1", "#-1", "//", "#99999999999999999999", "a/#x"])
async def test_a_forged_token_touches_no_run(path: str) -> None:
    async with running_engine() as engine:
        await register(engine, one_task())
        worker = await TestWorker(engine, lambda task: TestWorker.HOLD).connect()
        run_id = await start(engine, "task", 1)
        await worker.until(lambda: bool(worker.held))
        for run in (run_id, ""):
            token = token_of(("default", run, 1, path, 1))
            worker.link.receive(pb.StreamTasksRequest(results=[pb.TaskResult(task_token=token, output=b"1")]))
        await soon(worker.until(lambda: len(worker.rejected) == 2))
        assert (await show_run(engine, run_id)).state == common_pb2.RUN_STATE_RUNNING


@pytest.mark.parametrize("path", ["#" + "1" * 600, "\0" * 300])
def test_a_token_that_no_key_can_name_is_refused(path: str) -> None:
    with pytest.raises(EngineError, match="not made by this engine"):
        parse_token(token_of(("default", "r", 1, path, 1)))


async def test_a_start_whose_caller_went_away_still_gets_its_timer(tmp_path: Path) -> None:
    store = open_embedded(tmp_path)
    async with running_engine(store) as engine:
        await register(engine, delayed("10ms"))
        started = plan(engine, "delay")
        call = asyncio.create_task(engine.transition.run(lambda unit: start_run(unit, started)))
        await asyncio.sleep(0)  # it has begun, and its commit is under way
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        await soon(engine.storage.transact(nothing))
        await soon(wait(engine, started.run_id))
    await store.close()


async def nothing(tr: Transaction) -> None:
    """Lands after what is under way."""
