"""Between the wire's messages and the engine's records. Times are µs inside and Timestamp/Duration outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from google.protobuf import duration_pb2, timestamp_pb2

from windlass.engine.core.commands import Asks, Denial, Failure, LogLine, Spawn
from windlass.engine.core.limits import FOREVER_US
from windlass.engine.core.state import CLOSED, RunState
from windlass.engine.definitions import parse_json
from windlass.engine.errors import EngineError
from windlass.engine.failure_codes import code_in
from windlass.engine.records import ModuleSignature
from windlass.v1 import common_pb2, worker_service_pb2

K = TypeVar("K", bound=int)
T = TypeVar("T")

STATES: Final[dict[str, common_pb2.RunState.ValueType]] = {
    name: common_pb2.RunState.Value(f"RUN_STATE_{name.upper()}")
    for name in (
        "pending",
        "running",
        "waiting",
        "paused",
        "incident",
        "cancelling",
        "completed",
        "failed",
        "cancelled",
        "terminated",
    )
}
STATE_NAMES: Final = {value: name for name, value in STATES.items()}
#: What is kept of a failure; a run's record holds several of them.
FAILURE_TEXT_CHARACTERS: Final = 10_000
FAILURE_DETAILS_BYTES: Final = 50_000
#: What is kept of an attempt's log.
LOG_LINES: Final = 200
LOG_CHARACTERS: Final = 64_000
#: What is kept of what an attempt was refused.
DENIALS: Final = 32
DENIAL_KINDS: Final = frozenset({"file", "network", "sleep", "process", "address", "other"})
DENIAL_CALL_CHARACTERS: Final = 64
DENIAL_ARGUMENT_CHARACTERS: Final = 200
#: Figures above it are cut: every JSON reader can hold it.
FIGURE_MAX: Final = 1 << 53
SPAN_MAX_US: Final = 100 * 366 * 86_400_000_000
_CLOSE_POLICIES: Final = {0: "terminate", 1: "terminate", 2: "abandon", 3: "cancel"}


def known(value: K, names: Mapping[K, T], field: str) -> T:
    """What a value of an enum stands for. Raises EngineError INVALID_FIELD for one that this version has no name for:
    what a newer client means by it must not be guessed at.
    """
    if value not in names:
        raise EngineError("INVALID_FIELD", f"{field} has no value {value}", field=field)
    return names[value]


def timestamp(time_us: int) -> timestamp_pb2.Timestamp | None:
    """None for 0, which means never."""
    if not time_us:
        return None
    seconds, rest = divmod(time_us, 1_000_000)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=rest * 1000)


def duration(span_us: int) -> duration_pb2.Duration:
    seconds, rest = divmod(span_us, 1_000_000)
    return duration_pb2.Duration(seconds=seconds, nanos=rest * 1000)


def time_us(value: timestamp_pb2.Timestamp, field: str = "time") -> int:
    """Raises EngineError INVALID_FIELD for an instant before 1970 or after 2100."""
    time = value.seconds * 1_000_000 + value.nanos // 1000
    if not 0 <= time <= FOREVER_US:
        raise EngineError("INVALID_FIELD", f"{field} must be between 1970 and 2100", field=field)
    return time


def span_us(value: duration_pb2.Duration, field: str = "duration") -> int:
    """Raises EngineError INVALID_FIELD for a negative span, or one over a hundred years."""
    span = value.seconds * 1_000_000 + value.nanos // 1000
    if span < 0:
        raise EngineError("INVALID_FIELD", f"{field} must not be negative", field=field)
    if span > SPAN_MAX_US:
        raise EngineError("INVALID_FIELD", f"{field} must not be longer than a hundred years", field=field)
    return span


def payload(data: bytes) -> common_pb2.Payload:
    return common_pb2.Payload(data=data)


def json_in(given: common_pb2.Payload, field: str) -> bytes:
    """The JSON text of a payload; empty is null. Raises EngineError INVALID_JSON."""
    if given.data:
        parse_json(given.data, field)
    return given.data or b"null"


def failure_of(state: RunState) -> common_pb2.Failure | None:
    """The run's last error. A run cancelled by an earlier version kept none: then its request says who did it."""
    if state.failure is None and state.status == "cancelled" and state.cancel is not None:
        why = f": {state.cancel.reason}" if state.cancel.reason else ""
        return common_pb2.Failure(code="CANCELLED", message=f"cancelled by {state.cancel.source}{why}", retryable=False)
    return failure_out(state.failure)


def failure_out(failure: Failure | None) -> common_pb2.Failure | None:
    if failure is None:
        return None
    return common_pb2.Failure(
        code=failure.code,
        message=failure.message,
        retryable=failure.retryable,
        details=failure.details,
        stack=failure.stack,
        next_delay=None if failure.next_delay_us is None else duration(failure.next_delay_us),
        cause=failure.cause,
    )


