"""How long to wait before the next try: exponential with full jitter, so that a fleet does not come back in step."""

from __future__ import annotations

import random


class Backoff:
    """Delays of one worker. `chance` is given in, so that a simulation can repeat a run."""

    def __init__(self, chance: random.Random, *, first_s: float = 0.1, most_s: float = 5.0) -> None:
        self._chance = chance
        self._first_s = first_s
        self._most_s = most_s
        self._tries = 0

    def next_s(self, most_s: float = float("inf")) -> float:
        """Return the next delay in seconds, at most `most_s`; the bound of the random draw doubles with each call."""
        bound_s = min(self._most_s, most_s, self._first_s * 2.0**self._tries)
        self._tries = min(self._tries + 1, 32)
        return self._chance.uniform(bound_s / 10, bound_s)

    def reset(self) -> None:
        """The last try worked."""
        self._tries = 0
