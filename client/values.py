"""Between Python values and the wire: JSON payloads, spans, ids of runs, ends of runs.

A JSON value is UTF-8 text in bytes, so that it crosses wire, engine and store unparsed. NaN and Infinity are refused
here rather than by the engine: JSON has no word for them.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import msgspec
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from windlass.client.errors import RunNotCompleted
from windlass.v1 import common_pb2

#: Anything that JSON can say, and pydantic models, dataclasses, dates and UUIDs, which are turned into it.
Json: TypeAlias = Any

#: The four states in which a run has ended.
CLOSED = frozenset({"completed", "failed", "cancelled", "terminated"})

_RUN_ID = re.compile(r"[0-9a-f]{32}\Z")


def encode(value: Json) -> bytes:
    """JSON text. Raises ValueError for NaN and Infinity, TypeError for what JSON cannot hold."""
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()


def decode(text: bytes) -> Json:
    """The value of JSON text; no text at all is null."""
    return msgspec.json.decode(text) if text else None


def payload(value: Json) -> common_pb2.Payload:
    """A value as it goes over the wire."""
    return common_pb2.Payload(data=encode(value))


def json_by_key(values: dict[str, Json] | None) -> dict[str, bytes]:
    """Context values as the wire has them: JSON text by key."""
    return {key: encode(value) for key, value in (values or {}).items()}


def new_id() -> str:
    """A request id, unique for all time."""
    return str(uuid.uuid4())


def span(value: timedelta | float | None) -> Duration | None:
    """A span; a bare number is seconds."""
    if value is None:
        return None
    made = Duration()
    made.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=value))
    return made


def instant(value: datetime | None) -> Timestamp | None:
    """An instant. Raises ValueError for a time without a zone, which could mean any of two dozen instants."""
    if value is None:
        return None
    if value.tzinfo is None:
        raise ValueError(f"{value} has no time zone: say which, for example datetime.now(UTC)")
    made = Timestamp()
    made.FromDatetime(value.astimezone(UTC))
    return made


@dataclass(frozen=True, slots=True)
class Started:
    """A run that is durable."""

    ref: common_pb2.RunRef
    created: bool  #: False if the call found it there already (policy, idempotency key, repeated request)

    @property
    def run_id(self) -> str:
        """The engine's id of the run: 32 hex digits."""
        return self.ref.run_id


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended."""

    state: str  #: completed, failed, cancelled or terminated
    output: Json
    failure: common_pb2.Failure | None
    close_time: datetime

    def value(self) -> Json:
        """The output. Raises RunNotCompleted if the run ended in another way."""
        if self.state != "completed":
            failure = self.failure or common_pb2.Failure()
            raise RunNotCompleted(self.state, failure.code, failure.message)
        return self.output


#: How a call names a run: by its run id (32 hex digits), by the workflow id it was started with (then the newest run
#: that has it is meant), or by what `start` returned.
Which: TypeAlias = "str | common_pb2.RunRef | Started"


def is_run_id(text: str) -> bool:
    """Whether it looks like one of the engine's; ids of one's own that do are taken for one."""
    return bool(_RUN_ID.match(text))


def ids(which: Which) -> tuple[str, str]:
    """run_id and workflow_id; one of the two is empty. Text that looks like a run id is one."""
    if isinstance(which, Started):
        return which.ref.run_id, ""
    if isinstance(which, common_pb2.RunRef):
        return (which.run_id, "") if which.run_id else ("", which.workflow_id)
    if not which:
        raise ValueError("a run id or workflow id is needed, and this one is empty")
    return (which, "") if is_run_id(which) else ("", which)


def choice(option: str, given: str, choices: Mapping[str, int]) -> int:
    """The number on the wire of an option that has a few names. Raises ValueError with the names there are."""
    if given not in choices:
        raise ValueError(f"{option} is {given!r}; it can be {', '.join(choices)}")
    return choices[given]


def state_name(state: int) -> str:
    """`completed` for RUN_STATE_COMPLETED. A state of a newer engine shows as its number."""
    try:
        return common_pb2.RunState.Name(common_pb2.RunState.ValueType(state)).removeprefix("RUN_STATE_").lower()
    except ValueError:
        return str(state)


def state_number(name: str) -> common_pb2.RunState.ValueType:
    """The inverse of `state_name`. Raises ValueError with the names there are."""
    try:
        return common_pb2.RunState.Value(f"RUN_STATE_{name.upper()}")
    except ValueError:
        known = ", ".join(key.removeprefix("RUN_STATE_").lower() for key in common_pb2.RunState.keys()[1:])
        raise ValueError(f"{name!r} is no state of a run; there are {known}") from None


def result_of(result: common_pb2.RunResult) -> RunResult:
    """A run's end as Python values."""
    return RunResult(
        state=state_name(result.state),
        output=decode(result.output.data),
        failure=result.failure if result.HasField("failure") else None,
        close_time=result.close_time.ToDatetime(UTC),
    )


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if dump is not None else msgspec.to_builtins(value)
