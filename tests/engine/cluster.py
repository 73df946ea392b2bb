"""Engines and workers in one process, on one in-memory store, without sockets: what most engine tests run on.

The worker speaks the real protocol to the engine's `Link`; only the wire is missing. Its handlers are plain functions
of the task.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import msgspec

from windlass.definition.compile import compile_canonical, compile_document
from windlass.definition.source import from_value
from windlass.engine.engine import Engine, Options
from windlass.engine.link import Link
from windlass.engine.registering import store_revision
from windlass.engine.service import reads
from windlass.engine.starting import StartPlan
from windlass.engine.starting import start as start_run
from windlass.storage.memory import MemoryWorld
from windlass.storage.port import Storage
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as workflow_pb

#: A task in, its result out: JSON value, or an exception whose text is the failure code.
Handler = Callable[[pb.Task], Any]


class Failing(Exception):
    """The task fails with this code."""


class TestWorker:
    """A worker that runs every task at once with `handler`, or keeps it if that returns `HOLD`."""

    __test__ = False  # not a test, whatever pytest thinks of its name
    HOLD = object()

    def __init__(self, engine: Engine, handler: Handler, *, name: str = "w1", credits: int = 16) -> None:
        self.engine, self.handler, self.name, self.credits = engine, handler, name, credits
        self.link = Link(engine.workers)
        self.held: list[pb.Task] = []
        self.seen: list[pb.Task] = []
        self.cancels: list[pb.TaskCancel] = []
        self.accepted: list[bytes] = []
        self.rejected: list[pb.RejectedTask] = []
        self.changed = asyncio.Event()
        self.session_id = ""
        self._task: asyncio.Task[None] | None = None

    async def connect(
        self,
        *,
        queues: tuple[str, ...] = ("default",),
        resume: str = "",
        namespace: str = "",
        offer: Mapping[str, int] | None = None,
    ) -> TestWorker:
        """Register and begin."""
        request = pb.RegisterWorkerRequest(worker_id=self.name, slots=self.credits, queues=queues, namespace=namespace)
        request.offered_units.update(offer or {})
        request.resume_session_id = resume
        request.held_task_tokens.extend(task.task_token for task in self.held)
        for runtime in ("javascript", "wasm"):
            request.runtimes.add(name=runtime, version="test")
        request.handlers.add(handler="echo", runtime="python")
        await self.link.register(request)
        self._task = asyncio.create_task(self._run())
        self.link.receive(pb.StreamTasksRequest(credits=self.credits))
        return self

    async def _run(self) -> None:
        while (message := await self.link.next()) is not None:
            if message.HasField("registered"):
                self.session_id = message.registered.session_id
            self.accepted += message.accepted_task_tokens
            self.rejected += message.rejected
            self.cancels += message.cancels
            answer = pb.StreamTasksRequest()
            for task in message.tasks:
                self._take(task, answer)
            if answer.results:
                answer.credits = len(answer.results)
                self.link.receive(answer)
            self.changed.set()

    def _take(self, task: pb.Task, answer: pb.StreamTasksRequest) -> None:
        self.seen.append(task)
        try:
            value = self.handler(task)
        except Exception as failing:  # noqa: BLE001 - whatever a handler raises is the task's failure
            result = answer.results.add(task_token=task.task_token)
            result.failure.code = str(failing) if isinstance(failing, Failing) else "HANDLER_OF_THE_TEST_FAILED"
            result.failure.message = repr(failing)
            return
        if value is self.HOLD:
            self.held.append(task)
        else:
            answer.results.append(result_of(task, value))

    def finish(self, task: pb.Task, value: Any) -> None:
        """Report the result of a held task."""
        self.held.remove(task)
        self.link.receive(pb.StreamTasksRequest(results=[result_of(task, value)], credits=1))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something that this worker sees has come true."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def vanish(self) -> None:
        """The connection breaks."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self.link.close()


def result_of(task: pb.Task, value: Any) -> pb.TaskResult:
    """A success with a JSON value; a ready TaskResult is sent as it is."""
    if isinstance(value, pb.TaskResult):
        value.task_token = task.task_token
        return value
    return pb.TaskResult(task_token=task.task_token, output=msgspec.json.encode(value))


@contextlib.asynccontextmanager
async def running_engine(storage: Storage | None = None, **options: Any) -> AsyncIterator[Engine]:
    """An engine at work on a store, its own in-memory one if none is given."""
    store = storage or MemoryWorld().open(shared=False)
    options.setdefault("lease_us", 600_000_000)  # workers of tests send no heartbeats
    engine = Engine(store, compile_canonical, options=Options(**options))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def register(engine: Engine, document: dict[str, Any], *, ns: str = "default") -> str:
    """Register a definition given as a value; its revision."""
    compiled = compile_document(from_value(document))
    return (await store_revision(engine, ns, compiled)).revision


async def start(engine: Engine, workflow: str, value: Any, **more: Any) -> str:
    """Start a run; its id."""
    plan = StartPlan(
        namespace=more.pop("ns", "default"),
        workflow=workflow,
        run_id=engine.clock.new_id(),
        input=msgspec.json.encode(value),
        **more,
    )
    return (await engine.transition.run(lambda unit: start_run(unit, plan))).run_id


async def wait(engine: Engine, run_id: str, ns: str = "default") -> workflow_pb.Run:
    """The run once it is closed."""
    waiter = engine.notices.closes(ns, run_id)
    run = await show_run(engine, run_id, ns)
    if run.HasField("close_time"):
        waiter.cancel()
        return run
    await waiter
    return await show_run(engine, run_id, ns)


async def show_run(engine: Engine, run_id: str, ns: str = "default") -> workflow_pb.Run:
    """The run as GetRun shows it."""
    return (await reads.get(engine, workflow_pb.GetRunRequest(namespace=ns, run_id=run_id))).run
