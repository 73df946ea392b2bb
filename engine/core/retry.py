"""Whether a failed attempt is tried again, and when. Arithmetic: chance comes in as `jitter`, from [0, 1)."""

from __future__ import annotations

from windlass.engine.core.commands import Failure
from windlass.engine.core.definition import RetryPolicy

#: Trying again cannot help: the code or the data has to change first. A policy may list one as retryable all the same.
NOT_RETRYABLE = frozenset({
    "SCHEMA_MISMATCH", "BAD_INPUT", "BAD_OUTPUT", "BAD_CODE", "OUTPUT_TOO_LARGE", "CONTEXT_TOO_LARGE", "NEVER_SETTLED",
    "OUT_OF_MEMORY", "OUT_OF_FUEL", "STACK_OVERFLOW", "RUNTIME_UNSUPPORTED", "ADDRESS_REFUSED", "PERMISSION_DENIED",
    "ROUTE_UNKNOWN", "INVALID_ASK", "SCHEDULE_TO_START_TIMEOUT", "SCHEDULE_TO_CLOSE_TIMEOUT",
})  # fmt: skip


#: Where neither step, definition nor namespace say anything.
DEFAULT_POLICY = RetryPolicy()


def retryable(policy: RetryPolicy, failure: Failure, attempt: int) -> bool:
    """True if another attempt may follow attempt number `attempt` (from 1) that failed so."""
    if policy.max_attempts and attempt >= policy.max_attempts:
        return False
    if failure.code in policy.non_retryable:
        return False
    if failure.code in policy.retryable:
        return True
    if failure.retryable is not None:
        return failure.retryable
    return failure.code not in NOT_RETRYABLE


def delay_us(policy: RetryPolicy, attempt: int, jitter: float) -> int:
    """How long to wait after attempt `attempt`: the delay of the policy, moved by up to its jitter share either way."""
    exponent = min(attempt - 1, 64)
    full = min(policy.initial_delay_us * policy.multiplier**exponent, float(policy.max_delay_us))
    return max(0, int(full * (1.0 + policy.jitter * (2.0 * jitter - 1.0))))
