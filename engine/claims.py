"""Claims: takes queued tasks out of the store for workers that have credit.

Runs only while some queue that a connected worker serves may hold tasks (`Dispatch.backlog`). A turn takes, for each
such queue, the first entries in order of priority and age by a snapshot read, and claims them in one transaction
that reads each run for real: an entry whose task is no longer queued (withdrawn, taken by another engine) is dropped.
On a shared store an engine most often takes from its own shards. A queue found empty leaves the backlog; the next entry
written puts it back, in this process directly, from another engine through its bump (`feed.py`).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from windlass.engine import keys
from windlass.engine.capacity import QueueKey
from windlass.engine.connected import Connected
from windlass.engine.core.decide import Rejection
from windlass.engine.core.units import split_kind
from windlass.engine.dispatch import Dispatch
from windlass.engine.errors import EngineError, store_failed
from windlass.engine.loops import Loop
from windlass.engine.queues import kinds_in
from windlass.engine.records import QueuedRecord, unpack
from windlass.engine.revisions import Loading
from windlass.engine.transition import Transition
from windlass.engine.unit import Unit
from windlass.storage.port import Row, Transaction

log = logging.getLogger(__name__)

#: Tasks claimed in one transaction. About ten pays most on FoundationDB; a store of one engine takes more.
CLAIM_SHARED: Final = 10
CLAIM_LOCAL: Final = 64
#: Engines that took from the same heads would only get in each other's way, so each takes from its own shards first.
#: Every so many looks it takes the first of all: a shard's own engine may have no worker for what lies there.
LOOK_AT_ALL_EVERY: Final = 4
#: An entry that cannot be claimed even by itself is tried again after this: those behind it must not wait for it.
ASIDE_US: Final = 60_000_000
#: One whose workers with free slots have said that they cannot run it is looked at again after this.
UNABLE_LOOK_US: Final = 1_000_000
#: And after as much more for each so many of its queue: each look reads over all of them.
UNABLE_MANY: Final = 500


class Claims(Loop):
    """The claiming loop of one engine."""

    def __init__(self, transition: Transition, dispatch: Dispatch, mine: Callable[[], Iterable[int]]) -> None:
        """`mine`: the shards that this engine looks after (members.py)."""
        super().__init__("claims")
        self._transition, self._dispatch, self._mine = transition, dispatch, mine
        self._looks = 0
        self._most = CLAIM_SHARED if transition.storage.shared else CLAIM_LOCAL
        self._aside: dict[bytes, tuple[int, QueueKey]] = {}  #: entries set aside: until when, and of which queue
        self._aside_of: Counter[QueueKey] = Counter()  #: how many of each queue, which have to be read over
        self._trying = b""
        self._leased = 0  #: tasks leased by the transaction under way, or the last one
        dispatch.on_claimable = self.wake

    async def turn(self) -> float | None:
        """Claim once for each queue with a backlog and credit."""
        await self._look_into()
        now = self._transition.clock.now_us()
        for key, (until, ring) in list(self._aside.items()):
            if until <= now:
                self._look_again(key, ring)
        for ring, credits in self._dispatch.claimable():
            await self._claim(ring, min(credits, self._most))
        while self._dispatch.untold:  # a queue that is empty must not keep its workers from what is handed to them
            if (ring := self._dispatch.untold.pop()) in self._dispatch.backlog:
                await self._claim(ring, 1)
        if self._dispatch.claimable():
            return 0
        return (min(until for until, _ in self._aside.values()) - now) / 1e6 if self._aside else None

    def _set_aside(self, key: bytes, ring: QueueKey, span_us: int) -> None:
        if key not in self._aside:
            self._aside_of[ring] += 1
        due_us = self._transition.clock.now_us() + span_us
        self._aside[key] = due_us + -due_us % UNABLE_LOOK_US, ring  # many are due at once: one look serves them

    def _look_again(self, key: bytes, ring: QueueKey) -> None:
        del self._aside[key]
        self._aside_of[ring] -= 1
        if not self._aside_of[ring]:
            del self._aside_of[ring]
        self._dispatch.found(ring)

    async def _look_into(self) -> None:
        """Find the queues of tasks with needs that lie unknown in the store, by skipping from kind to kind."""
        for ns, queue in list(self._dispatch.unseen):
            self._dispatch.unseen.discard((ns, queue))  # before the look, as with the backlog
            try:
                kinds = await self._transition.storage.read(lambda tr, n=ns, q=queue: kinds_in(tr, n, q))  # type: ignore[misc]
            except BaseException:
                self._dispatch.unseen.add((ns, queue))
                raise
            for kind in kinds:
                if split_kind(kind)[1]:
                    self._dispatch.found((ns, queue, kind))

    async def _claim(self, ring: QueueKey, limit: int) -> None:
        self._dispatch.backlog.discard(ring)  # before the look: what is queued after it puts the ring back
        self._dispatch.claiming.add(ring)  # and until its end nothing newer is leased past the queue
        try:
            if not self._transition.storage.shared:  # nobody else claims: the look itself may conflict
                full = await self._transition.run_now(lambda unit: self._look_and_take(unit, ring, limit))
            else:
                rows = await self._transition.storage.read(lambda tr: self._first(tr, ring, limit))
                full = len(rows) == limit
                await self._transition.run_now(lambda unit: self._take(unit, ring, rows))
            self.done["tasks_claimed"] += self._leased
        except Loading as missing:  # the other queues do not wait for it, and what is newer does not pass it
            missing.then(lambda: self._loaded(ring))
            return
        except BaseException as error:
            self._dispatch.claiming.discard(ring)
            self._dispatch.found(ring)
            if not isinstance(error, Exception) or store_failed(error, limit):
                raise
            await self._apart(ring, limit, error)
            return
        self._dispatch.claiming.discard(ring)
        if full:
            self._dispatch.found(ring)

    def _loaded(self, ring: QueueKey) -> None:
        self._dispatch.claiming.discard(ring)
        self._dispatch.found(ring)
        self.wake()

    async def _apart(self, ring: QueueKey, limit: int, error: Exception) -> None:
        """Tasks that cannot be claimed together (they are large, or one of them cannot be claimed at all)."""
        if limit > 1:
            log.warning("%d tasks of %s could not be claimed together (%s), trying one by one", limit, ring, error)
            for _ in range(limit):
                await self._claim(ring, 1)
        else:
            log.error("queue entry %r cannot be claimed, it is tried again later", self._trying, exc_info=error)
            self._set_aside(self._trying, ring, ASIDE_US)

    async def _look_and_take(self, unit: Unit, ring: QueueKey, limit: int) -> bool:
        """Take the first entries; whether there are more. One is read beyond them: a queue that is empty now must not
        count as full until somebody has credit again.
        """
        head = keys.queue(*ring)
        found = await unit.tr.get_range(head, keys.end(head), limit=limit + 1 + self._aside_of[ring])
        rows = [row for row in found if row[0] not in self._aside]
        await self._take(unit, ring, rows[:limit])
        return len(rows) > limit

    async def _first(self, tr: Transaction, ring: QueueKey, limit: int) -> list[Row]:
        """The entries that come first, of this engine's own shards if they have enough, else and at times of all."""
        self._looks += 1
        own = set(self._mine()) if self._looks % LOOK_AT_ALL_EVERY else set()
        found = await self._in_shards(tr, ring, sorted(own), limit)
        if len(found) < limit:
            others = [shard for shard in range(self._transition.shards) if shard not in own]
            found += await self._in_shards(tr, ring, others, limit)
        return heapq.nsmallest(limit, found, key=lambda row: keys.unpack(row[0])[5:])

    async def _in_shards(self, tr: Transaction, ring: QueueKey, shards: Sequence[int], limit: int) -> list[Row]:
        heads = [keys.queue(*ring) + keys.integer(shard) for shard in shards]
        most = limit + self._aside_of[ring]
        pages = await asyncio.gather(*(tr.get_range(head, keys.end(head), limit=most, snapshot=True) for head in heads))
        return [row for rows in pages for row in [each for each in rows if each[0] not in self._aside][:limit]]

    async def _take(self, unit: Unit, ring: QueueKey, rows: list[Row]) -> None:
        self._leased = 0
        needy = ring if split_kind(ring[2])[1] else None
        if self._transition.storage.shared:
            there = await asyncio.gather(*(unit.tr.get(key) for key, _ in rows))
            rows = [row for row, value in zip(rows, there, strict=True) if value is not None]  # others were faster
            head = keys.queue(*ring)
            await unit.load_ahead((ring[0], keys.queued_task(head, key)[0]) for key, _ in rows)
        for key, value in rows:
            self._trying = key
            queued = unpack(QueuedRecord, value)
            avoid = queued.avoid if queued.avoid_us > unit.now_us else ()
            session = self._dispatch.reserve(*ring, claiming=True, avoid=avoid, needy=needy is not None)
            if session is None and avoid:  # whoever has a free slot cannot run it: those behind it must not wait
                self._set_aside(key, ring, UNABLE_LOOK_US * (1 + self._aside_of[ring] // UNABLE_MANY))
                continue
            if session is None:
                unit.after.queued.add(ring)
                return
            self._dispatch.offered(ring)
            leased = False
            try:
                leased = await self._lease(unit, session, ring, key, queued, needy)
                self._leased += leased
            finally:
                if not leased:  # refused, or the store failed on the way; what was leased the unit gives back
                    self._dispatch.release(session, needy)
            unit.tr.clear(key)

    async def _lease(
        self,
        unit: Unit,
        session: Connected,
        ring: QueueKey,
        key: bytes,
        queued: QueuedRecord,
        needy: QueueKey | None,
    ) -> bool:
        run_id, visit, path = keys.queued_task(keys.queue(*ring), key)
        try:
            work = await unit.load(ring[0], run_id)
            await unit.lease_to(work, path, visit, session, queued.start_to_close_us, queued.heartbeat_us, needy)
        except Rejection as refused:
            log.warning("queue entry of %s %s attempt %d was stale: %s", run_id, path, queued.attempt, refused)
            return False
        except EngineError as error:
            if error.reason != "RUN_NOT_FOUND":
                raise
            return False
        return True
