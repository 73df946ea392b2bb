"""The outlet of workers that poll: what was sent to them waits here for their next call.

Theory of operation. What one answer carried is kept until the next poll comes: only then is it known to have arrived.
A worker that numbers its polls and repeats one under its number, because the answer was lost, gets the same tasks
again, as far as their leases still stand. Only the newest poll of a session counts: an older one that still waits here
(its caller gave up, and nobody told us) is answered empty and takes nothing.

A mailbox that is younger than the answer, because the engine was restarted or is another one, does not have it. But
each lease says for which poll it was made, and was in the answer to that one at the earliest. So those of the poll that
is repeated never arrived: they go back to their queue, from where they most often come with the answer to the repeat.
What was made for an earlier poll, and not sent before its engine went away, is told from what arrived by its timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Container, Iterator

from windlass.engine.connected import Assignment, Connected, never_sent
from windlass.engine.core.commands import Failure, TaskFailed
from windlass.engine.dispatch import Dispatch
from windlass.engine.tasks import TASKS_MAX, failed_unsent, next_tasks, task_cancel
from windlass.engine.work import TaskKey
from windlass.v1 import worker_service_pb2 as pb


class Mailbox:
    """Tasks, cancels and the drain notice for one polling worker."""

    def __init__(self) -> None:
        self._tasks: deque[Assignment] = deque()
        self.unsent: list[tuple[TaskKey, TaskFailed]] = []  #: reports on tasks that no message can hold
        self._cancels: list[pb.TaskCancel] = []
        self._filled = asyncio.Event()
        self._number = 0  # of the last poll that had one
        self._carried: tuple[list[Assignment], list[pb.TaskCancel]] = [], []  # by the last answer
        self.drain = False

    @property
    def waiting(self) -> int:
        """Tasks that have not been sent."""
        return len(self._tasks)

    def send_tasks(self, assignments: list[Assignment]) -> None:
        self._tasks += assignments
        self._filled.set()

    def send_stop(self, task: TaskKey, reason: str) -> None:
        self._cancels.append(task_cancel(task, reason))
        self._filled.set()

    def send_drain(self) -> None:
        self.drain = True
        self._filled.set()

    def lapsed(self) -> None:
        self._filled.set()

    def hang_up(self) -> list[TaskKey]:
        """The worker has ended its session: a poll that still waits is answered empty."""
        return self.replaced()

    def replaced(self) -> list[TaskKey]:
        """A poll that still waits here is answered empty; its successor finds the session where it is now."""
        unsent = never_sent(self._tasks)
        self._tasks.clear()
        self._filled.set()
        return unsent

    def begin(self, number: int, held: Container[TaskKey]) -> asyncio.Event:
        """A poll comes in; what it waits for. If it repeats the last one, what that one's answer carried is due again.

        `held`: the session's leases; the others have ended meanwhile.
        """
        if number and number == self._number:
            self.put_back(held)
        self._number, self._carried = number, ([], [])
        older, self._filled = self._filled, asyncio.Event()
        older.set()
        if self._tasks or self._cancels or self.drain:
            self._filled.set()
        return self._filled

    def newest(self, poll: asyncio.Event) -> bool:
        """Whether no other poll has come since this one began."""
        return poll is self._filled

    def put_back(self, held: Container[TaskKey]) -> None:
        """What the last answer carried did not arrive."""
        tasks, cancels = self._carried
        self._tasks.extendleft(each for each in reversed(tasks) if each.task in held)
        self._cancels[:0] = cancels
        self._carried = [], []

    def take_cancels(self) -> list[pb.TaskCancel]:
        cancels, self._cancels = self._cancels, []
        return cancels

    def empty(self, most: int = TASKS_MAX) -> pb.PollTasksResponse:
        """What waits, up to `most` tasks and as far as one message holds it, as the answer of a poll."""
        before = list(self._tasks)
        refused: set[int] = set()

        def refuse(each: Assignment, failure: Failure) -> None:
            refused.add(id(each))
            self.unsent.append(failed_unsent(each, failure))

        tasks = next_tasks(self._tasks, refuse, most)
        taken = before[: len(before) - len(self._tasks)]
        self._carried = [each for each in taken if id(each) not in refused], self.take_cancels()
        if not self._tasks:
            self._filled.clear()
        return pb.PollTasksResponse(tasks=tasks, cancels=self._carried[1], drain=self.drain)


class Poll:
    """One poll of a session, from when it came in. The worker is connected until the next await."""

    def __init__(self, dispatch: Dispatch, connected: Connected, mailbox: Mailbox, number: int, most: int) -> None:
        """`number`: the worker's of this poll, 0 = none; `most`: how many tasks it takes."""
        self._dispatch, self.connected, self.mailbox, self.most = dispatch, connected, mailbox, most
        self.number = connected.poll = number
        self.filled = mailbox.begin(number, connected.held)

    @property
    def newest(self) -> bool:
        """Whether no other poll of the session has come since."""
        return self.mailbox.newest(self.filled)

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """While tasks may be leased to the session: as many as the poll takes, less those that wait in the mailbox."""
        self.connected.forfeit()
        self._dispatch.grant(self.connected.record.session, max(0, self.most - self.mailbox.waiting))
        try:
            yield
        finally:
            if self.newest:
                self.connected.forfeit()


async def wait(poll: asyncio.Event, seconds: float) -> None:
    """Until something came, or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await poll.wait()
