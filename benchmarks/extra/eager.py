"""What is saved when tasks come with the answers to starts and results, instead of by themselves.

Each two ways are measured in turns, run by run, so that what else the machine does falls on both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Final

from grpc import aio

from benchmarks.__main__ import ready
from benchmarks.extra.figures import Asked, Figure
from benchmarks.processes import stack
from benchmarks.workflows import ten_steps
from windlass.client import Client
from windlass.definition.source import from_value
from windlass.runtimes.python_handlers import handler
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as wire
from windlass.v1 import worker_service_pb2_grpc as wire_grpc
from windlass.v1 import workflow_service_pb2 as runs
from windlass.v1 import workflow_service_pb2_grpc as runs_grpc
from windlass.worker.hosting import beside
from windlass.worker.settings import WorkerSettings

NOTED: Final = {"runtime": "python", "handler": "bench_noted"}
PLAIN: Final = {"runtime": "python", "handler": "bench_plain"}
#: Runs of each way before those that count.
WARM: Final = 20

_begun: list[float] = []


@handler("bench_noted")
async def noted(input: float) -> float:
    """Notes when it began."""
    _begun.append(time.perf_counter())
    return input * 2


async def eager(asked: Asked) -> list[Figure]:
    """`size`: runs each way."""
    with stack(asked.directory, workers=0) as running:
        await ready(running.address)
        return [*await _starts(running.address, asked.size), *await _steps(running.address, asked.size)]


async def _alternating(size: int, *ways: Callable[[], Awaitable[float]]) -> list[float]:
    """The median of each way, measured in turns."""
    for _ in range(WARM):
        for way in ways:
            await way()
    found = [[await way() for way in ways] for _ in range(size)]
    return [statistics.median(each) for each in zip(*found, strict=True)]


async def _starts(address: str, size: int) -> list[Figure]:
    """A program with a worker beside it, with and without the task in the answer."""
    settings = WorkerSettings(engines=(address,), runtimes=(), handlers=(__name__,))
    async with Client(address) as client, beside(settings) as worker:
        document = {"workflow": "noted", "initial": "s", "states": {"s": {"task": NOTED, "input": {"key": "x"}}}}
        await client.register(from_value(document))

        async def measured(*, eagerly: bool) -> float:
            began = time.perf_counter()
            started = await client.start("noted", {"x": 1}, eager=worker if eagerly else None)
            await client.wait(started.run_id)
            return _begun.pop() - began

        found = await _alternating(size, lambda: measured(eagerly=True), lambda: measured(eagerly=False))
    what = "start → its handler begins, the worker beside the caller"
    names = f"{what}: with the answer", f"{what}: by the stream"
    return [Figure("eager", size, name, each * 1000, "ms") for name, each in zip(names, found, strict=True)]


class Plain:
    """A worker of unary calls, and the starts of what it works on. It counts its calls."""

    def __init__(self, channel: aio.Channel) -> None:
        self.workers: wire_grpc.WorkerServiceAsyncStub = wire_grpc.WorkerServiceStub(channel)
        self.runs: runs_grpc.WorkflowServiceAsyncStub = runs_grpc.WorkflowServiceStub(channel)
        self.session, self.calls = "", 0

    async def register(self) -> None:
        request = wire.RegisterWorkerRequest(worker_id="plain", slots=1)
        request.handlers.append(common_pb2.StepType(handler=PLAIN["handler"], runtime="python"))
        self.session = (await self.workers.RegisterWorker(request)).session_id

    async def run(self, *, eagerly: bool) -> float:
        """A run of ten steps from its start to its last result, in seconds."""
        began = time.perf_counter()
        start = runs.StartRunRequest(workflow="w2", eager_session_id=self.session if eagerly else "")
        start.input.data = b'{"x": 1}'
        self.calls = 1
        task = (await self.runs.StartRun(start)).task if eagerly else await self._polled(start)
        for step in range(10):
            result = wire.TaskResult(task_token=task.task_token, output=b"2")
            reply = await self._complete(result, 1 if eagerly and step < 9 else 0)
            if step < 9:
                task = reply.tasks[0] if reply.tasks else await self._poll()
        return time.perf_counter() - began

    async def _polled(self, start: runs.StartRunRequest) -> wire.Task:
        await self.runs.StartRun(start)
        return await self._poll()

    async def _poll(self) -> wire.Task:
        self.calls += 1
        reply = await self.workers.PollTasks(wire.PollTasksRequest(session_id=self.session, max_tasks=1))
        return reply.tasks[0]

    async def _complete(self, result: wire.TaskResult, more: int) -> wire.CompleteTasksResponse:
        self.calls += 1
        request = wire.CompleteTasksRequest(session_id=self.session, results=[result], max_tasks=more)
        return await self.workers.CompleteTasks(request)


async def _steps(address: str, size: int) -> list[Figure]:
    """Ten steps in sequence by a worker of unary calls, which polls for each or is given it with the result before."""
    async with Client(address) as client:
        await client.register(from_value(ten_steps(dict(PLAIN))))
        plain = Plain(client.connection.channel)
        await plain.register()
        calls: dict[bool, int] = {}

        async def measured(*, eagerly: bool) -> float:
            took = await plain.run(eagerly=eagerly)
            calls[eagerly] = plain.calls
            return took

        found = await _alternating(size, lambda: measured(eagerly=True), lambda: measured(eagerly=False))
    lines: list[Figure] = []
    for eagerly, name, seconds in ((True, "with the answers", found[0]), (False, "by polls", found[1])):
        what = f"ten steps by unary calls, tasks {name}"
        lines.append(Figure("eager", size, what, seconds * 1000, "ms"))
        lines.append(Figure("eager", size, f"{what}: calls", calls[eagerly], ""))
    return lines
