"""The first task of a run in the answer to its start, for a worker that starts runs itself.

Theory of operation
-------------------
The caller names its worker's session and keeps room for one task, beside the credits the worker has granted. So the
starting transaction asks nobody whose turn it is: if the run begins with a task that the session may have, it is leased
to it there and then, and the answer carries it. Nothing waits in a queue, on a stream or for a poll.

An answer can be lost like any other, and then the lease would stand for as long as the worker renews its session. So
until something is heard of the task it counts as unheard of, and after UNHEARD_US it goes to the worker once more, by
the worker's own way and for a credit: on its stream (`Deadlines`), or with its next poll, whose credits last no longer
than that. A worker that had the answer tells the second task by its token.
"""

from __future__ import annotations

from typing import Final

from windlass.engine.connected import Assignment, Connected
from windlass.engine.dispatch import Dispatch
from windlass.engine.leases import Leases
from windlass.engine.tasks import task_message
from windlass.v1 import worker_service_pb2 as pb

#: Clients that change nothing take 4 MiB in one answer; a larger task goes the worker's own way, and soon.
TASK_BYTES_MAX: Final = 3 << 20


class FirstTask:
    """Room that a session keeps for the first task of one run."""

    __slots__ = ("assignment", "run_id", "session")

    def __init__(self, session: Connected, run_id: str) -> None:
        self.session, self.run_id = session, run_id
        self.assignment: Assignment | None = None  #: set once it is leased and that is committed

    def message(self) -> pb.Task | None:
        """The task for the answer; None if there is none, or none that fits: that one need not wait to be heard of."""
        assignment = self.assignment
        if assignment is None:
            return None
        message = task_message(assignment)
        if message.ByteSize() <= TASK_BYTES_MAX:
            return message
        if (held := self.session.held.get(assignment.task)) is not None:
            held.again_us = 0
        return None


async def send_unheard(session: Connected, dispatch: Dispatch, leases: Leases, now_us: int) -> None:
    """What of this session's tasks is due to be sent once more goes out, as far as the worker has credits.

    A draining worker grants none; it gives the task back.
    """
    due = [task for task, held in session.held.items() if held.unheard is not None and held.again_us <= now_us]
    for task in due:
        if _has_room(session) and not await leases.stands(session.record.session, task):
            dispatch.end(session, task)  # its result was given to another engine
        held = session.held.get(task)
        if held is not None and held.unheard is not None and _has_room(session):
            session.credits -= not session.record.draining
            session.outlet.send_tasks([held.unheard])
            held.unheard = None


def _has_room(session: Connected) -> bool:
    """Whether a task may be sent to it once more; while it drains, to be given back."""
    return session.credits > 0 or session.record.draining
