"""A small engine for the worker's tests: real sockets and the real protocol, a dictionary for a store.

It keeps what the real engine promises to workers: one valid lease per task, epochs, sessions that can be resumed until
they lapse, results taken once and acknowledged again when repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio

from windlass.runtimes.port import digest_of
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as wire
from windlass.v1 import worker_service_pb2_grpc as wire_grpc

#: A task whose slot died so often under it is not given out again.
CRASHES_MAX = 2


def status(code: int, reason: str, message: str = "") -> status_pb2.Status:
    """A status as the engine makes them: one ErrorInfo."""
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="windlass"))
    return status_pb2.Status(code=code, message=message or reason.lower(), details=[info])


def seconds(value: float) -> duration_pb2.Duration:
    """A Duration of that many seconds."""
    span = duration_pb2.Duration()
    span.FromMicroseconds(round(value * 1e6))
    return span


@dataclass
class Stored:
    """A task in the fake store."""

    task: wire.Task
    epoch: int = 0
    session: str = ""
    result: wire.TaskResult | None = None
    answered_epoch: int = -1
    releases: list[wire.TaskRelease] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def crashes(self) -> int:
        return sum(release.reason == wire.RELEASE_REASON_CRASHED for release in self.releases)

    @property
    def token(self) -> bytes:
        return f"{self.task.run_id}/{self.epoch}".encode()


@dataclass
class SessionRow:
    """A worker's session in the fake store."""

    id: str
    register: wire.RegisterWorkerRequest
    expires_s: float
    credit: int = 0
    stream: asyncio.Queue[wire.StreamTasksResponse | None] | None = None


