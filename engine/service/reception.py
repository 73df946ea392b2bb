"""Bytes that are no message are refused like any other mistake, and not with UNKNOWN and a traceback in the log.

gRPC decodes a request before it calls a handler, and reports what it cannot decode as an unexpected error of the
server's. Here decoding never fails: a unary handler is not called for an `Unreadable`, and in a stream the refusal is
raised where the message is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from windlass.engine.errors import EngineError
from windlass.engine.service.status import refuse

Decode = Callable[[bytes], Any]


class Unreadable:
    """Stands for a request whose bytes are no message."""

    def __init__(self, error: EngineError) -> None:
        self.error = error


class Reception:
    """Stands for the server while services are added to it, and puts its own decoding into their handlers."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Left out: the handlers come a second time, by their methods."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the methods of a service."""
        guarded = {name: _guarded(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, guarded),))


def _guarded(handler: Any) -> Any:
    decode: Decode = handler.request_deserializer
    if handler.request_streaming:
        return handler._replace(request_deserializer=_raising(decode))
    if handler.response_streaming:
        call = _guarded_stream(handler.unary_stream)
        return handler._replace(request_deserializer=_standing_in(decode), unary_stream=call)
    return handler._replace(request_deserializer=_standing_in(decode), unary_unary=_guarded_unary(handler.unary_unary))


def _raising(decode: Decode) -> Decode:
    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            raise _refusal(error) from error

    return read


def _standing_in(decode: Decode) -> Decode:
    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            return Unreadable(_refusal(error))

    return read


def _refusal(error: DecodeError) -> EngineError:
    return EngineError("INVALID_FIELD", f"the request is not the message that this method takes: {error}")


def _guarded_unary(method: Any) -> Any:
    async def call(request: Any, context: Any) -> Any:
        if isinstance(request, Unreadable):
            await refuse(context, request.error)
        return await method(request, context)

    return call


def _guarded_stream(method: Any) -> Any:
    async def call(request: Any, context: Any) -> Any:
        if isinstance(request, Unreadable):
            await refuse(context, request.error)
        async for response in method(request, context):
            yield response

    return call
