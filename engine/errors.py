"""The public error table: every reason a caller can meet, with its gRPC code.

Code that refuses raises `EngineError(reason, message, **metadata)`; the gRPC layer turns it into a google.rpc.Status
with one ErrorInfo. Failures of user code are data in the run and never come here. `docs/errors.md` tells the reader
what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import grpc

from windlass.storage.port import Refused, StorageError, TransactionTooOld

DOMAIN: Final = "windlass"

_INVALID, _MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
_EXISTS, _STATE = grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION
_ABORTED, _EXHAUSTED = grpc.StatusCode.ABORTED, grpc.StatusCode.RESOURCE_EXHAUSTED
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

CODES: Final[dict[str, grpc.StatusCode]] = {
    "INVALID_FIELD": _INVALID,
    "INVALID_JSON": _INVALID,
    "INPUT_SCHEMA_MISMATCH": _INVALID,
    "CONFIG_SCHEMA_MISMATCH": _INVALID,
    "SIGNAL_SCHEMA_MISMATCH": _INVALID,
    "BAD_DEFINITION": _INVALID,
    "BAD_MODULE": _INVALID,
    "DIGEST_MISMATCH": _INVALID,
    "BAD_SELECTOR": _INVALID,
    "SELECTOR_FAILED": _INVALID,
    "BAD_PAGE_TOKEN": _INVALID,
    "BAD_RESUME_TOKEN": _INVALID,
    "BAD_TASK_TOKEN": _INVALID,
    "REQUEST_ID_REUSED": _INVALID,
    "REPLY_INVALID": _INVALID,
    "TIME_IN_PAST": _INVALID,
    "NAMESPACE_NOT_FOUND": _MISSING,
    "RUN_NOT_FOUND": _MISSING,
    "WORKFLOW_NOT_REGISTERED": _MISSING,
    "REVISION_NOT_FOUND": _MISSING,
    "STATE_NOT_FOUND": _MISSING,
    "EVENT_NOT_FOUND": _MISSING,
    "MODULE_NOT_FOUND": _MISSING,
    "SESSION_NOT_FOUND": _MISSING,
    "INCIDENT_NOT_FOUND": _MISSING,
    "ESCALATION_NOT_FOUND": _MISSING,
    "UPDATE_NOT_DECLARED": _MISSING,
    "RUN_ALREADY_STARTED": _EXISTS,
    "NAMESPACE_EXISTS": _EXISTS,
    "MESSAGE_DUPLICATE": _EXISTS,
    "RUN_CLOSED": _STATE,
    "RUN_OPEN": _STATE,
    "RUN_NOT_PAUSED": _STATE,
    "RUN_CANCELLING": _STATE,
    "WAIT_NOT_OPEN": _STATE,
    "ESCALATION_CLOSED": _STATE,
    "INCIDENT_RESOLVED": _STATE,
    "UPDATE_REFUSED": _STATE,
    "REVISION_IN_USE": _STATE,
    "HISTORY_COMPACTED": _STATE,
    "NOT_VIRTUAL_TIME": _STATE,
    "LEASE_LOST": _ABORTED,
    "SESSION_REPLACED": _ABORTED,
    "ETAG_MISMATCH": _ABORTED,
    "TRANSACTION_CONFLICT": _ABORTED,
    "PAYLOAD_TOO_LARGE": _EXHAUSTED,
    "CONTEXT_TOO_LARGE": _EXHAUSTED,
    "MODULE_TOO_LARGE": _EXHAUSTED,
    "STORE_FULL": _EXHAUSTED,
    "INBOX_FULL": _EXHAUSTED,
    "BACKLOG_FULL": _EXHAUSTED,
    "RATE_LIMITED": _EXHAUSTED,
    "ENGINE_DRAINING": _UNAVAILABLE,
    "STORE_UNAVAILABLE": _UNAVAILABLE,
    "COMMIT_UNKNOWN": _UNAVAILABLE,
    "RUNTIME_UNSUPPORTED": grpc.StatusCode.UNIMPLEMENTED,
    "INTERNAL": grpc.StatusCode.INTERNAL,
}

#: Reasons whose call may simply be repeated after a short wait (RetryInfo is attached).
RETRYABLE: Final = frozenset({
    "ENGINE_DRAINING", "STORE_UNAVAILABLE", "COMMIT_UNKNOWN", "TRANSACTION_CONFLICT", "INBOX_FULL", "BACKLOG_FULL",
    "RATE_LIMITED",
})  # fmt: skip


#: Places and what is wrong there.
Violations = Sequence[tuple[str, str]]


class EngineError(Exception):
    """A refusal for the caller. `metadata` holds each value named in the message."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        violations: Violations = (),
        metadata: Mapping[str, str] | None = None,
        retry_us: int = 0,
        **more: str,
    ) -> None:
        super().__init__(message)
        self.reason, self.metadata = reason, {**(metadata or {}), **more}
        self.retry_us = retry_us  #: when a repeated call may do better, if that is known
        self.violations = violations  #: for INVALID_ARGUMENT: each place and what is wrong there

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC code of the reason; a reason missing from the table is a defect and shows as INTERNAL."""
        return CODES.get(self.reason, grpc.StatusCode.INTERNAL)


def store_failed(error: BaseException, parts: int = 1) -> bool:
    """Whether the store failed, so that nothing is gained by asking it for less: it refused nothing for its size, and
    if it took too long, it was one part of work alone that did.
    """
    if parts > 1 and isinstance(error, TransactionTooOld):
        return False
    return isinstance(error, StorageError) and not isinstance(error, Refused)
