"""A run through the real engine on an in-memory store: start, tasks, guards, retries, the end."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.engine.cluster import Failing, TestWorker, register, running_engine, start, wait
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb

ONE_STEP: dict[str, Any] = {
    "workflow": "double",
    "initial": "work",
    "states": {
        "work": {
            "task": {"runtime": "javascript", "code": "input.x * 2"},
            "input": "full",
            "output": "doubled",
            "transitions": [{"on": "success", "when": "doubled > 10", "to": "big"}, {"on": "success", "to": "small"}],
        },
        "big": {},
        "small": {},
    },
}


def double(task: pb.Task) -> Any:
    return msgspec.json.decode(task.input)["x"] * 2


async def test_a_one_step_run_completes() -> None:
    async with running_engine() as engine:
        await register(engine, ONE_STEP)
        await TestWorker(engine, double).connect()
        run_id = await start(engine, "double", {"x": 21})
        run = await wait(engine, run_id)
        assert run.state == common_pb2.RUN_STATE_COMPLETED
        assert run.current_state == "big"
        assert msgspec.json.decode(run.context["doubled"]) == 42


async def test_a_task_waits_in_its_queue_until_a_worker_comes() -> None:
    async with running_engine() as engine:
        await register(engine, ONE_STEP)
        run_id = await start(engine, "double", {"x": 1})
        await TestWorker(engine, double).connect()
        assert (await wait(engine, run_id)).current_state == "small"


async def test_a_failed_attempt_is_tried_again() -> None:
    document = {
        **ONE_STEP,
        "states": {**ONE_STEP["states"], "work": {**ONE_STEP["states"]["work"], "retry": {"initial_delay": "1ms"}}},
    }

    def flaky(task: pb.Task) -> Any:
        if task.attempt == 1:
            raise Failing("FLAKY")
        return double(task)

    async with running_engine() as engine:
        await register(engine, document)
        worker = await TestWorker(engine, flaky).connect()
        run = await wait(engine, await start(engine, "double", {"x": 3}))
        assert run.state == common_pb2.RUN_STATE_COMPLETED
        assert [task.attempt for task in worker.seen] == [1, 2]
