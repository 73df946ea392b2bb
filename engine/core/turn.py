"""A decision in the making: the state so far, the events applied to it, the effects owed.

Only `decide` and the modules it calls see a Turn. Nothing leaves it if a `Rejection`, `NeedItems` or `NeedSignals` is
raised, so they may be raised at any point.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from windlass.engine.core import evolve, tree
from windlass.engine.core.definition import Definition, ExpressionError
from windlass.engine.core.effects import ArmTimer, CloseIncident, DisarmTimer, Effect
from windlass.engine.core.events import AnyEvent
from windlass.engine.core.jsontext import BAD_JSON
from windlass.engine.core.limits import CONTEXT_BYTES_MAX, RENDERED_BYTES_MAX, WORK_MAX, context_bytes
from windlass.engine.core.refusal import Rejection
from windlass.engine.core.selectors import Scope, SelectorError, Template, TooLarge, render_to_json
from windlass.engine.core.state import Node, RunState

#: Paths come back from outside (task tokens, wait ids): anything else would be taken for a prefix.
_ITEM_PATH = re.compile(r"(?:[^#/]+|#\d{1,9})(?:/(?:[^#/]+|#\d{1,9}))*")

Extra = Mapping[str, Any]
Value = TypeVar("Value")
Timers = tuple[tuple[str, int], ...]


class View(Protocol):
    """What lives outside the run record. Its methods raise NeedItems or NeedSignals for what was not loaded."""

    def item(self, path: str) -> Node | None: ...
    def items(self, prefix: str) -> Mapping[str, Node]: ...
    def signals(
        self, names: tuple[str, ...]
    ) -> Mapping[str, tuple[bytes, bytes]]: ...  #: name -> (inbox key, payload) of its oldest; as they came


class Problem(Exception):
    """Something of the definition could not be evaluated on this run's data: becomes an incident."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Overlay:
    """The item records: those changed in this turn over those of the view."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.changed: dict[str, Node | None] = {}
        self.cleared = False

    def get(self, path: str) -> Node | None:
        if path in self.changed:
            return self.changed[path]
        return None if self.cleared else self.view.item(path)

    def __setitem__(self, path: str, node: Node) -> None:
        self.changed[path] = node

    def clear(self) -> None:
        """Every item record goes; a range clear for whoever stores them."""
        self.changed = dict.fromkeys(self.changed)
        self.cleared = True

    def drop(self, path: str) -> None:
        prefix = tree.child_path(path, "#")
        stored = {} if self.cleared else self.view.items(prefix)
        for name in {*stored, *(name for name in self.changed if name.startswith(prefix))}:
            self.changed[name] = None

    def under(self, path: str) -> Iterator[tuple[str, Node]]:
        """The items of the map at `path`, in order. Raises NeedItems when the view has not all of them."""
        prefix = tree.child_path(path, "#")
        found = {} if self.cleared else dict(self.view.items(prefix))
        known: dict[str, Node | None] = {**found, **self.changed}
        start = len(prefix)
        names = [name for name in known if name.startswith(prefix) and "/" not in name[start:]]
        for name in sorted(names, key=lambda name: int(name[start:])):
            node = known[name]
            if node is not None:
                yield name, node


def visit_of(text: str) -> int:
    """A visit number inside an id from outside; -1 if it is none."""
    return int(text) if text.isdecimal() and len(text) < 19 else -1


class Turn:
    """Holds the parts; see the module."""

    __slots__ = (
        "closed", "definition", "effects", "entries", "epoch", "events", "items", "items_created", "later",
        "look_for_event", "now_us", "repaired", "reply", "spawned_bytes", "state", "taken", "view", "work",
    )  # fmt: skip

    def __init__(self, definition: Definition, state: RunState, view: View, now_us: int) -> None:
        self.definition = definition
        self.state = state
        self.view = view
        self.now_us = now_us
        self.items = Overlay(view)
        self.events: list[AnyEvent] = []
        self.effects: list[Effect] = []
        self.later: list[Callable[[], None]] = []  #: to do once what is being opened is part of the state
        self.closed: list[str] = []  #: paths of nodes that got their outcome and whose parent has not looked yet
        self.taken: set[bytes] = set()  #: inbox keys consumed in this turn
        self.entries = 0  #: states entered in this turn
        self.work = 0.0  #: done in this turn
        self.items_created = 0
        self.spawned_bytes = 0  #: inputs of the children started in this turn
        self.epoch = 0  #: lease epoch that newly opened nodes begin at
        self.look_for_event = False  #: an event transition may take something from the inbox
        self.reply = b""
        self.repaired: set[str] = set()  #: incidents whose end is owed

    def apply(self, event: AnyEvent) -> None:
        """The only way in which the state changes."""
        self.state = evolve.apply(self.state, self.items, event)
        self.events.append(event)

    def spend(self, work: float) -> None:
        """Count work that the definition asks of the engine itself, in values copied (30 ns each). Raises Problem."""
        self.work += work
        if self.work > WORK_MAX:
            raise Problem("EXPRESSION_ERROR", "what is to be worked out before the run can go on is too much together")

    def owe(self, effect: Effect) -> None:
        self.effects.append(effect)

    def end_incident(self, incident_id: str) -> None:
        if incident_id not in self.repaired:
            self.repaired.add(incident_id)
            self.owe(CloseIncident(incident_id=incident_id))

    def node(self, path: str) -> Node | None:
        return tree.find(self.state, self.items, path)

    def live(self, visit: int, path: str) -> Node | None:
        """The node, if it belongs to this visit and nothing above it has already decided."""
        if visit != self.state.visit or ("#" in path and not _ITEM_PATH.fullmatch(path)):
            return None
        node = self.node(path)
        while node is not None and path != self.state.node_path:
            path = tree.parent_path(path)
            above = self.node(path)
            if above is None or above.phase != "joining":
                return None
        return node

    def must(self, path: str) -> Node:
        """The node that is known to be open here."""
        node = self.node(path)
        if node is None:
            raise Rejection("INTERNAL", f"no open work at path {path!r} of visit {self.state.visit}")
        return node

    def run_later(self) -> None:
        while self.later:
            self.later.pop(0)()

    def arm(self, path: str, kind: str, due_us: int) -> tuple[str, int]:
        """Arm a timer of a node of this visit."""
        timer = f"{self.state.visit}:{path}:{kind}"
        self.owe(ArmTimer(timer=timer, due_us=due_us))
        return timer, due_us

    def disarm(self, timers: Timers, keep: tuple[str, ...] = ()) -> Timers:
        """Disarm all but those of the kinds in `keep`, which are given back."""
        if not timers:
            return timers
        kept = tuple(timer for timer in timers if timer[0].rpartition(":")[2] in keep)
        for timer in timers:
            if timer not in kept:
                self.owe(DisarmTimer(timer=timer[0], due_us=timer[1]))
        return kept

    def values(self, extra: Extra) -> Scope:
        """What expressions and templates see: the context, `run`, and the names of the moment."""
        return Scope(self.state.context, {"run": run_facts(self.definition, self.state), **extra}, self.spend)


def run_facts(definition: Definition, state: RunState) -> dict[str, Any]:
    """`run` in guards and templates."""
    return {
        "id": state.run_id,
        "workflow": definition.name,
        "workflow_id": state.workflow_id,
        "namespace": state.namespace,
        "state": state.state,
        "visit": state.visit,
        "started_us": state.started_us,
        "metadata": dict(state.metadata),
    }


def rendered(values: Iterable[tuple[str, Template]], scope: Scope) -> dict[str, bytes]:
    """Each template's value as JSON text. Raises Problem."""
    found: dict[str, bytes] = {}
    size = 0
    for name, template in values:
        found[name] = evaluating(partial(render_to_json, template, scope))
        size += len(found[name])
        if size > RENDERED_BYTES_MAX:
            raise Problem("CONTEXT_TOO_LARGE", f"the values together have more than {RENDERED_BYTES_MAX} bytes")
    return found


def evaluating(compute: Callable[[], Value]) -> Value:
    """Run an expression, selector or template; what it lacks becomes a Problem."""
    try:
        return compute()
    except TooLarge as error:
        raise Problem("EXPRESSION_ERROR", str(error)) from None
    except SelectorError as error:
        raise Problem("MISSING_KEY", str(error)) from None
    except ExpressionError as error:
        raise Problem("EXPRESSION_ERROR", str(error)) from None
    except BAD_JSON as error:
        raise Problem("EXPRESSION_ERROR", f"a value of the context cannot be read as JSON: {error}") from None


def fit_context(turn: Turn, values: dict[str, bytes]) -> None:
    """Raises Problem CONTEXT_TOO_LARGE."""
    size = context_bytes({**turn.state.context, **values})
    if size > CONTEXT_BYTES_MAX:
        raise Problem("CONTEXT_TOO_LARGE", f"the context would have {size} bytes, {CONTEXT_BYTES_MAX} are allowed")
