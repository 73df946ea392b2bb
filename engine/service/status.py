"""Refusals on the wire: google.rpc.Status with exactly one ErrorInfo, and what else helps the caller.

`rpc` wraps a handler: whatever it raises becomes the right code and details. What is not in the error table is a
defect: it is logged with its traceback and shown as INTERNAL without its insides.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from windlass.engine.core.decide import Rejection
from windlass.engine.errors import DOMAIN, RETRYABLE, EngineError
from windlass.engine.leases import refusal
from windlass.storage import port

log = logging.getLogger(__name__)

Servicer = TypeVar("Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")
Context = Any  #: grpc.aio.ServicerContext, generic in ways no handler needs

#: Wait suggested to callers that may repeat the call, in seconds.
RETRY_SECONDS = 1
#: What a call that waits leaves of its caller's deadline for the answer: this part, at least and at most these seconds.
MARGIN_PART: Final = 0.1
MARGIN_SECONDS: Final = (0.05, 1.0)
#: A client that was not told otherwise drops trailers of more than 8 KiB, at random from there up to 16 KiB, and with
#: them the status. A status travels in base64, and its message beside it once more, percent-encoded.
TRAILER_BYTES: Final = 7500
#: Of one text in a status: its message, and a value that the message names.
MESSAGE_BYTES: Final = 800
VALUE_BYTES: Final = 200
VIOLATION_FRAME: Final = 6
#: Whose quota is used up: the first of these that the error names.
_SUBJECTS = ("run_id", "queue", "namespace")


def to_engine_error(error: Exception) -> EngineError:
    """Any exception as a refusal from the table."""
    if isinstance(error, (EngineError, Rejection)):
        return refusal(error)
    if isinstance(error, port.CommitUnknown):
        return EngineError(
            "COMMIT_UNKNOWN", f"it is not known whether this was done; repeat it with the same request_id: {error}"
        )
    if isinstance(error, port.Unavailable):
        return EngineError("STORE_UNAVAILABLE", f"the store does not answer: {error}")
    if isinstance(error, (port.StoreFull, port.StoreReadOnly)):
        return EngineError("STORE_FULL", f"the store cannot take more: {error}")
    if isinstance(error, (port.TransactionTooLarge, port.ValueTooLarge)):
        return EngineError("PAYLOAD_TOO_LARGE", str(error))
    if isinstance(error, port.KeyTooLarge):
        return EngineError("INVALID_FIELD", f"names are too long together to make a key: {error}")
    log.error("defect in a handler", exc_info=error)
    return EngineError("INTERNAL", f"a defect in the engine: {type(error).__name__}; its log has the details")


def to_status(error: EngineError) -> status_pb2.Status:
    """The refusal as google.rpc.Status, cut to what every gRPC client takes."""
    message = _cut(str(error), MESSAGE_BYTES)
    metadata = {name: _cut(value, VALUE_BYTES) for name, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    details: list[Any] = [info]
    if error.reason in RETRYABLE:
        delay = duration_pb2.Duration()
        delay.FromMicroseconds(error.retry_us or RETRY_SECONDS * 1_000_000)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    code: tuple[int, str] = error.code.value
    if error.code is grpc.StatusCode.INVALID_ARGUMENT:
        details.append(_bad_request(error, message, TRAILER_BYTES - _wire_bytes(message) - _packed_bytes(info)))
    elif error.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS):
        details.append(_resource(error, message, metadata))
    elif error.code is grpc.StatusCode.FAILED_PRECONDITION:
        unmet = error_details_pb2.PreconditionFailure.Violation(type=error.reason, description=message)
        details.append(error_details_pb2.PreconditionFailure(violations=[unmet]))
    elif error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        subject = next((f"{name}:{metadata[name]}" for name in _SUBJECTS if name in metadata), "")
        violation = error_details_pb2.QuotaFailure.Violation(subject=subject, description=message)
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    return status_pb2.Status(code=code[0], message=message, details=[_any(detail) for detail in details])


def _any(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _cut(text: str, most: int) -> str:
    data = text.encode()
    return text if len(data) <= most else data[:most].decode(errors="ignore") + "…"


def _wire_bytes(message: str) -> int:
    """What a message takes of the trailers: once as a text, and once in the status."""
    return len(quote(message)) + len(message.encode()) * 4 // 3


def _packed_bytes(detail: Any) -> int:
    return int(detail.ByteSize()) * 4 // 3


def _bad_request(error: EngineError, message: str, room: int) -> error_details_pb2.BadRequest:
    """What is wrong, place by place: as many as there is room for, and at least one."""
    found = error_details_pb2.BadRequest()
    for field, description in error.violations or [(error.metadata.get("field", ""), message)]:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(field, VALUE_BYTES), description=_cut(description, MESSAGE_BYTES)
        )
        room -= _packed_bytes(violation) + VIOLATION_FRAME
        if found.field_violations and room < 0:
            break
        found.field_violations.append(violation)
    return found


def _resource(error: EngineError, message: str, metadata: Mapping[str, str]) -> error_details_pb2.ResourceInfo:
    kind = error.reason.rsplit("_", 2)[0].lower()
    name = next(iter(metadata.values()), "")
    return error_details_pb2.ResourceInfo(resource_type=f"windlass.{kind}", resource_name=name, description=message)


async def refuse(context: Context, error: Exception) -> None:
    """End the call with the error's status. Raises, unless the wire broke or the server stopped: nobody is there."""
    if isinstance(error, grpc.aio.BaseError):
        log.debug("a call broke off: %s", error)
        return
    await context.abort_with_status(rpc_status.to_status(to_status(to_engine_error(error))))


