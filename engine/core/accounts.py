"""What an attempt used, and what its sandbox refused, go into the event that ends it.

Nothing is decided by them and `evolve` does not look at them, so they are put in once the decision stands: an attempt
can end in four kinds of event, at a dozen places, and none of these has to know.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from windlass.engine.core.commands import TaskFailed, TaskSucceeded
from windlass.engine.core.events import AttemptEnded, NodeClosed, TaskAsked, TaskCompleted
from windlass.engine.core.turn import Turn

_ENDS: Final = (TaskCompleted, AttemptEnded, NodeClosed, TaskAsked)


def enter(turn: Turn, command: TaskSucceeded | TaskFailed) -> None:
    """Put the report's account into the event that ended its attempt: the first of the turn that can be it."""
    if not command.usage and not command.denials:
        return
    for number, event in enumerate(turn.events):
        if isinstance(event, _ENDS) and event.path == command.path:
            turn.events[number] = replace(event, usage=command.usage, denials=command.denials)
            return