def failure_in(failure: common_pb2.Failure) -> Failure:
    """A worker's failure, cut to what a run's record can hold: the attempt has failed however much it has to say."""
    details = failure.details
    if len(details) > FAILURE_DETAILS_BYTES:
        details = b'{"omitted_bytes":%d}' % len(details)
    code, message = code_in(failure.code, failure.message)
    return Failure(
        code=code,
        message=_cut(message),
        retryable=failure.retryable if failure.HasField("retryable") else None,
        details=details,
        stack=_cut(failure.stack),
        next_delay_us=cut_span_us(failure.next_delay) if failure.HasField("next_delay") else None,
        cause=_cut(failure.cause),
    )


def cut_span_us(value: duration_pb2.Duration) -> int:
    """A span that task code wishes for: one that cannot be is cut to one that can, for its report stands."""
    return min(max(0, value.seconds * 1_000_000 + value.nanos // 1000), SPAN_MAX_US)


def logs_in(lines: Sequence[worker_service_pb2.LogLine]) -> tuple[LogLine, ...]:
    """What task code logged, cut to what a run's history should hold."""
    kept: list[LogLine] = []
    room = LOG_CHARACTERS
    for line in lines:
        size = len(line.message) + len(line.metadata)
        if len(kept) == LOG_LINES or size > room:
            return (*kept, LogLine("warn", f"{len(lines) - len(kept)} more log lines are not kept"))
        room -= size
        kept.append(LogLine(line.level or "info", line.message, line.metadata))
    return tuple(kept)


def usage_in(usage: worker_service_pb2.TaskUsage) -> dict[str, int]:
    """What an attempt used, as far as its worker knows. Figures that no attempt can have are cut, not refused."""
    figures = {
        "wall_us": usage.wall_time.seconds * 1_000_000 + usage.wall_time.nanos // 1000,
        "cpu_us": usage.cpu_time.seconds * 1_000_000 + usage.cpu_time.nanos // 1000,
        "memory_bytes": usage.memory_bytes,
        "fuel": usage.fuel,
    }
    return {name: min(figure, FIGURE_MAX) for name, figure in figures.items() if figure > 0}


def denials_in(denials: Sequence[worker_service_pb2.TaskDenial]) -> tuple[Denial, ...]:
    """What an attempt was refused, cut to what a run's history should hold."""
    return tuple(
        Denial(
            each.kind if each.kind in DENIAL_KINDS else "other",
            each.call[:DENIAL_CALL_CHARACTERS],
            each.argument[:DENIAL_ARGUMENT_CHARACTERS],
            min(each.count or 1, FIGURE_MAX),
        )
        for each in denials[:DENIALS]
    )


def signatures_in(given: Iterable[common_pb2.ModuleSignature]) -> list[ModuleSignature]:
    return [ModuleSignature(each.public_key, each.signature) for each in given]


def signatures_out(signatures: Iterable[ModuleSignature]) -> list[common_pb2.ModuleSignature]:
    return [common_pb2.ModuleSignature(public_key=each.key, signature=each.signature) for each in signatures]


def _cut(text: str) -> str:
    if len(text) <= FAILURE_TEXT_CHARACTERS:
        return text
    return f"{text[:FAILURE_TEXT_CHARACTERS]}… ({len(text) - FAILURE_TEXT_CHARACTERS} more characters)"


def run_ref(state: RunState) -> common_pb2.RunRef:
    return common_pb2.RunRef(
        namespace=state.namespace,
        run_id=state.run_id,
        workflow_id=state.workflow_id,
        workflow=state.workflow,
        revision=state.revision,
    )


def run_result(state: RunState) -> common_pb2.RunResult | None:
    """The end of a run; None while it is open."""
    if state.status not in CLOSED:
        return None
    return common_pb2.RunResult(
        state=STATES[state.status],
        output=payload(state.output) if state.status == "completed" else None,
        failure=failure_of(state) if state.status != "completed" else None,
        close_time=timestamp(state.closed_us),
    )


def asks_in(result: worker_service_pb2.TaskResult) -> Asks | None:
    """What task code asked for besides its result; None if nothing."""
    if not result.context_patch and not result.HasField("asks"):
        return None
    asks = result.asks
    return Asks(
        set=_patch(result.context_patch),
        route=asks.route,
        wait_for=tuple(asks.wait_for),
        wait_any=asks.wait_any,
        wait_timeout_us=span_us(asks.wait_timeout, "wait_timeout") if asks.HasField("wait_timeout") else None,
        spawn=tuple(_spawn(each) for each in asks.spawns),
        escalate=asks.escalate,
        suspend=asks.suspend,
        suspend_us=span_us(asks.suspend_for, "suspend_for") if asks.HasField("suspend_for") else None,
        emit=tuple((each.name, each.payload) for each in asks.emits),
    )


def _patch(values: Mapping[str, bytes]) -> dict[str, bytes]:
    return dict(values)


def _spawn(ask: worker_service_pb2.SpawnAsk) -> Spawn:
    return Spawn(
        workflow=ask.workflow,
        input=ask.input or b"{}",
        detach=ask.detach,
        close_policy=_CLOSE_POLICIES.get(ask.close_policy, "terminate"),
        workflow_id=ask.workflow_id,
    )
