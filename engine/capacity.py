"""Capacity: what one worker offers beside slots, and who gets it next.

Theory of operation
-------------------
A worker's offer is so many of each unit; a task takes what it needs from the moment a transaction reserves it until its
lease is released. Tasks of different needs wait in different queues (`core/units.py`), each with a ring of its own, so
a task waits for units only behind tasks that need the same.

That alone would let small tasks take every unit that comes free, and a task that needs two of them would wait for ever.
So a worker counts how often a ring that waits for its units was *passed*: something else took of a unit that the ring
needs while there was not enough of it. After PASSED_MAX times the worker *saves* for this ring: what would take units
that the ring lacks gets none here until the ring had its turn, or waits no more. A worker saves for one ring at a time;
two would wait for each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final

from windlass.engine.core.units import Units

#: Namespace, queue, kind.
QueueKey = tuple[str, str, str]

#: How often a ring that waits for units of a worker is passed by others before the worker saves for it.
PASSED_MAX: Final = 8


class Capacity:
    """The units of one worker's connection."""

    __slots__ = ("_passed", "_saving", "free", "offer", "rings")

    def __init__(self, offer: Mapping[str, int]) -> None:
        self.offer = offer
        self.free = dict(offer)  #: below 0 if the worker came back with less than its leases hold
        self.rings: dict[QueueKey, Units] = {}  #: the rings with needs that it stands in
        self._passed: dict[QueueKey, int] = {}
        self._saving: QueueKey | None = None

    def suffices(self, needs: Units) -> bool:
        """Whether the worker has so much at all."""
        return all(self.offer.get(name, 0) >= amount for name, amount in needs)

    def used(self) -> dict[str, int]:
        """What is in use, by name."""
        return {name: amount - self.free[name] for name, amount in self.offer.items()}

    def room(self, ring: QueueKey, waiting: AbstractSet[QueueKey]) -> int:
        """How many tasks of this ring can be leased now. `waiting`: rings in whose queues tasks lie."""
        needs = self.rings.get(ring)
        if needs is None:
            return 0
        kept = self._kept(ring, waiting)
        return max(0, min((self.free[name] - kept.get(name, 0)) // amount for name, amount in needs))

    def _kept(self, ring: QueueKey, waiting: AbstractSet[QueueKey]) -> dict[str, int]:
        """What must stay free for the ring that this worker saves for."""
        saving = self._saving
        if saving is None or saving == ring:
            return {}
        if saving not in waiting or saving not in self.rings:
            self.served(saving)
            return {}
        return dict(self.rings[saving])

    def due(self, waiting: AbstractSet[QueueKey]) -> bool:
        """Whether one of its rings with needs waits and could be served now."""
        return any(self.room(ring, waiting) for ring in self.rings.keys() & waiting)

    def saving(self, ring: QueueKey, waiting: AbstractSet[QueueKey]) -> QueueKey | None:
        """The other ring that units are kept for; None if there is none."""
        return self._saving if self._kept(ring, waiting) else None

    def take_turn(self, ring: QueueKey, waiting: AbstractSet[QueueKey]) -> None:
        """Take what a task of this ring needs; the caller knows that there is room."""
        taken = self.rings[ring]
        self.take(taken)
        names = {name for name, _ in taken}
        for other in (self.rings.keys() & waiting) - {ring}:
            if any(name in names and self.free[name] < amount for name, amount in self.rings[other]):
                passed = self._passed[other] = self._passed.get(other, 0) + 1
                if passed >= PASSED_MAX and self._saving is None:
                    self._saving = other

    def take(self, units: Units) -> None:
        """Take these units, whether they are there or not: a lease has them."""
        for name, amount in units:
            if name in self.free:
                self.free[name] -= amount

    def give_back(self, units: Units) -> None:
        """A lease is over, or was not committed."""
        for name, amount in units:
            if name in self.free:
                self.free[name] += amount

    def served(self, ring: QueueKey) -> None:
        """The ring had its turn, or waits no more."""
        self._passed.pop(ring, None)
        if self._saving == ring:
            self._saving = None

    def leave(self, ring: QueueKey) -> None:
        """The worker stands in this ring no more."""
        self.rings.pop(ring, None)
        self.served(ring)
