"""The outlet of workers that poll: what was sent to them waits here for their next call."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from windlass.engine.core.commands import TaskFailed
from windlass.engine.dispatch import Assignment
from windlass.engine.leases import token_of
from windlass.engine.tasks import failed_unsent, next_tasks
from windlass.engine.work import TaskKey
from windlass.v1 import worker_service_pb2 as pb


class Mailbox:
    """Tasks, cancels and the drain notice for one polling worker."""

    def __init__(self) -> None:
        self._tasks: deque[Assignment] = deque()
        self.unsent: list[tuple[TaskKey, TaskFailed]] = []  #: reports on tasks that no message can hold
        self._cancels: list[pb.TaskCancel] = []
        self._filled = asyncio.Event()
        self.drain = False

    def send_tasks(self, assignments: list[Assignment]) -> None:
        self._tasks += assignments
        self._filled.set()

    def send_stop(self, task: TaskKey, reason: str) -> None:
        kind = pb.CANCEL_REASON_LOST if reason == "lost" else pb.CANCEL_REASON_CANCELLED
        self._cancels.append(pb.TaskCancel(task_token=token_of(task), reason=kind, message=reason))
        self._filled.set()

    def send_drain(self) -> None:
        self.drain = True
        self._filled.set()

    def lapsed(self) -> None:
        self._filled.set()

    async def wait(self, seconds: float) -> None:
        """Until something came, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._filled.wait()

    def take_cancels(self) -> list[pb.TaskCancel]:
        cancels, self._cancels = self._cancels, []
        return cancels

    def empty(self) -> pb.PollTasksResponse:
        """What waits, as far as one message holds it, as the answer of a poll."""
        tasks = next_tasks(self._tasks, lambda each, failure: self.unsent.append(failed_unsent(each, failure)))
        if not self._tasks:
            self._filled.clear()
        return pb.PollTasksResponse(tasks=tasks, cancels=self.take_cancels(), drain=self.drain)
