"""A worker process that freezes or dies while it holds a task: another one does it, once, as a second attempt.

This module is also what the workers load: it has their handler.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc

from tests.acceptance.programs import Engine, Program, engine
from windlass.client import Client
from windlass.definition.source import from_value
from windlass.runtimes.python_context import TaskContext
from windlass.runtimes.python_handlers import handler
from windlass.v1 import (
    common_pb2,
    worker_service_pb2,
    worker_service_pb2_grpc,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)

HANDLERS: Final = ("--runtimes", "javascript", "--handlers", "tests.acceptance.test_failover", "--slots", "1")
DOCUMENT: Final = {
    "workflow": "held",
    "initial": "only",
    "states": {"only": {"task": {"runtime": "python", "handler": "failover.hold"}, "output": "done"}},
    "output": {"key": "done"},
}


#: The same, and the run stays open after it.
STAYING: Final = {
    "workflow": "staying",
    "initial": "only",
    "states": {
        "only": {"task": {"runtime": "python", "handler": "failover.hold"}, "output": "done", "next": "stay"},
        "stay": {"wait": "end"},
    },
}
REGISTRATION: Final = worker_service_pb2.RegisterWorkerRequest(
    worker_id="polling",
    instance_id="polling",
    slots=1,
    runtimes=[common_pb2.RuntimeInfo(name="python", version="3")],
    handlers=[common_pb2.StepType(handler="failover.hold", runtime="python")],
)


@handler("failover.hold")
async def hold(input: dict[str, str], ctx: TaskContext) -> dict[str, int]:
    """The first attempt stays until its gate is opened; every other one is done at once."""
    while ctx.task.attempt == 1 and not os.path.exists(input["gate"]):  # noqa: ASYNC110, ASYNC240 - another process opens it
        await asyncio.sleep(0.05)
    return {"pid": os.getpid(), "attempt": ctx.task.attempt}


async def events(client: Client, run_id: str, until: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The run's events as they come, type and attributes, up to the first of type `until`."""
    stub = workflow_service_pb2_grpc.WorkflowServiceStub(client.connection.channel)
    request = workflow_service_pb2.WatchRunRequest(run_id=run_id, view=workflow_service_pb2.VIEW_FULL)
    watch: Any = stub.WatchRun(request)
    async for message in watch:
        for event in message.events:
            yield event.type, json.loads(event.attributes or b"{}")
            if event.type == until:
                watch.cancel()
                return
    raise AssertionError(f"the run closed without {until}")


async def held_by_first(running: Engine, client: Client, gate: Path) -> str:
    """A run whose task the only worker has taken."""
    await client.register(from_value(DOCUMENT, "held"))
    run = await client.start("held", {"gate": str(gate)})
    seen = [kind async for kind, _ in events(client, run.run_id, "AttemptStarted")]
    assert seen.count("AttemptStarted") == 1, running.said
    return run.run_id


async def taken_over(client: Client, run_id: str, other: Program) -> None:
    """The other worker has done it as attempt 2, and nobody else has."""
    ended = await client.wait(run_id, timeout=60)
    assert (ended.state, ended.output) == ("completed", {"pid": other.process.pid, "attempt": 2})


async def kinds(client: Client, run_id: str) -> Counter[str]:
    """How many events of each type its history has."""
    return Counter([event.type async for event in client.history(run_id)])


async def test_task_of_a_frozen_worker_is_done_by_another_and_only_once(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with engine(tmp_path) as running:
        first = running.worker("first", *HANDLERS)
        other = first
        try:
            async with running.client() as client:
                run_id = await held_by_first(running, client, gate)
                first.process.send_signal(signal.SIGSTOP)
                other = running.worker("other", *HANDLERS)
                await taken_over(client, run_id, other)
                before = await kinds(client, run_id)
                gate.touch()
                other.stop()
                first.process.send_signal(signal.SIGCONT)
                # It is alone again: when it has done this one, it has long told the engine what became of the other.
                again = await client.start("held", {"gate": str(gate)})
                ended = await client.wait(again.run_id, timeout=60)
                assert ended.output == {"pid": first.process.pid, "attempt": 1}
                assert await kinds(client, run_id) == before
                assert before["TaskCompleted"] == 1
                assert before["AttemptStarted"] == 2
        finally:
            first.process.send_signal(signal.SIGCONT)
            first.stop()
            other.stop()
    assert "the lease could not be renewed in time" in first.said, first.said  # it gave the task up by itself


async def test_result_of_a_worker_that_does_not_know_that_its_lease_is_gone_is_refused(tmp_path: Path) -> None:
    """Our own worker gives such a task up; this one hands it in all the same, in a new session."""
    with engine(tmp_path) as running, grpc.insecure_channel(running.address) as channel:
        stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        async with running.client() as client:
            await client.register(from_value(STAYING, "staying"))
            run = await client.start("staying", {"gate": str(tmp_path / "never")})
            session = stub.RegisterWorker(REGISTRATION).session_id
            poll = worker_service_pb2.PollTasksRequest(session_id=session, max_tasks=1)
            (task,) = (await asyncio.to_thread(stub.PollTasks, poll, timeout=30)).tasks
            other = running.worker("other", *HANDLERS)
            try:
                completed = [
                    at async for kind, at in events(client, run.run_id, "TaskCompleted") if "Completed" in kind
                ]
                late = worker_service_pb2.TaskResult(task_token=task.task_token, output=b'"late"')
                session = stub.RegisterWorker(REGISTRATION).session_id
                answer = stub.CompleteTasks(worker_service_pb2.CompleteTasksRequest(session_id=session, results=[late]))
                assert "LEASE_LOST" in str(answer.rejected), answer
                assert len(completed) == 1
                assert (await kinds(client, run.run_id))["TaskCompleted"] == 1
            finally:
                other.stop()


async def test_task_of_a_killed_worker_runs_elsewhere_as_its_second_attempt(tmp_path: Path) -> None:
    with engine(tmp_path) as running:
        first = running.worker("first", *HANDLERS)
        other = first
        try:
            async with running.client() as client:
                run_id = await held_by_first(running, client, tmp_path / "never")
                first.kill()
                other = running.worker("other", *HANDLERS)
                await taken_over(client, run_id, other)
                seen = await kinds(client, run_id)
                assert (seen["AttemptStarted"], seen["TaskCompleted"]) == (2, 1)
        finally:
            first.stop()
            other.stop()
