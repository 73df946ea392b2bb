"""Which engines share the store, and which timer shards are this engine's to look after.

Every engine keeps one record with an expiry, renewed while it lives. Each shard belongs to the live engine with the
highest hash of (engine, shard), so that a change of membership moves only what must move and nobody has to agree on
anything. Two engines may for a moment both think a shard theirs: that costs conflicts and nothing else, because a timer
fires in the transaction that removes it.
"""

from __future__ import annotations

import hashlib
import logging

from windlass.engine import keys
from windlass.engine.clock import Clock
from windlass.engine.loops import Loop
from windlass.engine.records import EngineRecord, pack, unpack
from windlass.storage.port import Storage, StorageError, Transaction

log = logging.getLogger(__name__)


class Members(Loop):
    """Renews this engine's record and knows the others."""

    def __init__(self, storage: Storage, clock: Clock, engine_id: str, lease_us: int, shards: int) -> None:
        super().__init__("members")
        self._storage, self._clock, self._engine_id = storage, clock, engine_id
        self._lease_us, self._shards = lease_us, shards
        self._started_us = clock.now_us()
        self.live: tuple[str, ...] = (engine_id,)
        self.mine: tuple[int, ...] = tuple(range(shards))

    async def turn(self) -> float | None:
        """Renew, look who else is there, divide the shards."""
        now = self._clock.now_us()

        async def body(tr: Transaction) -> tuple[str, ...]:
            record = EngineRecord(self._engine_id, now + self._lease_us, self._started_us)
            tr.set(keys.engine(self._engine_id), pack(record))
            begin = keys.engine()
            rows = await tr.get_range(begin, keys.end(begin), snapshot=True)
            records = [unpack(EngineRecord, value) for _, value in rows]
            for dead in records:
                if dead.expires_us + self._lease_us < now:
                    tr.clear(keys.engine(dead.engine))
            return tuple(sorted({r.engine for r in records if r.expires_us > now} | {self._engine_id}))

        live = await self._storage.transact(body)
        if live != self.live:
            log.info("%d engines share the store", len(live))
            self.live = live
            self.mine = tuple(
                s for s in range(self._shards) if max(live, key=lambda e: _weight(e, s)) == self._engine_id
            )
        return self._lease_us / 3e6

    async def leave(self) -> None:
        """Give the shards up at once instead of letting the record lapse; without the store it lapses."""

        async def body(tr: Transaction) -> None:
            tr.clear(keys.engine(self._engine_id))

        try:
            await self._storage.transact(body)
        except StorageError as error:
            log.warning("this engine's record stays until it lapses: %s", error)


def _weight(engine: str, shard: int) -> bytes:
    return hashlib.blake2b(f"{engine}/{shard}".encode(), digest_size=8).digest()
