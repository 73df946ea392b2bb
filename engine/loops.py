"""The contract of the engine's background loops: `start` returns at once, `stop` waits for the end, a second stop is
fine.

`maintain` makes a loop's turns in the caller's own time: never two at once with the loop's own.

A loop sleeps until it is woken or until the time it asked for; it never polls while idle. An unexpected error is logged
and the loop goes on after a growing pause, because an engine without its timers would look healthy and stand still.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import Counter
from typing import Final

from windlass.storage.port import StorageError

log = logging.getLogger(__name__)

#: Pause after a failed turn, doubling up to the second figure, in seconds.
PAUSE_SECONDS: Final = (0.05, 5.0)
#: What a turn returns that has not done all that is due: 0, or this many seconds to leave the others room.
SOON_SECONDS: Final = 0.05


class Loop(ABC):
    """A background loop of turns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done: Counter[str] = Counter()  #: what its turns did since the start, by name; only whatever was committed
        self._wake = asyncio.Event()
        self._alone = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """End, and wait for the turn under way to be given up."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def wake(self) -> None:
        """Make a turn soon."""
        self._wake.set()

    async def maintain(self, turns: int) -> tuple[Counter[str], bool]:
        """Make turns until nothing is due, `turns` at most: what they did, and whether something is left.

        Raises StorageError if the store fails; what was done before is counted in `done`.
        """
        before = self.done.copy()
        for _ in range(turns):
            async with self._alone:
                seconds = await self.turn()
            if seconds not in (0, SOON_SECONDS):
                return self.done - before, False
        self.wake()  # what the loop sleeps for may be another time now
        return self.done - before, True

    @abstractmethod
    async def turn(self) -> float | None:
        """Do what is due; return the seconds until the next turn, or None to sleep until woken."""

    async def _run(self) -> None:
        pause = PAUSE_SECONDS[0]
        while True:
            self._wake.clear()
            try:
                async with self._alone:
                    seconds = await self.turn()
                pause = PAUSE_SECONDS[0]
            except StorageError as error:
                log.warning("%s: the store failed, trying again in %.2f s: %s", self.name, pause, error)
                await asyncio.sleep(pause)  # whatever wakes it meanwhile: what failed gives back slots, which wakes too
                seconds, pause = 0, min(pause * 2, PAUSE_SECONDS[1])
            except Exception:
                log.exception("%s: a turn failed, trying again in %.2f s", self.name, pause)
                await asyncio.sleep(pause)
                seconds, pause = 0, min(pause * 2, PAUSE_SECONDS[1])
            await self._sleep(seconds)

    async def _sleep(self, seconds: float | None) -> None:
        if seconds is not None and seconds <= 0:
            await asyncio.sleep(0)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
