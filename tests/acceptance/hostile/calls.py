"""Every RPC of every service, found through the descriptors, and called with whatever bytes one likes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.descriptor import Descriptor

from windlass.v1 import (
    admin_service_pb2,
    definition_service_pb2,
    event_service_pb2,
    human_task_service_pb2,
    queue_service_pb2,
    worker_service_pb2,
    workflow_service_pb2,
)

FILES: Final = (
    admin_service_pb2,
    definition_service_pb2,
    event_service_pb2,
    human_task_service_pb2,
    queue_service_pb2,
    worker_service_pb2,
    workflow_service_pb2,
)
#: Codes that mean that the engine did not know what it was doing.
DEFECTS: Final = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
#: How long a call may take: long polls are over then, and count as answered.
CALL_SECONDS: Final = 1.5


@dataclass(frozen=True)
class Rpc:
    """One method."""

    path: str
    request: Descriptor
    client_streams: bool
    server_streams: bool

    def __str__(self) -> str:
        return self.path.rsplit(".", 1)[1]


def rpcs() -> list[Rpc]:
    """All methods of all services."""
    return [
        Rpc(f"/{service.full_name}/{method.name}", method.input_type, method.client_streaming, method.server_streaming)
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


@dataclass(frozen=True)
class Answer:
    """How a call ended; OK also if it was a long poll that we left."""

    code: grpc.StatusCode
    details: str = ""
    left: bool = False


def call(channel: grpc.Channel, rpc: Rpc, messages: Sequence[bytes], seconds: float = CALL_SECONDS) -> Answer:
    """Send the messages (one, unless the method takes a stream) and read all there is, for `seconds` at most."""
    try:
        for _ in _answers(channel, rpc, messages, seconds):
            continue
    except grpc.RpcError as error:
        known: Any = error
        code = known.code()
        return Answer(code, known.details() or "", left=code is grpc.StatusCode.DEADLINE_EXCEEDED)
    return Answer(grpc.StatusCode.OK)


def _answers(channel: grpc.Channel, rpc: Rpc, messages: Sequence[bytes], seconds: float) -> Iterator[bytes]:
    raw: Any = channel  # without a serializer its methods take bytes as they are
    if rpc.client_streams and rpc.server_streams:
        yield from raw.stream_stream(rpc.path)(iter(messages), timeout=seconds)
    elif rpc.client_streams:
        yield raw.stream_unary(rpc.path)(iter(messages), timeout=seconds)
    elif rpc.server_streams:
        yield from raw.unary_stream(rpc.path)(messages[0], timeout=seconds)
    else:
        yield raw.unary_unary(rpc.path)(messages[0], timeout=seconds)
