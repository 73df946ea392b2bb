"""One run inside a unit of work, and what a committed unit owes the rest of the process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from windlass.engine import keys
from windlass.engine.core.decide import NeedItems, NeedSignals
from windlass.engine.core.definition import Definition
from windlass.engine.core.events import AnyEvent
from windlass.engine.core.state import Node, RunState

if TYPE_CHECKING:
    from windlass.engine.connected import Assignment

#: A leased task: namespace, run, visit, path, lease epoch.
TaskKey = tuple[str, str, int, str, int]


class Work:
    """One run inside a unit: its record as read, as staged so far, and the events since."""

    __slots__ = (
        "before",
        "before_bytes",
        "changed",
        "cleared",
        "definition",
        "events",
        "item_bytes",
        "loaded",
        "now_us",
        "ns",
        "packed",
        "run_id",
        "signals_seen",
        "state",
    )

    def __init__(
        self, ns: str, run_id: str, definition: Definition, state: RunState | None, before_bytes: int = 0
    ) -> None:
        self.ns, self.run_id, self.definition = ns, run_id, definition
        self.now_us = 0  #: when its last command was decided, by its namespace's clock
        self.packed = keys.of_run(ns, run_id)
        self.before = self.state = state
        self.before_bytes = before_bytes
        self.events: list[AnyEvent] = []
        self.loaded: dict[str, Node | None] = {}
        self.item_bytes: dict[str, int] = {}  #: sizes of the item records as read
        self.changed: set[str] = set()
        self.signals_seen: dict[str, tuple[bytes, bytes]] = {}
        self.cleared = False  #: all stored item records are to be removed: what is not in `loaded` does not exist

    # The core's `View` of what lives outside the run record.

    def item(self, path: str) -> Node | None:
        """The map item at `path`; NeedItems if it was not read yet."""
        if path not in self.loaded and not self.cleared:
            raise NeedItems(path)
        return self.loaded.get(path)

    def items(self, prefix: str) -> Mapping[str, Node]:
        """All items whose path begins with `prefix`; NeedItems if they were not read yet."""
        if prefix + "*" not in self.loaded and not self.cleared:
            raise NeedItems(prefix)
        return {path: node for path, node in self.loaded.items() if node is not None and path.startswith(prefix)}

    def signals(self, names: tuple[str, ...]) -> Mapping[str, tuple[bytes, bytes]]:
        """The oldest buffered signal of each name that has one, as they came; NeedSignals if they were not read yet."""
        if any(name not in self.signals_seen for name in names):
            raise NeedSignals(names)
        found = {name: self.signals_seen[name] for name in names if self.signals_seen[name][0]}
        return dict(sorted(found.items(), key=lambda entry: int(str(keys.unpack(entry[1][0])[-1]))))


class After:
    """What a committed unit owes the rest of the process."""

    __slots__ = ("assigned", "closed", "due_us", "extended", "queued", "released", "stops", "touched")

    def __init__(self) -> None:
        self.assigned: list[Assignment] = []
        self.stops: list[tuple[str, TaskKey, str]] = []  #: session, task, reason
        self.extended: list[tuple[str, TaskKey, int]] = []  #: session, task, its new deadline
        self.released: list[tuple[str, TaskKey]] = []
        self.queued: set[tuple[str, str, str]] = set()
        self.closed: list[RunState] = []
        self.touched: list[tuple[str, str, int]] = []
        self.due_us = 0  #: earliest timer armed; 0 = none
