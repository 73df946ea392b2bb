"""What task code may ask of the engine, as guests spell it: JSON objects told apart by `kind`.

JavaScript (`ctx.spawn(…)` and friends) and WebAssembly (`task.ask`) hand over the same objects, so the same wish gives
the same record whatever the runtime. Guests write names in camelCase and durations as text or milliseconds.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, assert_never

import msgspec
from msgspec import Raw, Struct

from windlass.runtimes.durations import parse_duration_us
from windlass.runtimes.port import Ask, Escalate, Route, Spawn, Suspend, WaitFor

_Duration: TypeAlias = str | int | float | None

MAX_ASKS = 1_000
#: Of one wait; the engine takes no more (`WAIT_SIGNALS_MAX` in engine/core/limits.py; a test compares them).
MAX_SIGNALS = 100


class BadAsk(Exception):
    """The task asked for something that cannot be understood."""


class _Spawn(Struct, tag_field="kind", tag="spawn", rename="camel", forbid_unknown_fields=True):
    workflow: str
    input: Raw = Raw(b"null")
    id: str = ""
    detached: bool = False


class _WaitFor(Struct, tag_field="kind", tag="wait_for", rename="camel", forbid_unknown_fields=True):
    signals: tuple[str, ...]
    mode: Literal["any", "all"] = "any"
    timeout: _Duration = None


class _Escalate(Struct, tag_field="kind", tag="escalate", rename="camel", forbid_unknown_fields=True):
    to: str
    message: str
    inputs: Raw = Raw(b"[]")
    timeout: _Duration = None


class _Suspend(Struct, tag_field="kind", tag="suspend", rename="camel", forbid_unknown_fields=True):
    state: Raw = Raw(b"null")
    after: _Duration = None


class _Route(Struct, tag_field="kind", tag="route", rename="camel", forbid_unknown_fields=True):
    name: str


_Spec: TypeAlias = _Spawn | _WaitFor | _Escalate | _Suspend | _Route

_LIST = msgspec.json.Decoder(list[_Spec])


def decode_asks(text: bytes | Raw) -> tuple[Ask, ...]:
    """Return the records for a JSON list of asks. Raises BadAsk with a message for the author."""
    if bytes(text) == b"[]":
        return ()
    try:
        specs = _LIST.decode(text)
        if len(specs) > MAX_ASKS:
            raise BadAsk(f"the task asked for {len(specs)} things; the limit is {MAX_ASKS}")
        return tuple(_record(spec) for spec in specs)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadAsk(f"cannot understand what the task asked for: {error}") from error


def _record(spec: _Spec) -> Ask:
    match spec:
        case _Spawn():
            return Spawn(spec.workflow, bytes(spec.input), spec.id, spec.detached)
        case _WaitFor():
            if not spec.signals:
                raise ValueError("waitFor needs the name of at least one signal")
            if len(spec.signals) > MAX_SIGNALS:
                raise ValueError(f"waitFor was given {len(spec.signals)} signals; the limit is {MAX_SIGNALS}")
            return WaitFor(spec.signals, spec.mode, optional_duration_us(spec.timeout))
        case _Escalate():
            return Escalate(spec.to, spec.message, bytes(spec.inputs), optional_duration_us(spec.timeout))
        case _Suspend():
            return Suspend(bytes(spec.state), optional_duration_us(spec.after))
        case _Route():
            return Route(spec.name)
        case _:
            assert_never(spec)


def optional_duration_us(value: _Duration) -> int | None:
    """Return the duration in microseconds, or None for None. Raises ValueError."""
    return None if value is None else parse_duration_us(value)
