"""Results held against those who made them: what a worker was told is recorded, and under the right name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from windlass.engine.core import events as e
from windlass.engine.core import evolve, tree
from windlass.engine.core.state import RunState
from windlass.engine.core.tree import ItemTable

#: A task's attempt: visit, path, lease epoch.
Attempt = tuple[int, str, int]


def recorded(events: Sequence[e.AnyEvent]) -> Iterator[tuple[Attempt, int, bytes]]:
    """The attempts whose own end the history records: which, its attempt number, the output if it gave one."""
    state: RunState | None = None
    items = ItemTable()
    for event in events:
        ended = isinstance(event, e.TaskCompleted | e.TaskAsked | e.AttemptEnded) or (
            isinstance(event, e.NodeClosed) and event.recorded
        )
        if ended and state is not None:
            path: str = event.path  # type: ignore[union-attr]
            node = tree.find(state, items, path)
            if node is not None:
                output = event.output if isinstance(event, e.TaskCompleted) else b""
                yield (state.visit, path, node.epoch), node.attempt, output
        state = evolve.apply(state, items, event)


def started(events: Sequence[e.AnyEvent]) -> Iterator[tuple[int, str, int, str]]:
    """The attempts that the history says began: visit, path, epoch, session."""
    state: RunState | None = None
    items = ItemTable()
    for event in events:
        state = evolve.apply(state, items, event)
        if isinstance(event, e.AttemptStarted):
            node = tree.find(state, items, event.path)
            if node is not None:
                yield state.visit, event.path, node.epoch, event.session


def misplaced(run_id: str, events: Sequence[e.AnyEvent]) -> Iterator[str]:
    """Outputs that another attempt made than the one they are recorded for."""
    for (visit, path, _), attempt, output in recorded(events):
        maker = _maker(output)
        if maker and maker != f"{visit}:{path}:{attempt}":
            yield f"run {run_id}: the result of {maker} is recorded for {visit}:{path}:{attempt}"


def _maker(output: bytes) -> str:
    try:
        value = msgspec.json.decode(output) if output else None
    except msgspec.DecodeError:
        return ""
    return str(value.get("by", "")) if isinstance(value, dict) else ""
