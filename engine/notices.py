"""Who in this process waits for what: calls waiting for a run to close or to move, and the timer loop.

On a shared store other engines change runs too; `feed.py` then watches their bumps and calls `look_again`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from windlass.engine.core.state import RunState
from windlass.engine.work import After, TaskKey

#: Progress reports kept in memory, and the bytes of one: a worker may send as much as a message holds.
PROGRESS_MAX = 10_000
PROGRESS_BYTES_MAX = 10_000

RunKey = tuple[str, str]


class Notices:
    """Wake-ups inside one engine process."""

    def __init__(self) -> None:
        self._closing: dict[RunKey, list[asyncio.Future[RunState]]] = {}
        self._moving: defaultdict[RunKey, set[asyncio.Event]] = defaultdict(set)
        self.progress: dict[TaskKey, tuple[bytes, int]] = {}  #: what a task said of itself, and when
        self.on_due: Callable[[int], None] = lambda due_us: None
        self.on_wait: Callable[[str], None] = lambda run_id: None  #: somebody begins to wait for this run
        self.on_closed: Callable[[RunState], None] = lambda state: None

    def publish(self, after: After) -> None:
        """Wake whoever waits for what a committed unit did."""
        if self.progress:
            for _, task in after.released:
                self.progress.pop(task, None)
        for state in after.closed:
            for waiter in self._closing.pop((state.namespace, state.run_id), ()):
                if not waiter.done():
                    waiter.set_result(state)
            self.on_closed(state)
        if self._moving:
            for ns, run_id, _ in after.touched:
                self.moved(ns, run_id)
        if after.due_us:
            self.on_due(after.due_us)

    def moved(self, ns: str, run_id: str) -> None:
        """Wake the watchers of a run."""
        for event in self._moving.get((ns, run_id), ()):
            event.set()

    def closes(self, ns: str, run_id: str) -> asyncio.Future[RunState]:
        """A future that ends when the run closes. Cancel it when no longer wanted; ask before reading the run."""
        waiter: asyncio.Future[RunState] = asyncio.get_running_loop().create_future()
        self._closing.setdefault((ns, run_id), []).append(waiter)
        waiter.add_done_callback(lambda done: self._forget(ns, run_id, done))
        self.on_wait(run_id)
        return waiter

    def _forget(self, ns: str, run_id: str, waiter: asyncio.Future[RunState]) -> None:
        waiters = self._closing.get((ns, run_id))
        if waiters and waiter.cancelled():
            waiters.remove(waiter)
            if not waiters:
                del self._closing[ns, run_id]

    def progressed(self, task: TaskKey, progress: bytes, at_us: int) -> None:
        """A running task reported progress: kept for watchers and readers until the task ends, not stored.

        A longer report than PROGRESS_BYTES_MAX is left out.
        """
        if len(progress) > PROGRESS_BYTES_MAX:
            return
        self.progress[task] = progress, at_us
        while len(self.progress) > PROGRESS_MAX:
            del self.progress[next(iter(self.progress))]
        self.moved(task[0], task[1])

    @contextmanager
    def watching(self, ns: str, run_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the run moved; the watcher clears it before it reads."""
        event = asyncio.Event()
        self._moving[ns, run_id].add(event)
        self.on_wait(run_id)
        try:
            yield event
        finally:
            self._moving[ns, run_id].discard(event)
            if not self._moving[ns, run_id]:
                del self._moving[ns, run_id]

    def waited_for(self) -> list[RunKey]:
        """Runs that somebody waits for or watches."""
        return [*self._closing, *self._moving]

    def closed_elsewhere(self, state: RunState) -> None:
        """Another engine closed this run."""
        for waiter in self._closing.pop((state.namespace, state.run_id), ()):
            if not waiter.done():
                waiter.set_result(state)