def rpc(
    method: Callable[[Servicer, Request], Awaitable[Response]],
) -> Callable[[Servicer, Request, Context], Awaitable[Response]]:
    """A unary handler: check, call, translate."""

    @functools.wraps(method)
    async def call(self: Servicer, request: Request, context: Context) -> Response:
        return await _answered(method(self, request), context)

    return call


def rpc_waiting(
    method: Callable[[Servicer, Request, float], Awaitable[Response]],
) -> Callable[[Servicer, Request, Context], Awaitable[Response]]:
    """A unary handler that may wait. It is told until when, by the event loop's clock: a caller that has given up would
    never see the answer.
    """

    @functools.wraps(method)
    async def call(self: Servicer, request: Request, context: Context) -> Response:
        return await _answered(method(self, request, _answer_by_s(context)), context)

    return call


async def _answered(answer: Awaitable[Response], context: Context) -> Response:
    try:
        return await answer
    except asyncio.CancelledError:
        raise
    except Exception as error:
        await refuse(context, error)
        raise AssertionError("abort returns never") from error


def _answer_by_s(context: Context) -> float:
    left_s: float | None = context.time_remaining()
    if left_s is None:
        return math.inf
    return asyncio.get_running_loop().time() + left_s - margin_s(left_s)


def margin_s(left_s: float) -> float:
    """What is left for the answer of a call that has so many seconds."""
    least_s, most_s = MARGIN_SECONDS
    return min(max(left_s * MARGIN_PART, least_s), most_s)


def wait_s(wanted_us: int, by_s: float) -> float:
    """How long to wait: as long as the caller wants, but no longer than until `by_s`, by the event loop's clock."""
    return max(0.0, min(wanted_us / 1e6, by_s - asyncio.get_running_loop().time()))


def rpc_stream(
    method: Callable[[Servicer, Request], AsyncIterator[Response]],
) -> Callable[[Servicer, Request, Context], AsyncIterator[Response]]:
    """A handler that answers with a stream."""

    @functools.wraps(method)
    async def call(self: Servicer, request: Request, context: Context) -> AsyncIterator[Response]:
        try:
            async for response in method(self, request):
                yield response
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the outermost frame: every error becomes a status
            await refuse(context, error)

    return call
