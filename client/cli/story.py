"""A run's history folded into what a person wants to see: which states, which tasks, which attempt on which worker.

Event types are open (docs/history.md): one that is not known here changes nothing and is still shown as a line of its
own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import timestamp_pb2

from windlass.client.cli.plain import local_time, value_of
from windlass.client.cli.screen import cell
from windlass.v1 import common_pb2

#: Attributes that say nothing to a person, or are shown elsewhere.
_HIDDEN = frozenset(
    {
        "at_us",
        "path",
        "node",
        "nodes",
        "timers",
        "run_timers",
        "session",
        "lease_us",
        "undo",
        "take",
        "key",
        "usage",
        "denials",
        "joined",
    }
)
_TEXT_MAX = 160
_DENIALS_SHOWN, _ARGUMENT_MAX = 3, 60
#: What is shown of an attempt's use: label, divisor, digits and unit.
_FIGURES = (
    ("wall_us", "took ", 1_000, 1, " ms"),
    ("cpu_us", "cpu ", 1_000, 1, " ms"),
    ("memory_bytes", "", 1_000_000, 1, " MB"),
    ("fuel", "fuel ", 1, 0, ""),
)


@dataclass(slots=True)
class Attempt:
    """One try of a task."""

    worker: str
    end: str = ""  #: completed, or why it ended otherwise; "" = under way


@dataclass(slots=True)
class Step:
    """One piece of work of a visit: the state's own step, a branch, an item, an action's task."""

    state: str
    visit: int
    path: str
    attempts: list[Attempt] = field(default_factory=list)
    outcome: str = ""

    @property
    def retried(self) -> bool:
        """True if it took more than one attempt."""
        return len(self.attempts) > 1


@dataclass(slots=True)
class Story:
    """What has happened so far."""

    visits: list[tuple[str, int]] = field(default_factory=list)  #: states in the order entered
    steps: dict[tuple[int, str], Step] = field(default_factory=dict)  #: by visit and node path
    closed: str = ""

    def add(self, event: common_pb2.HistoryEvent) -> None:
        """One more event."""
        attributes = attributes_of(event)
        match event.type:
            case "StateEntered":
                self.visits.append((event.state or str(attributes.get("state", "")), len(self.visits) + 1))
            case "AttemptStarted":
                self._step(event.path).attempts.append(Attempt(str(attributes.get("worker", ""))))
            case "AttemptEnded":
                self._end(event.path, _why(attributes))
            case "TaskCompleted":
                self._end(event.path, "completed")
                self._step(event.path).outcome = str(attributes.get("outcome", "success"))
            case "NodeClosed":
                self._end(event.path, _why(attributes))
                self._step(event.path).outcome = str(attributes.get("outcome", ""))
            case "RunClosed":
                self.closed = str(attributes.get("status", "closed"))

    def steps_of(self, visit: int) -> list[Step]:
        """The steps of a visit, in the order they began."""
        return [step for step in self.steps.values() if step.visit == visit]

    def _step(self, path: str) -> Step:
        state, visit = self.visits[-1] if self.visits else ("", 0)
        return self.steps.setdefault((visit, path), Step(state, visit, path))

    def _end(self, path: str, why: str) -> None:
        attempts = self._step(path).attempts
        if attempts and not attempts[-1].end:
            attempts[-1].end = why


def attributes_of(event: common_pb2.HistoryEvent) -> Mapping[str, Any]:
    """The event's attributes; empty if they are no object."""
    value = value_of(event.attributes)
    return value if isinstance(value, dict) else {}


def place_of(event: common_pb2.HistoryEvent) -> str:
    """State and node path, such as `charge` or `notify/#3`."""
    return "/".join(part for part in (event.state, event.path) if part)


def detail_of(event: common_pb2.HistoryEvent) -> str:
    """The attributes that tell something, in one line."""
    attributes = attributes_of(event)
    shown = [
        f"{key}={cell(value)}"
        for key, value in attributes.items()
        if key not in _HIDDEN and value not in (None, "", [], {}, False)
    ]
    text = "  ".join([*_until(event, attributes), *_refused(attributes), *shown, *_used(attributes)])
    return text if len(text) <= _TEXT_MAX else text[: _TEXT_MAX - 1] + "…"


def _until(event: common_pb2.HistoryEvent, attributes: Mapping[str, Any]) -> Iterator[str]:
    """How far an extension goes: `until 2026-11-21 16:30:00`."""
    until_us = attributes.get("lease_us")
    if event.type == "AttemptExtended" and isinstance(until_us, int):
        time = timestamp_pb2.Timestamp()
        time.FromMicroseconds(until_us)
        yield f"until {local_time(time)}"


def _refused(attributes: Mapping[str, Any]) -> Iterator[str]:
    """What the sandbox refused: `refused: path_open '/etc/passwd' (3 times)`. Task code chose the texts."""
    said = attributes.get("denials")
    denials = [each for each in said if isinstance(each, dict)] if isinstance(said, list) else []
    for each in denials[:_DENIALS_SHOWN]:
        call, argument, count = repr(each.get("call", ""))[1:-1], str(each.get("argument", "")), each.get("count", 1)
        shown = f" {argument[:_ARGUMENT_MAX]!r}" if argument else ""
        yield f"refused: {call}{shown}" + (f" ({count} times)" if count != 1 else "")
    if len(denials) > _DENIALS_SHOWN:
        yield f"and {len(denials) - _DENIALS_SHOWN} more"


def _used(attributes: Mapping[str, Any]) -> Iterator[str]:
    """What the attempt used: `took 12.3 ms, cpu 4.5 ms, 1.2 MB, fuel 99`."""
    usage = attributes.get("usage")
    if not isinstance(usage, dict) or not usage:
        return
    parts = [
        f"{label}{usage[name] / scale:.{digits}f}{unit}"
        for name, label, scale, digits, unit in _FIGURES
        if isinstance(usage.get(name), int)
    ]
    yield ", ".join(parts)


def _why(attributes: Mapping[str, Any]) -> str:
    failure = attributes.get("failure")
    code = failure.get("code") if isinstance(failure, dict) else None
    return str(code or attributes.get("why") or attributes.get("outcome") or "ended")
