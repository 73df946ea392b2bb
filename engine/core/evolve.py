"""`evolve`: the state after an event. Total: history has already happened, so nothing is refused here.

Live and replayed runs share this path: `decide` builds events and folds them with the same functions. What is derived
(the status, a map's counts) is derived here, so that it cannot differ between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from windlass.engine.core import events as e
from windlass.engine.core import evolve_nodes, evolve_run, tree
from windlass.engine.core.state import CLOSED, Node, RunState
from windlass.engine.core.tree import Items, ItemTable

#: What a run's first event is applied to.
EMPTY = RunState("", "", "", "", "", "pending")

_APPLIERS = {**evolve_run.APPLIERS, **evolve_nodes.APPLIERS}


def evolve(state: RunState | None, items: Mapping[str, Node], event: e.AnyEvent) -> tuple[RunState, Mapping[str, Node]]:
    """The state and the item records after the event; the arguments are left as they are."""
    changed = ItemTable(items)
    return apply(state, changed, event), changed


def fold(events: Iterable[e.AnyEvent]) -> tuple[RunState, dict[str, Node]]:
    """Replay a history from its first event (RunStarted or Compacted). Raises ValueError if there is none."""
    state: RunState | None = None
    items = ItemTable()
    for event in events:
        state = apply(state, items, event)
    if state is None:
        raise ValueError("a history without events has no state")
    return state, items


def apply(state: RunState | None, items: Items, event: e.AnyEvent) -> RunState:
    """As `evolve`, but changes `items` in place: for a fold over many events."""
    new = _APPLIERS[type(event)](state, items, event)
    return replace(new, seq=new.seq + 1, updated_us=event.at_us, status=_status(new))


def _status(state: RunState) -> str:
    if state.status in CLOSED:
        return state.status
    if state.cancel is not None:
        return "cancelling"
    if state.paused_us:
        return "paused"
    if state.incidents:
        return "incident"
    if state.stage == "start":
        return "pending"
    node = state.node
    return "running" if node is None or tree.active(node) else "waiting"
