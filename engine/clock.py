"""The engine's clock and its ids: the only place where the shell asks for the time of day and for randomness.

Deadlines inside a process are measured by the event loop's own monotonic time; the wall clock only stamps records and
decides when a stored timer is due. Simulation replaces what is read here and runs the loop on virtual time.

The engine's time never goes back, and it never stands still either: when the wall clock was set back by an hour, no
timer would fire and no silent worker be noticed for that hour. So it then runs at half the pace, as time daemons slew a
clock, until the wall clock has caught up with it.
"""

from __future__ import annotations

import os
import random
import time
from typing import Final

#: How much slower than real time the engine's time passes while the wall clock is behind it.
SLEW: Final = 2


class Clock:
    """Wall time in microseconds, and ids that begin with their time."""

    def __init__(self) -> None:
        self.random = random.Random(os.urandom(16))
        self._last, self._ticks = 0, 0  #: what was told last; when that was, while the wall clock is behind it

    def now_us(self) -> int:
        """Microseconds since the epoch; never goes back within a process."""
        wall = self.read_us()
        if wall < self._last:
            return self._slewed()
        self._last, self._ticks = wall, 0
        return wall

    def _slewed(self) -> int:
        ticks = self.read_ticks_us()
        if self._ticks:
            self._last += (ticks - self._ticks) // SLEW
        self._ticks = ticks
        return self._last

    def read_us(self) -> int:
        """The host's wall clock."""
        return time.time_ns() // 1000

    def read_ticks_us(self) -> int:
        """Microseconds of a clock that nobody sets."""
        return time.monotonic_ns() // 1000

    def new_id(self) -> str:
        """A UUIDv7 as 32 hex digits: 48 bits of milliseconds, 12 of microseconds, 62 random."""
        now = self.now_us()
        milliseconds, rest = divmod(now, 1000)
        value = milliseconds << 80 | 0x7 << 76 | (rest << 2) << 64 | 0b10 << 62 | self.random.getrandbits(62)
        return f"{value:032x}"
