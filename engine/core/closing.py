"""A piece of work gets its outcome."""

from __future__ import annotations

from collections.abc import Mapping

from windlass.engine.core.commands import Failure
from windlass.engine.core.events import NodeClosed
from windlass.engine.core.turn import Turn

NO_PATCH: Mapping[str, bytes] = {}


def close(
    turn: Turn,
    path: str,
    outcome: str,
    output: bytes = b"null",
    failure: Failure | None = None,
    *,
    patch: Mapping[str, bytes] = NO_PATCH,
    by: str = "",
    recorded: bool = False,
    dropped: bool = False,
    joined: bool = False,
) -> None:
    """Record the outcome of the node; its timers go. Whoever holds the node looks at it afterwards (`turn.closed`).

    `dropped`: what it had open was taken back already (`stopping.drop`), timers included. `joined`: see `NodeClosed`.
    """
    if not dropped:
        turn.disarm(turn.must(path).timers)
    turn.apply(NodeClosed(turn.now_us, path, outcome, output, failure, patch, by, recorded, joined=joined))
    turn.closed.append(path)
