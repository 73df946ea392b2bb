"""Durable timers: fired in order of their due time by whichever engine looks first, once each.

A timer is a key; firing it is the transaction that removes the key and gives the run `TimerFired`, so it happens once
however many engines look, and a cancelled timer's key is gone. Late is allowed, early is not. After downtime the
overdue ones fire in order, BATCH at a time, so that a million of them do not starve everything else. The loop sleeps
until the earliest due time it knows, and looks at the clock now and then. Timers also carry work that one transaction
left to a later one (`postponed.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from windlass.engine import keys, postponed
from windlass.engine.clock import Clock
from windlass.engine.core.commands import RaiseIncident, TimerFired
from windlass.engine.core.decide import Rejection
from windlass.engine.core.effects import StartChild
from windlass.engine.errors import EngineError, store_failed
from windlass.engine.loops import Loop
from windlass.engine.records import clear_large, whole_rows
from windlass.engine.revisions import Loading
from windlass.engine.transition import Transition
from windlass.engine.unit import Unit
from windlass.storage.port import Row, Transaction

log = logging.getLogger(__name__)

#: Timers fired in one transaction.
BATCH_LOCAL: Final = 64
BATCH_SHARED: Final = 10
#: Longest sleep on a shared store, where another engine may arm an earlier timer and its bump be missed.
LOOK_SECONDS: Final = 1.0
#: And on a store of one engine: the loop's clock stands still while the machine sleeps, and does not see that the wall
#: clock, by which timers are due, was set.
LOOK_ALONE_SECONDS: Final = 30.0
#: A timer that its run can neither take nor be parked for is tried again after this.
ASIDE_US: Final = 60_000_000
#: And one whose run's definition is being compiled.
LOADING_US: Final = 50_000


class Timers(Loop):
    """Fires the timers of the shards this engine looks after."""

    def __init__(self, transition: Transition, clock: Clock, shards: Callable[[], Iterable[int]]) -> None:
        super().__init__("timers")
        self._transition, self._clock, self._shards = transition, clock, shards
        self._most = BATCH_SHARED if transition.storage.shared else BATCH_LOCAL
        self._sleeping_until_us = 0
        self._aside: dict[bytes, int] = {}  #: timers that nothing could be done with, and when to try them again
        transition.notices.on_due = self.due

    def due(self, due_us: int) -> None:
        """A timer was armed: wake if it is earlier than what the loop sleeps for."""
        if not self._sleeping_until_us or due_us < self._sleeping_until_us:
            self._sleeping_until_us = due_us
            self.wake()

    async def turn(self) -> float | None:
        """Fire what is due; sleep until the next."""
        self._sleeping_until_us = 0
        full = False
        self._aside = {key: until for key, until in self._aside.items() if until > self._clock.now_us()}
        earliest = min(self._aside.values(), default=0)
        for shard in self._shards():
            now = self._clock.now_us()
            found = await self._look(keys.timers(shard), self._most + len(self._aside))
            rows = [row for row in found if row[0] not in self._aside][: self._most]
            ripe = [row for row in rows if due_us(row) <= now]
            if ripe:
                await self.fire(ripe)
            full |= len(ripe) == self._most
            waiting = [due_us(row) for row in rows if due_us(row) > now]
            if waiting and (not earliest or waiting[0] < earliest):
                earliest = waiting[0]
            elif ripe:
                full = True  # look again for what comes after them
        if full:
            return 0
        return self._rest(earliest)

    def _rest(self, earliest: int) -> float | None:
        if earliest and (not self._sleeping_until_us or earliest < self._sleeping_until_us):
            self._sleeping_until_us = earliest
        seconds = (self._sleeping_until_us - self._clock.now_us()) / 1e6 if self._sleeping_until_us else None
        if self._transition.storage.shared:
            return min(seconds if seconds is not None else LOOK_SECONDS, LOOK_SECONDS)
        return None if seconds is None else min(seconds, LOOK_ALONE_SECONDS)

    async def _look(self, begin: bytes, limit: int) -> list[Row]:
        async def body(tr: Transaction) -> list[Row]:
            return await whole_rows(tr, begin, keys.end(begin), limit, 6, snapshot=True)

        return await self._transition.storage.read(body)

    async def fire(self, rows: list[Row]) -> None:
        """Fire these timers, in order; one at a time if they cannot be fired together."""
        try:
            self.done["timers_fired"] += await self._transition.run_now(lambda unit: self._fire(unit, rows))
        except Exception as error:
            if store_failed(error, len(rows)):
                raise
            if len(rows) == 1:
                if isinstance(error, Loading):
                    self._aside[rows[0][0]] = self._clock.now_us() + LOADING_US
                else:
                    await self._park(rows[0], error)
                return
            if not isinstance(error, Loading):
                log.warning("timers could not be fired together (%s), trying one by one", error)
            for row in rows:
                await self.fire([row])

    async def _fire(self, unit: Unit, rows: list[Row]) -> int:
        fired = 0
        for key, value in rows:
            if await unit.tr.get(key) is None:
                continue  # cancelled, or fired by another engine
            clear_large(unit.tr, key, len(value))
            fired += 1
            ns, run_id, timer, due_us = _parts(key)
            try:
                await self._one(unit, ns, run_id, timer, due_us, value)
            except Rejection as refused:
                log.debug("timer %s of run %s not needed: %s", timer, run_id, refused)
            except EngineError as error:
                if error.reason != "RUN_NOT_FOUND":
                    raise
        return fired

    async def _one(self, unit: Unit, ns: str, run_id: str, timer: str, due_us: int, value: bytes) -> None:
        if not value:
            jitter = self._clock.random.random()
            await unit.give(ns, run_id, TimerFired(timer=timer, due_us=due_us, jitter=jitter))
            return
        work = postponed.unpack(value)
        if isinstance(work, StartChild):
            unit.children.append((ns, work))
        else:
            await unit.give(ns, run_id, work)

    async def _park(self, row: Row, error: Exception) -> None:
        """A timer that its run cannot digest: drop it and park the run, visibly. If even that fails, set it aside for
        a while: those behind it must not wait for its repair.
        """
        key, value = row
        ns, run_id, timer, _ = _parts(key)
        log.error("timer %s of run %s cannot be fired", timer, run_id, exc_info=error)

        async def work(unit: Unit) -> None:
            clear_large(unit.tr, key, len(value))
            await unit.give(ns, run_id, RaiseIncident(code="TIMER_FAILED", message=f"timer {timer}: {error}"))

        try:
            await self._transition.run(work)
        except Exception as worse:
            if store_failed(worse):
                raise
            log.exception("run %s cannot be parked: its timer %s is tried again later", run_id, timer)
            self._aside[key] = self._clock.now_us() + ASIDE_US


def due_us(row: Row) -> int:
    """Due time of a TIMER or VIRTUAL row."""
    return int(str(keys.unpack(row[0])[2]))


def _parts(key: bytes) -> tuple[str, str, str, int]:
    """Namespace, run, timer, due time of a TIMER or VIRTUAL key."""
    elements = keys.unpack(key)
    if keys.TABLES[int(str(elements[0]))] == "TIMER":
        _, _, due, ns, run_id, timer = elements
    else:
        _, ns, due, run_id, timer = elements
    return str(ns), str(run_id), str(timer), int(str(due))
