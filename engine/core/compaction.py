"""Starting a fresh log: one event that carries the whole state, so that the events before it may be dropped.

The run goes on as if nothing had happened: same id, same numbers, same inbox. Nothing ever reads the log to advance a
run, so this is a matter of space only.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from windlass.engine.core.events import Compacted
from windlass.engine.core.evolve import evolve
from windlass.engine.core.state import Node, RunState


def compacted(state: RunState, items: Mapping[str, Node], now_us: int) -> tuple[RunState, Compacted]:
    """The event and the state after it. Its number is `state.seq + 1`, and a replay may begin with it."""
    event = Compacted(max(now_us, state.updated_us), replace(state, compacted=state.seq + 1), dict(items))
    after, _ = evolve(state, items, event)
    return after, event
