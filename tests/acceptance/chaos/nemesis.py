"""The faults, and the rounds in which they come. Every choice is drawn from one seeded generator.

A round injects one fault, lets it last, heals it, and is over when every engine answers and runs end again. What
happens in between is up to the operating system, so a seed gives the same faults and not the same run.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final

from tests.acceptance.chaos.cluster import Cluster
from tests.acceptance.chaos.load import Load

log = logging.getLogger(__name__)

#: Runs that must end after a fault before the next one comes, and how long that may take.
PROGRESS: Final = (4, 60.0)
Fault = Callable[[], Awaitable[None]]


class Nemesis:
    """Does harm to a cluster, and undoes it."""

    def __init__(self, cluster: Cluster, random: Random) -> None:
        self._cluster, self._random = cluster, random
        self.injected: Counter[str] = Counter()

    @property
    def kills(self) -> int:
        """Rounds in which something was killed with SIGKILL."""
        return sum(count for name, count in self.injected.items() if "kill" in name or "cut power" in name)

    def faults(self) -> dict[str, Fault]:
        """What can be done to this cluster, by name; kills are half of it."""
        return {
            "kill engine": self._kill_engine,
            "kill worker": self._kill_worker,
            "kill all workers": self._kill_workers,
            "kill engine and worker": self._kill_pair,
            "cut power": self._cut_power,
            "freeze engine": self._freeze_engine,
            "freeze worker": self._freeze_worker,
            "stop engine": self._stop_engine,
            "stop worker": self._stop_worker,
            "cut connections": self._cut,
            "hang connections": self._hang,
            **(
                {"kill database": self._kill_database, "freeze database": self._freeze_database} if self._shared else {}
            ),
        }

    async def round(self, load: Load) -> None:
        """One fault and its healing. Raises AssertionError if nothing goes on afterwards."""
        faults = self.faults()
        name = self._random.choice([*faults, *(each for each in faults if "kill" in each or "cut power" in each)])
        self.injected[name] += 1
        log.info("round %d: %s", self.injected.total(), name)
        await faults[name]()
        self._cluster.revive()
        await self._cluster.answering()
        if not await load.progressed(*PROGRESS):
            raise AssertionError(f"nothing ends any more after {name!r}\n{dict(self.injected)}")

    @property
    def _shared(self) -> bool:
        return self._cluster.database is not None

    async def _last(self, least: float, most: float) -> None:
        """How long the fault lasts, in seconds."""
        await asyncio.sleep(self._random.uniform(least, most))

    async def _kill_engine(self) -> None:
        self._random.choice(self._cluster.engines).kill()
        await self._last(0, 1)

    async def _kill_worker(self) -> None:
        self._random.choice(self._cluster.workers).kill()
        await self._last(0, 2)

    async def _kill_workers(self) -> None:
        for worker in self._cluster.workers:
            worker.kill()
        await self._last(0, 0.5)

    async def _kill_pair(self) -> None:
        self._random.choice(self._cluster.workers).kill()
        await self._kill_engine()

    async def _cut_power(self) -> None:
        """Everything at once, the database too."""
        for each in (*self._cluster.engines, *self._cluster.workers):
            each.kill()
        if self._cluster.database is not None:
            self._cluster.database.kill()
            self._cluster.database.start()

    async def _freeze_engine(self) -> None:
        """Sometimes longer than its place among the engines lasts: others take its timers over while it sleeps."""
        engine = self._random.choice(self._cluster.engines)
        engine.freeze()
        await self._last(0.3, 8 if self._shared else 4)
        engine.thaw()

    async def _freeze_worker(self) -> None:
        """Sometimes longer than its lease lasts: it wakes up with work that is no longer its own."""
        worker = self._random.choice(self._cluster.workers)
        worker.freeze()
        await self._last(0.3, 5)
        worker.thaw()

    async def _stop_engine(self) -> None:
        await asyncio.to_thread(self._random.choice(self._cluster.engines).stop)

    async def _stop_worker(self) -> None:
        await asyncio.to_thread(self._random.choice(self._cluster.workers).stop)

    async def _cut(self) -> None:
        way = self._random.choice(list(self._cluster.ways.values()))
        await way.cut()
        await self._last(0, 3)
        way.restore()

    async def _hang(self) -> None:
        way = self._random.choice(list(self._cluster.ways.values()))
        way.hang()
        await self._last(0.3, 5)
        way.restore()

    async def _kill_database(self) -> None:
        assert self._cluster.database is not None
        self._cluster.database.kill()
        await self._last(0, 2)
        await asyncio.to_thread(self._cluster.database.start)

    async def _freeze_database(self) -> None:
        assert self._cluster.database is not None
        self._cluster.database.suspend()
        await self._last(0.3, 5)
        self._cluster.database.resume()
