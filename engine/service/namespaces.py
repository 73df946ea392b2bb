"""A namespace's limits and default retry policy, from the wire and back."""

from __future__ import annotations

from typing import Any

from windlass.engine.core.definition import RetryPolicy
from windlass.engine.errors import EngineError
from windlass.engine.records import NamespaceRecord
from windlass.engine.service import convert
from windlass.v1 import admin_service_pb2 as pb
from windlass.v1 import common_pb2


def limits_in(limits: pb.NamespaceLimits) -> dict[str, Any]:
    """The record's fields. Raises EngineError INVALID_FIELD for a negative limit."""
    found = {name: getattr(limits, name) for name in ("open_runs", "queued_tasks", "starts_per_second")}
    for name, limit in found.items():
        if not 0 <= limit < float("inf"):  # a NaN is none either
            raise EngineError("INVALID_FIELD", f"{name} must not be below 0; 0 is no limit", field=f"limits.{name}")
    return found


def retry_in(namespace: pb.Namespace) -> RetryPolicy | None:
    """The default retry policy. Raises EngineError INVALID_FIELD."""
    if not namespace.HasField("default_retry"):
        return None
    given, plain = namespace.default_retry, RetryPolicy()
    present = {field.name for field, _ in given.ListFields()}
    policy = RetryPolicy(
        max_attempts=given.max_attempts if given.HasField("max_attempts") else plain.max_attempts,
        initial_delay_us=_span(given, "initial_delay") if "initial_delay" in present else plain.initial_delay_us,
        max_delay_us=_span(given, "max_delay") if "max_delay" in present else plain.max_delay_us,
        multiplier=given.multiplier if given.HasField("multiplier") else plain.multiplier,
        jitter=given.jitter if given.HasField("jitter") else plain.jitter,
        non_retryable=tuple(given.non_retryable_codes),
        retryable=tuple(given.retryable_codes),
    )
    for field, fine, rule in (
        ("max_attempts", policy.max_attempts >= 0, "must not be below 0; 0 is no limit"),
        ("multiplier", 1.0 <= policy.multiplier <= 1000.0, "must be from 1 to 1000"),
        ("jitter", 0.0 <= policy.jitter <= 1.0, "must be from 0 to 1"),
        ("initial_delay", policy.initial_delay_us <= policy.max_delay_us, "must not be longer than max_delay"),
    ):
        if not fine:
            raise EngineError("INVALID_FIELD", f"{field} {rule}", field=f"default_retry.{field}")
    return policy


def _span(given: common_pb2.RetryPolicy, name: str) -> int:
    return convert.span_us(getattr(given, name), f"default_retry.{name}")


def show(record: NamespaceRecord, message: pb.Namespace) -> None:
    """Put the limits and the policy into the message, as far as they are set."""
    if record.open_runs or record.queued_tasks or record.starts_per_second:
        limits = message.limits
        limits.open_runs, limits.queued_tasks = record.open_runs, record.queued_tasks
        limits.starts_per_second = record.starts_per_second
    if (policy := record.retry) is not None:
        retry = message.default_retry
        retry.max_attempts, retry.multiplier, retry.jitter = policy.max_attempts, policy.multiplier, policy.jitter
        retry.initial_delay.CopyFrom(convert.duration(policy.initial_delay_us))
        retry.max_delay.CopyFrom(convert.duration(policy.max_delay_us))
        retry.non_retryable_codes.extend(policy.non_retryable)
        retry.retryable_codes.extend(policy.retryable)
