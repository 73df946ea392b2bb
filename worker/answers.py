"""What a refused answer means, and what to send instead.

A refusal for the lease or the run means that nobody wants the answer any more. A refusal of the answer itself (too
large, not the schema's, an undeclared route) would leave the task leased and silent until its timeout, so it is
followed by a failure that says why: the run then goes by its retry policy and transitions at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as wire

_PASSING: Final = frozenset({grpc.StatusCode.UNAVAILABLE.value[0], grpc.StatusCode.DEADLINE_EXCEEDED.value[0]})
#: Nobody waits for an answer: lease gone, run closed or deleted, token not known.
_UNWANTED: Final = frozenset(
    {"LEASE_LOST", "RUN_CLOSED", "RUN_NOT_FOUND", "TASK_NOT_FOUND", "BAD_TASK_TOKEN", "NAMESPACE_NOT_FOUND"}
)


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


def answer_after(refusal: Refusal, answer: wire.TaskResult | wire.TaskRelease) -> wire.TaskResult | None:
    """Return what to send after `answer` was refused for good: a failure that says why, or None for nothing."""
    if refusal.reason in _UNWANTED or isinstance(answer, wire.TaskRelease) or answer.HasField("failure"):
        return None
    failure = common_pb2.Failure(code=refusal.reason, message=refusal.message, retryable=False)
    return wire.TaskResult(task_token=answer.task_token, failure=failure, usage=answer.usage, denials=answer.denials)
