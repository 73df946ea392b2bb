"""The calls of a worker on the unary path, as tests make them: register, start eagerly, poll, complete."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.engine.documents import Document
from tests.engine.served import Served, payload, seconds
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb

CODE = {"runtime": "javascript", "code": "input"}


def chain(steps: int) -> Document:
    """So many tasks one after the other."""
    states: Document = {f"s{n}": {"task": CODE, "output": f"s{n}", "next": f"s{n + 1}"} for n in range(steps)}
    return {"workflow": "chain", "initial": "s0", "states": {**states, f"s{steps}": {}}}


async def register(served: Served, **more: Any) -> str:
    """A worker of unary calls; its session."""
    request = pb.RegisterWorkerRequest(worker_id="u", slots=2, **more)
    request.runtimes.add(name="javascript", version="1")
    return str((await served.workers.RegisterWorker(request)).session_id)


async def start(
    served: Served, session: str, workflow: str = "task", given: Any = None, **more: Any
) -> run_pb.StartRunResponse:
    request = run_pb.StartRunRequest(workflow=workflow, input=payload(given), eager_session_id=session, **more)
    reply: run_pb.StartRunResponse = await served.runs.StartRun(request)
    return reply


async def poll(served: Served, session: str, wait: float = 0.01, most: int = 9) -> list[pb.Task]:
    request = pb.PollTasksRequest(session_id=session, max_tasks=most, wait_timeout=seconds(wait))
    return list((await served.workers.PollTasks(request)).tasks)


async def complete(
    served: Served, session: str, task: pb.Task, output: bytes = b"1", **more: Any
) -> pb.CompleteTasksResponse:
    results = [pb.TaskResult(task_token=task.task_token, output=output)]
    request = pb.CompleteTasksRequest(session_id=session, results=results, **more)
    reply: pb.CompleteTasksResponse = await served.workers.CompleteTasks(request)
    return reply


async def phase(served: Served, run_id: str) -> str:
    (work,) = (await served.run(run_id)).open_work
    return str(work.phase)


async def nothing_more_for(served: Served, session: str) -> None:
    """A poll that waits is given the next task of all, and nothing that was sent before."""
    waiting = asyncio.ensure_future(poll(served, session, 20))
    while not served.engine.dispatch.connected[session].credits:
        await served.engine.storage.read(lambda tr: tr.get(b"x"))
    await served.engine.deadlines.turn()
    run_id = await served.start("task")
    assert [task.run_id for task in await waiting] == [run_id]
