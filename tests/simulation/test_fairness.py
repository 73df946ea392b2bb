"""Round-robin among workers, and that no kind of task keeps another from its turn."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.engine.cluster import TestWorker, register, running_engine, start, wait
from windlass.v1 import worker_service_pb2 as pb

ONE: dict[str, Any] = {
    "workflow": "one",
    "initial": "work",
    "states": {
        "work": {"task": {"runtime": "javascript", "code": "1"}, "transitions": [{"on": "success", "to": None}]}
    },
}
HANDLER: dict[str, Any] = {
    "workflow": "handler",
    "initial": "work",
    "states": {
        "work": {"task": {"runtime": "python", "handler": "echo"}, "transitions": [{"on": "success", "to": None}]}
    },
}
CIRCLE: dict[str, Any] = {
    "workflow": "circle",
    "initial": "work",
    "states": {
        "work": {"task": {"runtime": "javascript", "code": "1"}, "transitions": [{"on": "success", "to": "work"}]}
    },
}


async def test_workers_with_credit_take_turns() -> None:
    async with running_engine() as engine:
        await register(engine, ONE)
        workers = [await TestWorker(engine, lambda task: 1, name=f"w{n}", credits=40).connect() for n in range(3)]
        for run_id in [await start(engine, "one", {}) for _ in range(60)]:
            await wait(engine, run_id)
        counts = Counter({worker.name: len(worker.seen) for worker in workers})
        assert max(counts.values()) - min(counts.values()) <= 3, counts


async def test_a_run_in_circles_does_not_keep_the_only_slot_from_tasks_of_another_kind() -> None:
    turns = 0

    def work(task: pb.Task) -> Any:
        nonlocal turns
        turns += 1
        return 1

    async with running_engine() as engine:
        await register(engine, CIRCLE)
        await register(engine, HANDLER)
        await TestWorker(engine, work, credits=1).connect()
        await start(engine, "circle", {})
        waiting = await start(engine, "handler", {})
        await wait(engine, waiting)
        assert turns < 50


async def test_runs_in_circles_do_not_keep_all_units_from_a_task_that_needs_more_of_them() -> None:
    turns = 0

    def work(task: pb.Task) -> Any:
        nonlocal turns
        turns += 1
        return 1

    def needing(document: dict[str, Any], name: str, amount: int) -> dict[str, Any]:
        state = document["states"]["work"]
        task = {**state["task"], "needs": {"gpu": amount}}
        return {**document, "workflow": name, "states": {"work": {**state, "task": task}}}

    async with running_engine() as engine:
        await register(engine, needing(CIRCLE, "circle", 1))
        await register(engine, needing(ONE, "large", 3))
        await TestWorker(engine, work, credits=8).connect(offer={"gpu": 3})
        for _ in range(7):
            await start(engine, "circle", {})
        for _ in range(3):
            await wait(engine, await start(engine, "large", {}))
        assert turns < 200
