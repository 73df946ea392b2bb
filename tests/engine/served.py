"""An engine behind a real gRPC socket, with a clock that only tests move, and workers of the tests' own.

The store is in memory and optimistic like FoundationDB, unless a test asks for another. Nothing here waits for time to
pass: `advance` moves the engine's clock and wakes whoever goes by it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc
import msgspec
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.engine.cluster import Handler, TestWorker
from windlass.definition.compile import compile_canonical
from windlass.engine import keys
from windlass.engine.clock import Clock
from windlass.engine.engine import Engine, Options
from windlass.engine.errors import CODES, DOMAIN
from windlass.engine.service.server import Server
from windlass.storage.memory import MemoryWorld
from windlass.storage.port import Storage
from windlass.v1 import (
    admin_service_pb2_grpc,
    common_pb2,
    definition_service_pb2,
    definition_service_pb2_grpc,
    event_service_pb2_grpc,
    human_task_service_pb2_grpc,
    queue_service_pb2_grpc,
    worker_service_pb2_grpc,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)

T = TypeVar("T")

SECOND = 1_000_000
DAY = 86_400 * SECOND

#: The detail that every error of a code carries besides its ErrorInfo.
DETAILS: Mapping[grpc.StatusCode, type] = {
    grpc.StatusCode.INVALID_ARGUMENT: error_details_pb2.BadRequest,
    grpc.StatusCode.NOT_FOUND: error_details_pb2.ResourceInfo,
    grpc.StatusCode.ALREADY_EXISTS: error_details_pb2.ResourceInfo,
    grpc.StatusCode.FAILED_PRECONDITION: error_details_pb2.PreconditionFailure,
    grpc.StatusCode.RESOURCE_EXHAUSTED: error_details_pb2.QuotaFailure,
}


class FakeClock(Clock):
    """Time that stands, but for a microsecond per look, so that ids keep their order."""

    def __init__(self) -> None:
        self.at_us = 1_700_000_000_000_000
        super().__init__()

    def read_us(self) -> int:
        self.at_us += 1
        return self.at_us

    def read_ticks_us(self) -> int:
        return 0


class Served:
    """An engine, its server, and a client's view of it."""

    def __init__(self, engine: Engine, clock: FakeClock, channel: grpc.aio.Channel, address: str) -> None:
        self.engine, self.clock, self.channel, self.address = engine, clock, channel, address
        self.runs: Any = workflow_service_pb2_grpc.WorkflowServiceStub(channel)
        self.definitions: Any = definition_service_pb2_grpc.DefinitionServiceStub(channel)
        self.workers: Any = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self.people: Any = human_task_service_pb2_grpc.HumanTaskServiceStub(channel)
        self.queues: Any = queue_service_pb2_grpc.QueueServiceStub(channel)
        self.events: Any = event_service_pb2_grpc.EventServiceStub(channel)
        self.admin: Any = admin_service_pb2_grpc.AdminServiceStub(channel)

    def advance(self, seconds: float) -> None:
        """Time passes: timers, sessions and deadlines look again."""
        self.clock.at_us += int(seconds * SECOND)
        for loop in (self.engine.timers, self.engine.sessions, self.engine.deadlines, self.engine.sweeper):
            loop.wake()

    async def register(self, document: Mapping[str, Any], ns: str = "") -> str:
        """Register a definition; its revision."""
        request = definition_service_pb2.RegisterDefinitionRequest(
            namespace=ns, document=msgspec.json.encode(document), file_name="test.json"
        )
        return str((await self.definitions.RegisterDefinition(request)).revision)

    async def start(self, workflow: str, value: Any = None, **more: Any) -> str:
        """Start a run; its id."""
        request = workflow_service_pb2.StartRunRequest(workflow=workflow, input=payload(value or {}), **more)
        return str((await self.runs.StartRun(request)).run.run_id)

    async def worker(self, handler: Handler, *, name: str = "w1", credits: int = 16, **more: Any) -> TestWorker:
        """A connected worker that does everything with `handler`."""
        return await TestWorker(self.engine, handler, name=name, credits=credits).connect(**more)

    async def run(self, run_id: str, ns: str = "") -> workflow_service_pb2.Run:
        """The run with everything."""
        request = workflow_service_pb2.GetRunRequest(namespace=ns, run_id=run_id, view=workflow_service_pb2.VIEW_FULL)
        response: workflow_service_pb2.GetRunResponse = await self.runs.GetRun(request)
        return response.run

    async def closed(self, run_id: str, ns: str = "") -> workflow_service_pb2.Run:
        """The run with everything, once it is closed."""
        await self.runs.WaitRun(workflow_service_pb2.WaitRunRequest(namespace=ns, run_id=run_id))
        return await self.run(run_id, ns)

    async def watch(
        self, run_id: str, until: Callable[[workflow_service_pb2.WatchRunResponse], bool], ns: str = ""
    ) -> list[str]:
        """Follow a run until something is true of a message; the types of the events seen."""
        seen: list[str] = []
        request = workflow_service_pb2.WatchRunRequest(namespace=ns, run_id=run_id, view=workflow_service_pb2.VIEW_FULL)
        call = self.runs.WatchRun(request)
        try:
            async for message in call:
                seen += [event.type for event in message.events]
                if until(message):
                    break
        finally:
            call.cancel()
        return seen

    async def in_state(self, run_id: str, state: common_pb2.RunState.ValueType, ns: str = "") -> None:
        """Wait until the run is in this state of its life."""
        await self.watch(run_id, lambda message: message.state == state, ns)

    async def dump(self) -> list[tuple[bytes, bytes]]:
        """Everything that is stored, but for what lives by time alone (sessions, engines)."""
        rows = await self.engine.storage.read(lambda tr: tr.get_range(b"", b"\xff"))
        return [row for row in rows if not keys.describe(row[0]).startswith(("ENGINE(", "SESSION("))]


