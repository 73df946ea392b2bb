"""Wall clocks of simulated hosts: the loop's time, off by a skew that may jump."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from windlass.engine.clock import Clock

#: When every simulation begins: an arbitrary moment, in µs since the epoch.
BEGIN_US: Final = 1_800_000_000_000_000


class SimulatedClock(Clock):
    """The clock and the ids of one engine host."""

    def __init__(self, seed: int, skew_us: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.skew_us = skew_us

    def read_us(self) -> int:
        """The host's wall clock."""
        return true_us() + self.skew_us

    def read_ticks_us(self) -> int:
        """What no jump changes."""
        return true_us()


def true_us() -> int:
    """The simulation's own time of day, in µs."""
    return BEGIN_US + int(asyncio.get_running_loop().time() * 1e6)
