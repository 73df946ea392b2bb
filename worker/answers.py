"""What a refused answer means, and what to send instead.

A refusal for the lease or the run means that nobody wants the answer any more. A refusal of the answer itself (too
large, not the schema's, an undeclared route) would leave the task leased and silent until its timeout, so it is
followed by a failure that says why: the run then goes by its retry policy and transitions at once.

An answer that no message can hold is not even sent: the engine would end the stream, each time anew, and with it
everything else that this worker has to say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from windlass.runtimes.failures import OUTPUT_TOO_LARGE
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as wire

_PASSING: Final = frozenset({grpc.StatusCode.UNAVAILABLE.value[0], grpc.StatusCode.DEADLINE_EXCEEDED.value[0]})
#: Nobody waits for an answer: lease gone, run closed or deleted, token not known.
_UNWANTED: Final = frozenset(
    {"LEASE_LOST", "RUN_CLOSED", "RUN_NOT_FOUND", "TASK_NOT_FOUND", "BAD_TASK_TOKEN", "NAMESPACE_NOT_FOUND"}
)


#: Of a message or stack that is part of too large an answer.
_TEXT_KEPT: Final = 8_000


@dataclass(frozen=True)
class Refusal:
    """Why the engine did not take something. `passing`: the same may be taken a little later."""

    reason: str
    message: str
    passing: bool = False
    metadata: dict[str, str] = field(default_factory=dict)


def refusal_of(status: status_pb2.Status) -> Refusal:
    """Read a status with its ErrorInfo; a status without one gets its code's name as reason."""
    reason, metadata, retry = "", {}, False
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR) and detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        retry = retry or detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    passing = status.code in _PASSING or (retry and reason != "LEASE_LOST")
    return Refusal(reason or f"CODE_{status.code}", status.message, passing, metadata)


def fitting(answer: wire.TaskResult | wire.TaskRelease, most_bytes: int) -> wire.TaskResult | wire.TaskRelease:
    """Return `answer`, or what can be said of it in `most_bytes`."""
    size, token = answer.ByteSize(), answer.task_token
    if size <= most_bytes:
        return answer
    if isinstance(answer, wire.TaskRelease):
        return wire.TaskRelease(task_token=token, reason=answer.reason, message=answer.message[:_TEXT_KEPT])
    if answer.HasField("failure"):
        told = answer.failure
        failure = common_pb2.Failure(
            code=told.code[:_TEXT_KEPT], message=told.message[:_TEXT_KEPT], stack=told.stack[:_TEXT_KEPT]
        )
        if told.HasField("retryable"):
            failure.retryable = told.retryable
        return wire.TaskResult(task_token=token, failure=failure, usage=answer.usage)
    message = (
        f"the result takes {size} bytes with its context values, asks and logs;"
        f" what is sent to an engine may take {most_bytes}"
    )
    failure = common_pb2.Failure(code=OUTPUT_TOO_LARGE, message=message, retryable=False)
    return wire.TaskResult(task_token=token, failure=failure, usage=answer.usage)


def answer_after(refusal: Refusal, answer: wire.TaskResult | wire.TaskRelease) -> wire.TaskResult | None:
    """Return what to send after `answer` was refused for good: a failure that says why, or None for nothing."""
    if refusal.reason in _UNWANTED or isinstance(answer, wire.TaskRelease) or answer.HasField("failure"):
        return None
    failure = common_pb2.Failure(code=refusal.reason, message=refusal.message, retryable=False)
    return wire.TaskResult(task_token=answer.task_token, failure=failure, usage=answer.usage, denials=answer.denials)
