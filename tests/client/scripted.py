"""An engine that does what a test tells it to: for faults that a real engine shows only when it is unlucky.

Everything else is real: the sockets, the server, the client. A test subclasses a servicer of the wire contract and
serves it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from windlass.client import Client
from windlass.client.connection import Backoff, Connection
from windlass.v1 import definition_service_pb2_grpc, workflow_service_pb2_grpc


def status(code: int, reason: str, message: str, *details: Any, **metadata: str) -> status_pb2.Status:
    """A Status as the engine makes them."""
    made = status_pb2.Status(code=code, message=message)
    made.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="windlass", metadata=metadata))
    for detail in details:
        made.details.add().Pack(detail)
    return made


def draining(seconds: float = 0.0) -> status_pb2.Status:
    """UNAVAILABLE, with the advice to come back after `seconds`."""
    delay = Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    advice = error_details_pb2.RetryInfo(retry_delay=delay)
    return status(code_pb2.UNAVAILABLE, "ENGINE_DRAINING", "this engine is going away", advice)


async def refuse(context: Any, refusal: status_pb2.Status) -> None:
    """Ends a call with this status."""
    await context.abort_with_status(rpc_status.to_status(refusal))


@contextlib.asynccontextmanager
async def served(script: object) -> AsyncIterator[Client]:
    """A client whose engine does what the script's methods say; it waits hardly at all between tries."""
    server = grpc.aio.server()
    workflow_service_pb2_grpc.add_WorkflowServiceServicer_to_server(
        _playing(workflow_service_pb2_grpc.WorkflowServiceServicer, script), server
    )
    definition_service_pb2_grpc.add_DefinitionServiceServicer_to_server(
        _playing(definition_service_pb2_grpc.DefinitionServiceServicer, script), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = Client(f"127.0.0.1:{port}")
    await client.close()
    client.connection = Connection(f"127.0.0.1:{port}", retry_for=5.0, backoff=Backoff(initial=0.001, maximum=0.001))
    try:
        yield client
    finally:
        await client.close()
        await server.stop(None)


def _playing(base: Any, script: object) -> Any:
    """A service with those of its methods that the script has."""
    servicer = base()
    for name in vars(base):
        if hasattr(script, name) and not name.startswith("_"):
            setattr(servicer, name, getattr(script, name))
    return servicer