class FakeEngine(wire_grpc.WorkerServiceServicer):
    """Start it, submit tasks, wait for results; break it in the ways that engines and networks break."""

    def __init__(self, *, lease_s: float = 5.0, interval_s: float = 0.5) -> None:
        self.lease_s, self.interval_s = lease_s, interval_s
        self.tasks: dict[str, Stored] = {}
        self.queue: deque[str] = deque()
        self.sessions: dict[str, SessionRow] = {}
        self.modules: dict[str, bytes] = {}
        self.signatures: dict[str, list[common_pb2.ModuleSignature]] = {}
        self.registers: list[wire.RegisterWorkerRequest] = []
        self.notes: list[wire.TaskHeartbeat] = []
        self.rejections: list[wire.RejectedTask] = []
        self.messages: list[wire.StreamTasksRequest] = []
        self.left: list[str] = []
        self.refuse_with: status_pb2.Status | None = None  # answer to every result
        self.gone = grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"  # how the stream of a session that is gone ends
        self.goodbyes = asyncio.Event()  # cleared: a worker that leaves waits for its answer
        self.goodbyes.set()
        self.mute = False  # hear everything, say nothing
        self.forget_sessions = False
        self.changed = asyncio.Condition()
        self.port = 0
        self._ids = itertools.count(1)
        self._server: aio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    # ---- life

    async def start(self) -> str:
        """Listen (again on the same port after `stop`). Returns the address."""
        self._server = aio.server(options=[("grpc.so_reuseport", 0)])
        wire_grpc.add_WorkerServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()
        self._sweeper = asyncio.create_task(self._sweep())
        return f"127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Vanish like a killed process: streams break, the store stays."""
        if self._sweeper:
            self._sweeper.cancel()
        if self._server:
            await self._server.stop(None)

    def break_streams(self) -> None:
        """End every stream without a word."""
        for row in self.sessions.values():
            if row.stream:
                row.stream.put_nowait(None)

    async def __aenter__(self) -> FakeEngine:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # ---- the store

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def submit(self, runtime: str = "python", *, code: bytes = b"", timeout_s: float = 30.0, **fields: Any) -> Stored:
        """Put a task into the queue."""
        run_id = f"run{next(self._ids):05d}"
        if code:
            fields["module_digest"] = digest_of(code)
            self.modules[fields["module_digest"]] = code
        task = wire.Task(
            run_id=run_id,
            namespace="default",
            workflow="w",
            state="s",
            visit=1,
            runtime=runtime,
            timeout=seconds(timeout_s),
            **fields,
        )
        stored = self.tasks[run_id] = Stored(task)
        self.queue.append(run_id)
        self._dispatch()
        return stored

    async def until(self, happened: Any) -> None:
        """Wait until `happened()` is true; looked at after everything that a worker says."""
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(happened), 30)

    def lapse(self, session_id: str) -> None:
        """End a session; its tasks go back to the queue under a new epoch."""
        row = self.sessions.pop(session_id, None)
        if row and row.stream:
            row.stream.put_nowait(None)
        for stored in self.tasks.values():
            if stored.session == session_id and stored.answered_epoch < stored.epoch:
                self.requeue(stored)

    def requeue(self, stored: Stored) -> None:
        """Take a task back from whoever has it."""
        stored.session = ""
        self.queue.append(stored.task.run_id)
        self._dispatch()

    def cancel(self, stored: Stored, reason: wire.CancelReason.ValueType) -> None:
        """Tell the worker that holds it to stop."""
        row = self.sessions[stored.session]
        cancel = wire.TaskCancel(task_token=stored.token, reason=reason)
        self._say(row, wire.StreamTasksResponse(cancels=[cancel]))

    def drain(self) -> None:
        """Tell all workers that this engine goes away."""
        for row in self.sessions.values():
            self._say(row, wire.StreamTasksResponse(drain=True))

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.interval_s / 5)
            for row in list(self.sessions.values()):
                if row.expires_s <= loop.time():
                    self.lapse(row.id)

    def _dispatch(self) -> None:
        for row in self.sessions.values():
            given = []
            while self.queue and row.credit > 0 and row.stream:
                stored = self.tasks[self.queue.popleft()]
                given.append(self._lease(stored, row))
                row.credit -= 1
            if given:
                self._say(row, wire.StreamTasksResponse(tasks=given))

    def _lease(self, stored: Stored, row: SessionRow) -> wire.Task:
        stored.epoch += 1
        stored.session = row.id
        stored.task.attempt = stored.epoch
        stored.task.task_token = stored.token
        return stored.task

    def _say(self, row: SessionRow, message: wire.StreamTasksResponse) -> None:
        if row.stream and not self.mute:
            row.stream.put_nowait(message)

    # ---- taking answers

    def take(self, token: bytes, answer: wire.TaskResult | wire.TaskRelease) -> status_pb2.Status | None:
        """Record an answer once; None = taken, now or before."""
        run_id, epoch = token.decode().split("/")
        stored = self.tasks[run_id]
        if stored.answered_epoch == int(epoch):
            return None
        if stored.epoch != int(epoch) or not stored.session:
            return status(code_pb2.ABORTED, "LEASE_LOST")
        if self.refuse_with is not None and isinstance(answer, wire.TaskResult) and answer.HasField("output"):
            return self.refuse_with
        stored.answered_epoch = int(epoch)
        if isinstance(answer, wire.TaskResult):
            stored.result = answer
            stored.done.set()
            return None
        stored.releases.append(answer)
        if stored.crashes >= CRASHES_MAX:  # the real engine opens an incident
            stored.done.set()
        else:
            self.requeue(stored)
        return None

    def take_all(
        self, results: list[wire.TaskResult], releases: list[wire.TaskRelease]
    ) -> tuple[list[bytes], list[wire.RejectedTask]]:
        """Record answers; returns tokens taken and refusals."""
        taken, refused = [], []
        answers: list[wire.TaskResult | wire.TaskRelease] = [*results, *releases]
        for answer in answers:
            error = self.take(answer.task_token, answer)
            if error is None:
                taken.append(answer.task_token)
            else:
                refused.append(wire.RejectedTask(task_token=answer.task_token, error=error))
        self.rejections += refused
        return taken, refused

    def _open(self, register: wire.RegisterWorkerRequest) -> tuple[SessionRow, wire.RegisterWorkerResponse]:
        self.registers.append(register)
        expires_s = asyncio.get_running_loop().time() + self.lease_s
        row = self.sessions.get(register.resume_session_id)
        resumed = row is not None
        if row is None:
            row = SessionRow(f"session{next(self._ids)}", register, expires_s)
            self.sessions[row.id] = row
        row.expires_s, row.credit = expires_s, 0
        held = set(register.held_task_tokens)
        mine = {stored.token: stored for stored in self.tasks.values() if stored.session == row.id}
        for token, stored in mine.items():
            if token not in held and stored.answered_epoch < stored.epoch:
                self.requeue(stored)
        reply = wire.RegisterWorkerResponse(
            session_id=row.id,
            worker_id=register.worker_id,
            lease_duration=seconds(self.lease_s),
            heartbeat_interval=seconds(self.interval_s),
            lost_task_tokens=sorted(held - mine.keys()),
            engine_id="fake",
            resumed=resumed,
        )
        return row, reply

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    # ---- the service

    async def StreamTasks(
        self, request_iterator: AsyncIterator[wire.StreamTasksRequest], context: Any
    ) -> AsyncIterator[wire.StreamTasksResponse]:
        first = await anext(aiter(request_iterator))
        row, reply = self._open(first.register)
        mine = row.stream = asyncio.Queue()
        mine.put_nowait(wire.StreamTasksResponse(registered=reply))
        await self._tell()
        reader = asyncio.create_task(self._listen(row, request_iterator))
        try:
            while (message := await mine.get()) is not None:
                yield message
            if row.id not in self.sessions:
                await self._abort(context, *self.gone)
        finally:
            reader.cancel()
            if row.stream is mine:
                row.stream, row.credit = None, 0

    async def _listen(self, row: SessionRow, requests: AsyncIterator[wire.StreamTasksRequest]) -> None:
        with contextlib.suppress(aio.AioRpcError, grpc.RpcError):
            async for message in requests:
                self._hear(row, message)
                await self._tell()

    def _hear(self, row: SessionRow, message: wire.StreamTasksRequest) -> None:
        self.messages.append(message)
        reply = wire.StreamTasksResponse()
        self.notes += message.task_heartbeats
        taken, refused = self.take_all(list(message.results), list(message.releases))
        reply.accepted_task_tokens.extend(taken)
        reply.rejected.extend(refused)
        if message.HasField("heartbeat") and not self.mute:
            row.expires_s = asyncio.get_running_loop().time() + self.lease_s
            reply.heartbeat.number = message.heartbeat.number
            reply.heartbeat.lease_duration.CopyFrom(seconds(self.lease_s))
        if reply.ByteSize():
            self._say(row, reply)
        row.credit = 0 if message.drain else max(0, row.credit + message.credits)
        self._dispatch()

    async def _abort(self, context: Any, code: grpc.StatusCode, reason: str) -> None:
        rich = status(code.value[0], reason)
        await context.abort(code, rich.message, (("grpc-status-details-bin", rich.SerializeToString()),))

    async def _row(self, session_id: str, context: Any) -> SessionRow:
        row = self.sessions.get(session_id)
        if row is None:
            await self._abort(context, grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
            raise AssertionError("abort returns")
        row.expires_s = asyncio.get_running_loop().time() + self.lease_s
        return row

    async def RegisterWorker(self, request: wire.RegisterWorkerRequest, context: Any) -> wire.RegisterWorkerResponse:
        return self._open(request)[1]

    async def PollTasks(self, request: wire.PollTasksRequest, context: Any) -> wire.PollTasksResponse:
        row = await self._row(request.session_id, context)
        if not self.queue:
            await asyncio.sleep(0.05)
        return wire.PollTasksResponse(tasks=self._given(row, request.max_tasks or 1))

    def _given(self, row: SessionRow, most: int) -> list[wire.Task]:
        return [self._lease(self.tasks[self.queue.popleft()], row) for _ in range(min(len(self.queue), most))]

    async def HeartbeatWorker(self, request: wire.HeartbeatWorkerRequest, context: Any) -> wire.HeartbeatWorkerResponse:
        await self._row(request.session_id, context)
        ack = wire.HeartbeatAck(number=request.heartbeat.number, lease_duration=seconds(self.lease_s))
        return wire.HeartbeatWorkerResponse(heartbeat=ack)

    async def CompleteTasks(self, request: wire.CompleteTasksRequest, context: Any) -> wire.CompleteTasksResponse:
        row = await self._row(request.session_id, context) if request.max_tasks else None
        taken, refused = self.take_all(list(request.results), [])
        more = self._given(row, request.max_tasks) if row is not None else []
        return wire.CompleteTasksResponse(accepted_task_tokens=taken, rejected=refused, tasks=more)

    async def HeartbeatTasks(self, request: wire.HeartbeatTasksRequest, context: Any) -> wire.HeartbeatTasksResponse:
        await self._row(request.session_id, context)
        self.notes += request.heartbeats
        return wire.HeartbeatTasksResponse()

    async def ReleaseTasks(self, request: wire.ReleaseTasksRequest, context: Any) -> wire.ReleaseTasksResponse:
        taken, refused = self.take_all([], list(request.releases))
        return wire.ReleaseTasksResponse(accepted_task_tokens=taken, rejected=refused)

    async def DrainWorker(self, request: wire.DrainWorkerRequest, context: Any) -> wire.DrainWorkerResponse:
        self.left.append(request.session_id)
        row = self.sessions.pop(request.session_id, None) if request.close else None
        if row is not None and row.stream is not None:
            row.stream.put_nowait(None)  # as the real engine: the stream ends first
        await self._tell()
        await self.goodbyes.wait()
        return wire.DrainWorkerResponse()

    async def FetchModule(
        self, request: wire.FetchModuleRequest, context: Any
    ) -> AsyncIterator[wire.FetchModuleResponse]:
        code = self.modules.get(request.digest)
        if code is None:
            await self._abort(context, grpc.StatusCode.NOT_FOUND, "MODULE_NOT_FOUND")
            return
        if request.signatures_only:
            yield wire.FetchModuleResponse(signatures=self.signatures.get(request.digest, ()))
            return
        for start in range(0, len(code), 256 << 10):
            yield wire.FetchModuleResponse(chunk=code[start : start + (256 << 10)], total_bytes=len(code))
