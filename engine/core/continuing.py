"""Work that a decision left over for one of its own (`Defer`)."""

from __future__ import annotations

from windlass.engine.core import waits
from windlass.engine.core.branches import branch_at, extra_at
from windlass.engine.core.commands import Continue
from windlass.engine.core.definition import MapBody
from windlass.engine.core.events import Continued
from windlass.engine.core.opening import create_items
from windlass.engine.core.turn import Turn


def go_on(turn: Turn, command: Continue) -> None:
    """A token that the run no longer knows changes nothing."""
    if command.token not in turn.state.deferred:
        return
    turn.apply(Continued(turn.now_us, command.token))
    kind, visit, path = command.token.split(":", 2) if command.token.count(":") > 1 else ("enter", "", "")
    if visit != str(turn.state.visit) or turn.state.node is None:
        return
    node = turn.node(path)
    if node is None:
        return
    if kind == "feed":
        waits.feed(turn, path)
    elif kind == "map" and node.phase == "joining":
        body = branch_at(turn.definition, turn.state, path).body
        if isinstance(body, MapBody) and node.counts[1] < node.counts[0]:
            create_items(turn, path, body, extra_at(turn.state, turn.items.get, path))
