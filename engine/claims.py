"""Claims: takes queued tasks out of the store for workers that have credit.

Runs only while some queue that a connected worker serves may hold tasks (`Dispatch.backlog`). A turn takes, for each
such queue, the first entries in order of priority and age over all shards by a snapshot read, and claims them in one
transaction that reads each run for real: an entry whose task is no longer queued (withdrawn, taken by another engine)
is dropped. A queue found empty leaves the backlog; the next entry written puts it back, in this process directly, from
another engine through its bump (`feed.py`).
"""

from __future__ import annotations

import heapq
import logging
from typing import Final

from windlass.engine import keys
from windlass.engine.core.decide import Rejection
from windlass.engine.dispatch import Dispatch, QueueKey
from windlass.engine.errors import EngineError
from windlass.engine.loops import Loop
from windlass.engine.records import unpack
from windlass.engine.transition import Transition
from windlass.engine.unit import Unit
from windlass.storage.port import Row, Transaction

log = logging.getLogger(__name__)

#: Tasks claimed in one transaction. About ten pays most on FoundationDB; a store of one engine takes more.
CLAIM_SHARED: Final = 10
CLAIM_LOCAL: Final = 64


class Claims(Loop):
    """The claiming loop of one engine."""

    def __init__(self, transition: Transition, dispatch: Dispatch) -> None:
        super().__init__("claims")
        self._transition, self._dispatch = transition, dispatch
        self._most = CLAIM_SHARED if transition.storage.shared else CLAIM_LOCAL
        dispatch.on_claimable = self.wake

    async def turn(self) -> float | None:
        """Claim once for each queue with a backlog and credit."""
        for ring, credits in self._dispatch.claimable():
            await self._claim(ring, min(credits, self._most))
        return 0 if self._dispatch.claimable() else None

    async def _claim(self, ring: QueueKey, limit: int) -> None:
        self._dispatch.backlog.discard(ring)  # before the look: what is queued after it puts the ring back

        try:
            if not self._transition.storage.shared:  # nobody else claims: the look itself may conflict
                full = await self._transition.run(lambda unit: self._look_and_take(unit, ring, limit))
            else:
                rows = await self._transition.storage.read(lambda tr: self._first(tr, ring, limit))
                full = len(rows) == limit
                await self._transition.run(lambda unit: self._take(unit, ring, rows))
        except BaseException:
            self._dispatch.backlog.add(ring)
            raise
        if full:
            self._dispatch.backlog.add(ring)

    async def _look_and_take(self, unit: Unit, ring: QueueKey, limit: int) -> bool:
        head = keys.queue(*ring)
        rows = await unit.tr.get_range(head, keys.end(head), limit=limit)
        await self._take(unit, ring, rows)
        return len(rows) == limit

    async def _first(self, tr: Transaction, ring: QueueKey, limit: int) -> list[Row]:
        head = keys.queue(*ring)
        found: list[Row] = []
        for shard in range(self._transition.shards):
            begin = head + keys.integer(shard)
            found += await tr.get_range(begin, keys.end(begin), limit=limit, snapshot=True)
        return (
            heapq.nsmallest(limit, found, key=lambda row: keys.unpack(row[0])[5:])
            if self._transition.shards > 1
            else found
        )

    async def _take(self, unit: Unit, ring: QueueKey, rows: list[Row]) -> None:
        for key, value in rows:
            if self._transition.storage.shared and await unit.tr.get(key) is None:
                continue  # another engine was faster
            session = self._dispatch.reserve(*ring, claiming=True)
            if session is None:
                unit.after.queued.add(ring)
                return
            if not await self._lease(unit, session, ring, key, value):
                self._dispatch.release(session)
            unit.tr.clear(key)

    async def _lease(self, unit: Unit, session: str, ring: QueueKey, key: bytes, value: bytes) -> bool:
        run_id, visit, path = keys.queued_task(keys.queue(*ring), key)
        attempt, start_to_close_us, heartbeat_us = unpack(tuple[int, int, int], value)
        try:
            work = await unit.load(ring[0], run_id)
            await unit.lease_to(work, path, visit, session, start_to_close_us, heartbeat_us)
        except Rejection as refused:
            log.warning("queue entry of %s %s attempt %d was stale: %s", run_id, path, attempt, refused)
            return False
        except EngineError as error:
            if error.reason != "RUN_NOT_FOUND":
                raise
            return False
        return True
