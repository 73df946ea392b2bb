"""The deep check of one run's history: no gap, nothing recorded twice, and the record is what its events make of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from msgspec.structs import replace

from windlass.engine.core import events as e
from windlass.engine.core import evolve
from windlass.engine.core.state import Node, RunState

#: Ends of an attempt: at most one follows each start.
_ENDS = (e.TaskCompleted, e.TaskAsked, e.AttemptEnded)


def check_history(
    events: Sequence[e.AnyEvent], state: RunState, items: Mapping[str, Node], inbox: Sequence[str]
) -> Iterator[str]:
    """What is wrong with the history of a run whose stored record, items and inbox (names of signals) are these."""
    if not events:
        yield "it has no history"
        return
    dropped = events[0].state.seq if isinstance(events[0], e.Compacted) else 0
    if dropped + len(events) != state.seq:
        yield f"history has {len(events)} events after {dropped} that were dropped, the record says {state.seq}"
    yield from _times(events)
    if not dropped:  # what attempts and signals lie before a fresh log cannot be seen any more
        yield from _attempts(events)
        yield from _signals(events, inbox)
    folded, folded_items = evolve.fold(events)
    if bare(folded) != bare(state):
        yield f"history folds to another state: {differences(folded, state)}"
    if {path: _bare(node) for path, node in folded_items.items()} != {p: _bare(n) for p, n in items.items()}:
        yield f"history folds to other map items: {sorted(folded_items)} and {sorted(items)}"


def _times(events: Sequence[e.AnyEvent]) -> Iterator[str]:
    for number, (before, after) in enumerate(pairwise(events), start=2):
        if after.at_us < before.at_us:
            yield f"time goes back at event {number}"
    for number, event in enumerate(events, start=1):
        if isinstance(event, e.RunClosed) and number != len(events):
            yield f"it was closed by event {number}, and {len(events) - number} events follow"
        if isinstance(event, e.RunStarted) != (number == 1) and not isinstance(event, e.Compacted):
            yield f"event {number} is {type(event).__name__}"


def _attempts(events: Sequence[e.AnyEvent]) -> Iterator[str]:
    """Each attempt ends at most once, and none starts while another has not ended."""
    running: set[str] = set()
    skipped = False  #: somebody gave the result that comes next, in place of the task
    for number, event in enumerate(events, start=1):
        if isinstance(event, e.IncidentResolved):
            skipped = event.action == "skip"
        elif isinstance(event, e.AttemptStarted):
            if event.path in running:
                yield f"event {number}: a second lease of {event.path!r} while the first stands"
            running.add(event.path)
        elif isinstance(event, _ENDS) or (isinstance(event, e.NodeClosed) and event.recorded):
            if event.path not in running and not (skipped and isinstance(event, e.TaskCompleted)):
                yield f"event {number}: {type(event).__name__} of {event.path!r} without an attempt: recorded twice?"
            running.discard(event.path)
            skipped = False
        elif isinstance(event, e.NodeClosed):
            running = {path for path in running if not _below(path, event.path)}
        elif isinstance(event, e.NodesStopped):
            running = {path for path in running if not any(_below(path, stopped) for stopped in event.paths)}
        elif isinstance(event, e.Leaving):  # compensation goes on, also when its run is cancelled meanwhile
            running = {path for path in running if path.startswith("undo!")}
        elif isinstance(event, e.BodyEnded | e.StateEntered | e.RunClosed | e.NodeOpened):
            running = {path for path in running if isinstance(event, e.NodeOpened) and path != event.path}


def _below(path: str, ancestor: str) -> bool:
    if not ancestor:
        return "!" not in path  # the body; tasks of actions and compensation lie beside it
    return path == ancestor or path.startswith(ancestor + "/")


def _signals(events: Sequence[e.AnyEvent], inbox: Sequence[str]) -> Iterator[str]:
    """What was buffered was taken once, dropped, or lies in the inbox."""
    left: Counter[str] = Counter()
    for number, event in enumerate(events, start=1):
        if isinstance(event, e.SignalBuffered):
            left[event.name] += 1
        elif isinstance(event, e.SignalDropped) or (isinstance(event, e.SignalTaken) and event.buffered):
            left[event.name] -= 1
            if left[event.name] < 0:
                yield f"event {number}: a signal {event.name!r} was consumed that was not there"
    if +left != Counter(inbox):
        yield f"signals left by the history {dict(+left)}, in the inbox {dict(Counter(inbox))}"


def bare(state: RunState) -> RunState:
    """Without checkpoints, which become history only when the attempt ends, and what earlier versions counted less."""
    return replace(state, spin=0, node=None if state.node is None else _bare(state.node))


def _bare(node: Node) -> Node:
    children = {name: _bare(child) for name, child in node.children.items()}
    return replace(node, checkpoint=b"" if node.phase == "leased" else node.checkpoint, children=children)


def differences(one: RunState, other: RunState) -> str:
    """The fields in which two states differ, shortly."""
    fields = [name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)]
    return "; ".join(f"{name}: {getattr(one, name)!r:.200} / {getattr(other, name)!r:.200}" for name in fields)
