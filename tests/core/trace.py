"""Decisions as text, for scenarios: what happened, what is owed, where the run stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from windlass.engine.core.decide import Decision
from windlass.engine.core.state import Node, RunState

HIDDEN = {
    "namespace", "run_id", "workflow_id", "workflow", "revision", "queue", "priority", "session", "worker", "runtime",
    "virtual_time", "root_run_id", "start_to_close_us", "queued_us", "opened_us", "lease_us", "recorded", "visit",
    "at_us", "run_timers", "usage", "data",
}  # fmt: skip
NODE_SHOWN = (
    "attempt",
    "epoch",
    "crashes",
    "timers",
    "failure",
    "outcome",
    "output",
    "patch",
    "item",
    "counts",
    "children",
)


class Trace:
    """Writes times as seconds since the run began."""

    def __init__(self, zero_us: int) -> None:
        self.zero_us = zero_us

    def decision(self, decision: Decision) -> Iterator[str]:
        for event in decision.events:
            yield self.record(event)
        for effect in decision.effects:
            yield f"  owes {self.record(effect)}"

    def record(self, record: Any) -> str:
        defaults = {field.name: field.default for field in msgspec.structs.fields(type(record))}
        shown = [
            f"{name.removesuffix('_us')}={self.value(name, value)}"
            for name in record.__struct_fields__
            if name not in HIDDEN and (value := getattr(record, name)) != defaults[name] and value not in ({}, (), None)
        ]
        return " ".join([type(record).__name__, *shown])

    def value(self, name: str, value: Any) -> str:
        match value:
            case bytes():
                return value.decode()
            case bool():
                return "yes" if value else "no"
            case int() if name in ("due_us", "opened_us"):
                return self.time(value)
            case Node():
                return self.node(value)
            case msgspec.Struct():
                return f"({self.record(value)})"
            case Mapping():
                return "{" + ", ".join(f"{key}: {self.value('', inner)}" for key, inner in value.items()) + "}"
            case (str(timer), int(due)) if due > 1_000_000_000:
                return f"{timer}@{self.time(due)}"
            case tuple() | list():
                return "[" + ", ".join(self.value("", inner) for inner in value) + "]"
            case _:
                return str(value) if value != "" else '""'

    def node(self, node: Node) -> str:
        fields = {field.name: field.default for field in msgspec.structs.fields(Node)}
        shown = [
            f"{name}={self.value(name, value)}"
            for name in NODE_SHOWN
            if (value := getattr(node, name)) != fields[name] and value not in ({}, (), None)
        ]
        return f"<{' '.join([node.kind, node.phase, *shown])}>"

    def time(self, at_us: int) -> str:
        return f"+{(at_us - self.zero_us) / 1e6:g}s"

    def stand(self, state: RunState) -> str:
        where = f"{state.status} in {state.state!r} (visit {state.visit})" if state.state else state.status
        context = ", ".join(f"{name}: {value.decode()}" for name, value in state.context.items())
        end = f", output {state.output.decode()}" if state.output else ""
        return f"= {where}, context {{{context}}}{end}"
