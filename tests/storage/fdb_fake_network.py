"""Time, the network thread and the futures of the FoundationDB stand-in.

Every answer is made on a thread of its own, after a seeded delay, so answers overtake each other and none is ready
when it is asked for. The clock is the machine's plus what a test adds with `advance`; what is due then happens.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from random import Random
from typing import Any

OPERATION_CANCELLED = 1101


class Network:
    """The thread on which everything happens, one thing after another, under `lock`."""

    def __init__(self, random: Random, delay_seconds: float) -> None:
        self.lock = threading.RLock()
        self.random = random
        self._delay = delay_seconds
        self._offset = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition(self.lock)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="fake-fdb-network", daemon=True)
        self._thread.start()

    def now(self) -> float:
        return time.monotonic() + self._offset

    def advance(self, seconds: float) -> None:
        with self._changed:
            self._offset += seconds
            self._changed.notify()

    def soon(self, what: Callable[[], None]) -> None:
        self.later(self.random.uniform(0, self._delay), what)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        with self._changed:
            heapq.heappush(self._events, (self.now() + seconds, next(self._order), what))
            self._changed.notify()

    def drained(self) -> None:
        """Wait until all that is on its way has arrived. Not on the network thread."""
        happened = threading.Event()
        self.later(10 * self._delay, happened.set)  # each arrival may send one thing more
        happened.wait()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._stopped:
                if self._events and self._events[0][0] <= self.now():
                    heapq.heappop(self._events)[2]()
                else:
                    self._changed.wait(self._events[0][0] - self.now() if self._events else None)


class Future:
    """One answer to come. Its callback is called exactly once, and using it after `destroy` is an assertion."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._callback: Callable[[], None] | None = None
        self._destroyed = False
        self.ready = False
        self.code = 0
        self.value: Any = None

    def settle(self, code: int, value: Any = None) -> None:
        """The first answer counts."""
        if not self.ready:
            self.ready, self.code, self.value = True, code, value
            if self._callback is not None:
                self._callback()

    def set_callback(self, callback: Callable[[], None]) -> None:
        assert not self._destroyed, "listened to after it was destroyed"
        assert self._callback is None, "listened to twice"
        self._callback = callback
        if self.ready:
            callback()  # at once, in the caller's thread

    def cancel(self) -> None:
        assert not self._destroyed, "cancelled after it was destroyed"
        self._network.soon(lambda: self.settle(OPERATION_CANCELLED))

    def destroy(self) -> None:
        assert not self._destroyed, "destroyed twice"
        assert self.ready, "destroyed while a callback can still come"
        self._destroyed = True

    def answer(self) -> tuple[int, Any]:
        assert self.ready
        assert not self._destroyed, "read after it was destroyed"
        return self.code, self.value
