"""Work that a decision left over for one of its own (`Defer`)."""

from __future__ import annotations

from windlass.engine.core import joining, waits
from windlass.engine.core.commands import Continue
from windlass.engine.core.events import Continued
from windlass.engine.core.turn import Turn


def go_on(turn: Turn, command: Continue) -> None:
    """A token that the run no longer knows changes nothing. "enter:<visit>" needs no more than to be gone."""
    if command.token not in turn.state.deferred:
        return
    turn.apply(Continued(turn.now_us, command.token))
    kind, _, rest = command.token.partition(":")
    visit, _, path = rest.partition(":")
    node = turn.live(int(visit), path) if kind in ("feed", "map") and not joining.winding_down(turn.state) else None
    if node is None:
        return
    if kind == "feed":
        waits.feed(turn, path)
    elif node.phase == "joining":
        joining.join(turn, path, node)
