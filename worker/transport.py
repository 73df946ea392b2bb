"""How a worker reaches its engines: a port with two calls, and gRPC behind it.

The simulation plugs a wire of its own in here; nothing else of the worker knows gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeAlias

import grpc
from google.rpc import status_pb2
from grpc import aio

from windlass.v1 import worker_service_pb2 as wire
from windlass.v1 import worker_service_pb2_grpc as wire_grpc
from windlass.worker.answers import Refusal, refusal_of

#: The engine caps what it sends; this only must not be smaller.
RECEIVE_BYTES = 64 << 20
STATUS_KEY = "grpc-status-details-bin"


class WireError(Exception):
    """The stream or call ended with an error. `refusal` says which; `code` is the gRPC code's name."""

    def __init__(self, refusal: Refusal, code: str) -> None:
        super().__init__(f"{refusal.reason}: {refusal.message}" if refusal.message else refusal.reason)
        self.refusal = refusal
        self.code = code


#: Public key and signature, as they came.
Signature: TypeAlias = tuple[bytes, bytes]


class Wire(Protocol):
    """One open stream to one engine."""

    async def send(self, message: wire.StreamTasksRequest) -> None:
        """Hand a message over. Waits while the engine reads too slowly. Raises WireError."""

    async def receive(self) -> wire.StreamTasksResponse | None:
        """Return the next message; None when the engine has ended the stream. Raises WireError."""

    async def fetch_module(self, namespace: str, digest: str) -> bytes:
        """Return task code, not checked. Raises WireError."""

    async def fetch_signatures(self, namespace: str, digest: str) -> list[Signature]:
        """Return who signed a module, not checked. Raises WireError."""

    async def leave(self, session_id: str) -> None:
        """Tell the engine that the session is over. Raises WireError."""

    async def close(self) -> None:
        """End the stream; `receive` then returns or raises. Never raises itself."""


class Transport(Protocol):
    """Opens streams."""

    async def open(self, address: str) -> Wire:
        """Begin a stream to the engine at `address`. Raises WireError, or later on from the wire."""


class GrpcTransport:
    """The real one: a channel and a stream per connection, so that nothing of a broken one is left."""

    async def open(self, address: str) -> Wire:
        """Begin a stream; whether anybody is there shows at the first `receive`."""
        options = [
            ("grpc.max_receive_message_length", RECEIVE_BYTES),
            ("grpc.max_send_message_length", RECEIVE_BYTES),
            ("grpc.use_local_subchannel_pool", 1),  # else gRPC's own backoff from the last attempt delays this one
        ]
        channel = aio.insecure_channel(address, options=options)
        return GrpcWire(channel)


class GrpcWire:
    """A stream on a channel of its own."""

    def __init__(self, channel: aio.Channel) -> None:
        self._channel = channel
        self._stub = wire_grpc.WorkerServiceStub(channel)
        self._call = self._stub.StreamTasks()
        self._closed = False

    async def send(self, message: wire.StreamTasksRequest) -> None:
        """See Wire."""
        with self._errors_named():
            await self._call.write(message)

    async def receive(self) -> wire.StreamTasksResponse | None:
        """See Wire."""
        with self._errors_named():
            message = await self._call.read()
        return message if isinstance(message, wire.StreamTasksResponse) else None

    async def fetch_module(self, namespace: str, digest: str) -> bytes:
        """See Wire."""
        request = wire.FetchModuleRequest(namespace=namespace, digest=digest)
        with self._errors_named():
            return b"".join([part.chunk async for part in self._stub.FetchModule(request)])

    async def fetch_signatures(self, namespace: str, digest: str) -> list[Signature]:
        """See Wire."""
        request = wire.FetchModuleRequest(namespace=namespace, digest=digest, signatures_only=True)
        with self._errors_named():
            parts = [part async for part in self._stub.FetchModule(request)]
        return [(each.public_key, each.signature) for part in parts for each in part.signatures]

    async def leave(self, session_id: str) -> None:
        """See Wire."""
        # A worker leaves when it holds nothing: what the engine has given it by then is on its way, and has not begun.
        request = wire.DrainWorkerRequest(session_id=session_id, close=True, unbegun=True)
        with self._errors_named():
            await self._stub.DrainWorker(request, timeout=2)

    async def close(self) -> None:
        """See Wire."""
        self._closed = True
        self._call.cancel()
        await self._channel.close()

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Turn what gRPC raises into WireError."""
        try:
            yield
        except aio.AioRpcError as error:
            raise wire_error(error) from error
        except asyncio.InvalidStateError as error:  # the call is over; `receive` knows why
            raise WireError(Refusal("STREAM_ENDED", str(error)), "UNAVAILABLE") from error
        except asyncio.CancelledError as error:
            # gRPC ends the calls of a closed channel with CancelledError, which must not pass for a cancel of the
            # caller's own task: that would end it, and with it the answer that it owes.
            if not self._closed:
                raise
            raise WireError(Refusal("STREAM_CLOSED", "the worker has left the stream"), "CANCELLED") from error


def wire_error(error: aio.AioRpcError) -> WireError:
    """Read what the engine said, with its ErrorInfo where there is one."""
    status = status_pb2.Status(code=error.code().value[0], message=error.details() or "")
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_KEY and isinstance(value, bytes):
            status.MergeFromString(value)
    refusal = refusal_of(status)
    if refusal.reason.startswith("CODE_"):
        refusal = Refusal(error.code().name, refusal.message, error.code() is grpc.StatusCode.UNAVAILABLE)
    return WireError(refusal, error.code().name)
