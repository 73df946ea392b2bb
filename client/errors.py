"""What a call can fail with: one exception, made from the google.rpc.Status that the engine sends.

Match on `reason`, never on the message; `docs/errors.md` lists every reason with what to do. A failure of user code
is no error of a call: it is data in the run, and `RunResult.value()` turns it into `RunNotCompleted` for those who
want that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

_TRAILER = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a request: where, and what."""

    field: str
    description: str


class WindlassError(Exception):
    """The engine refused a call, or could not be reached."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        code: grpc.StatusCode,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        violations: tuple[Violation, ...] = (),
    ) -> None:
        super().__init__(message)
        self.reason = reason  #: upper snake case, from the public table; the name of the code if no engine answered
        self.message = message
        self.code = code
        self.metadata = dict(metadata or {})  #: each value that the message names
        self.retry_after = retry_after  #: seconds after which the engine suggests to repeat; None = it does not
        self.violations = violations

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class RunNotCompleted(Exception):
    """The run has closed, and not as completed."""

    def __init__(self, state: str, code: str, message: str) -> None:
        super().__init__(f"the run ended as {state}" + (f": {code}: {message}" if code else ""))
        self.state, self.code, self.message = state, code, message


def error_of_call(error: grpc.aio.AioRpcError) -> WindlassError:
    """The error that a failed call stands for."""
    for key, value in error.trailing_metadata() or ():
        if key == _TRAILER and isinstance(value, bytes):
            return error_of_status(status_pb2.Status.FromString(value))
    code = error.code()
    return WindlassError(code.name, error.details() or "the call failed without a message", code=code)


def error_of_status(status: status_pb2.Status) -> WindlassError:
    """The error that a Status stands for: of a call, or of one item of a batch."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    info = error_details_pb2.ErrorInfo(reason=code.name)
    retry_after: float | None = None
    violations: tuple[Violation, ...] = ()
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry_after = _retry_after(detail)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            violations = _violations(detail)
    return WindlassError(
        info.reason, status.message, code=code, metadata=info.metadata, retry_after=retry_after, violations=violations
    )


def stream_ended() -> WindlassError:
    """The engine ended a stream before its time, without an error: it is going away, and its successor goes on."""
    return WindlassError(
        "STREAM_ENDED", "the engine ended the stream before its time", code=grpc.StatusCode.UNAVAILABLE
    )


def _retry_after(detail: any_pb2.Any) -> float:
    retry = error_details_pb2.RetryInfo()
    detail.Unpack(retry)
    return float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)


def _violations(detail: any_pb2.Any) -> tuple[Violation, ...]:
    bad = error_details_pb2.BadRequest()
    detail.Unpack(bad)
    return tuple(Violation(each.field, each.description) for each in bad.field_violations)