@contextlib.asynccontextmanager
async def serving(storage: Storage | None = None, **options: Any) -> AsyncIterator[Served]:
    """An engine on a store (its own, in memory, if none is given), served on a free port."""
    options.setdefault("lease_us", 1000 * DAY)  # workers of tests send no heartbeats
    clock = FakeClock()
    store = storage or MemoryWorld().open(shared=False)
    engine = Engine(store, compile_canonical, clock=clock, options=Options(**options))
    server = Server(engine, "127.0.0.1:0")
    await engine.start()
    await server.start()
    address = f"127.0.0.1:{server.port}"
    channel = grpc.aio.insecure_channel(address)
    try:
        yield Served(engine, clock, channel, address)
    finally:
        await channel.close()
        await server.stop()
        await engine.stop()
        await store.close()


def payload(value: Any) -> common_pb2.Payload:
    """A JSON value as the wire carries it; bytes are sent as they are."""
    return common_pb2.Payload(data=value if isinstance(value, bytes) else msgspec.json.encode(value))


def value(data: bytes | common_pb2.Payload) -> Any:
    """A JSON value from the wire."""
    return msgspec.json.decode(data.data if isinstance(data, common_pb2.Payload) else data)


def seconds(span: float) -> duration_pb2.Duration:
    whole = int(span)
    return duration_pb2.Duration(seconds=whole, nanos=int((span - whole) * 1e9))


class Refusal:
    """An error as the client gets it."""

    def __init__(self, code: grpc.StatusCode, message: str, info: error_details_pb2.ErrorInfo, details: Any) -> None:
        self.code, self.message, self.info, self.details = code, message, info, details
        self.metadata = dict(info.metadata)

    def fields(self) -> list[str]:
        """The places that the error names."""
        return [
            violation.field
            for detail in self.details
            if isinstance(detail, error_details_pb2.BadRequest)
            for violation in detail.field_violations
        ]


async def refused(call: Awaitable[Any], reason: str) -> Refusal:
    """The call must fail with this reason, its code, and the details that go with it."""
    try:
        response = await call
    except grpc.aio.AioRpcError as error:
        return refused_by(error, reason)
    raise AssertionError(f"expected {reason}, got {type(response).__name__} {response}")


async def refused_stream(call: Any, reason: str) -> Refusal:
    """As `refused`, for a call that answers with a stream."""
    try:
        seen = [message async for message in call]
    except grpc.aio.AioRpcError as error:
        return refused_by(error, reason)
    raise AssertionError(f"expected {reason}, got {seen}")


def refused_by(error: grpc.aio.AioRpcError, reason: str) -> Refusal:
    """The error of a failed call, held to the rules of every error."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # its type knows only the blocking kind of call
    assert status is not None, f"no google.rpc.Status: {error}"
    refusal = refusal_of(status)
    assert refusal.info.reason == reason, f"{refusal.info.reason}: {refusal.message}"
    assert error.code() == refusal.code
    return refusal


def refusal_of(status: Any) -> Refusal:
    """A google.rpc.Status read back, and held to the rules of every error."""
    details = [_unpacked(each) for each in status.details]
    (info,) = [each for each in details if isinstance(each, error_details_pb2.ErrorInfo)]
    assert info.domain == DOMAIN
    code = CODES[info.reason]
    assert status.code == code.value[0]
    expected = DETAILS.get(code)
    if expected is not None:
        assert any(isinstance(each, expected) for each in details), f"{info.reason} lacks {expected.__name__}"
    return Refusal(code, status.message, info, details)


def _unpacked(packed: any_pb2.Any) -> Any:
    kind = getattr(error_details_pb2, packed.type_url.rsplit(".", 1)[1])
    message = kind()
    assert packed.Unpack(message)
    return message
