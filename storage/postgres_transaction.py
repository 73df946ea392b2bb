"""One attempt of one transaction on PostgreSQL: reads from a shared snapshot, own writes in memory until the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NamedTuple

from windlass.storage.backoff import TooOld
from windlass.storage.conflicts import ReadRange, ReadSet
from windlass.storage.own_writes import OwnWrites, check_readable, counter_sum, merge
from windlass.storage.port import TRANSACTION_SECONDS_MAX, Row, Rows, StorageError, Unreadable
from windlass.storage.postgres_snapshots import Snapshot, SnapshotPool
from windlass.storage.postgres_watches import PostgresWatch
from windlass.storage.sizes import KEYS_END, check_key, check_transaction


class _Counter:
    """A get of a key to which the transaction has added a number before."""

    __slots__ = ("_held", "_number")

    def __init__(self, held: asyncio.Future[bytes | None], number: int) -> None:
        self._held, self._number = held, number

    def __await__(self) -> Generator[Any, Any, bytes | None]:
        held = yield from self._held.__await__()
        return counter_sum(held, self._number)


class _Part(NamedTuple):
    """A part of a range in which this transaction has cleared nothing."""

    begin: bytes
    end: bytes


class _RangeRead:
    """A range read: what the store holds, under the own writes as they were when it was called."""

    def __init__(
        self, tx: PostgresTransaction, begin: bytes, end: bytes, limit: int, reverse: bool, place: int | None
    ) -> None:
        own, stored = tx.own, tx.stored()
        self._begin, self._end, self._limit, self._reverse = begin, end, limit, reverse
        self._reads, self._place = tx.reads, place
        self._values = {key: value for key, value in own.values.items() if begin <= key < end}
        self._added = {key: (stored.get(key), n) for key, n in own.added.items() if begin <= key < end}
        # Each own write can hide one stored row, so that many more are needed to fill the limit.
        enough = limit + len(self._values) + len(self._added) if limit else 0
        parts = _uncleared(begin, end, own.cleared)
        ordered = parts[::-1] if reverse else parts
        self._parts = [stored.get_range(part.begin, part.end, enough, reverse) for part in ordered]

    def __await__(self) -> Generator[Any, Any, Rows]:
        return self._rows().__await__()

    async def _rows(self) -> Rows:
        stored: list[Row] = []
        for part in self._parts:
            stored += await part
        patch = dict(self._values)
        for key, (held, number) in self._added.items():
            patch[key] = counter_sum(await held, number)
        rows = merge(iter(stored), patch, self._limit, self._reverse)
        if self._place is not None and self._limit and len(rows) == self._limit:
            first, last = (rows[-1][0], self._end) if self._reverse else (self._begin, rows[-1][0] + b"\0")
            self._reads.ranges[self._place] = ReadRange(first, last, frozenset(self._values))
        return rows


class PostgresTransaction:
    """A `Transaction` of the port."""

    def __init__(self, pool: SnapshotPool, attempt: int, maybe_committed: bool) -> None:
        self.attempt = attempt
        self.maybe_committed = maybe_committed
        self.commit_version = 0
        self.own = OwnWrites()
        self.reads = ReadSet()
        self.write_conflicts: set[bytes] = set()
        self.watches: list[PostgresWatch] = []
        self.snapshot: Snapshot | None = None
        #: It was sent to commit, so it may happen whatever its caller is told.
        self.sent = False
        self._pool = pool
        self._left = False
        self._usable = True
        self._refused: StorageError | None = None

    def get(self, key: bytes, *, snapshot: bool = False) -> Awaitable[bytes | None]:
        stored = self.stored()
        self._check_readable(key, key + b"\0")
        if self.own.knows(key):
            known: asyncio.Future[bytes | None] = self._pool.loop.create_future()
            known.set_result(self.own.values.get(key))
            return known
        if not snapshot:
            self.reads.add_key(key)
        held = stored.get(key)
        return _Counter(held, self.own.added[key]) if key in self.own.added else held

    def get_range(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False, snapshot: bool = False
    ) -> Awaitable[Rows]:
        self.stored()
        end = max(begin, min(end, KEYS_END))
        self._check_readable(begin, end)
        place = None
        if not snapshot and begin < end:
            place = len(self.reads.ranges)
            self.reads.add_range(begin, end, [key for key in self.own.values if begin <= key < end])
        return _RangeRead(self, begin, end, limit, reverse, place)

    def set(self, key: bytes, value: bytes) -> None:
        self._writing(lambda own: own.set(key, value))

    def clear(self, key: bytes) -> None:
        self._writing(lambda own: own.clear(key))

    def clear_range(self, begin: bytes, end: bytes) -> None:
        self._writing(lambda own: own.clear_range(begin, min(end, KEYS_END)))

    def add(self, key: bytes, number: int) -> None:
        self._writing(lambda own: own.add(key, number))

    def set_versionstamped_key(self, prefix: bytes, suffix: bytes, value: bytes) -> None:
        self._writing(lambda own: own.set_versionstamped_key(prefix, suffix, value))

    def add_read_conflict_key(self, key: bytes) -> None:
        self.stored()
        self.reads.add_key(key)

    def add_write_conflict_key(self, key: bytes) -> None:
        self._writing(lambda own: check_key(key))
        self.write_conflicts.add(key)

    def watch(self, key: bytes) -> PostgresWatch:
        self._check_usable()
        if self.snapshot is not None:
            self.reads.add_key(key)
        watch = PostgresWatch(key)
        self.watches.append(watch)
        return watch

    # What follows is for the store.

    @property
    def writes(self) -> bool:
        """True if the commit has anything to say to others."""
        return bool(self.own) or bool(self.write_conflicts)

    def stored(self) -> Snapshot:
        """The snapshot, asked for at the first read."""
        self._check_usable()
        if self.snapshot is None:
            self.snapshot = self._pool.join()
        self.check_age()
        return self.snapshot

    def check_age(self) -> None:
        """Raise `TooOld` if the snapshot is older than a transaction may be."""
        since = self.snapshot.since if self.snapshot is not None else None
        if since is not None and self._pool.loop.time() - since > TRANSACTION_SECONDS_MAX:
            raise TooOld

    def seal(self) -> None:
        """Refuse any further use: the commit begins. Raises what was refused earlier, even if the body swallowed it."""
        self._usable = False
        if self._refused is not None:
            raise self._refused
        check_transaction(self.own.weight + self.reads.weight)
        self.check_age()

    async def read_version(self) -> None:
        """Wait until the snapshot's version is known, if there is a snapshot."""
        if self.snapshot is not None:
            await asyncio.shield(self.snapshot.begun)

    def leave(self) -> None:
        """Nothing will be read any more."""
        self._usable = False
        if self.snapshot is not None and not self._left:
            self._left = True
            self.snapshot.leave()

    def drop(self, why: str) -> None:
        """The attempt is over without a commit that its caller knows of."""
        self.leave()
        for watch in self.watches:
            watch.lose(why)

    def _writing(self, write: Callable[[OwnWrites], None]) -> None:
        self._check_usable()
        try:
            write(self.own)
        except StorageError as refused:
            self._refused = refused
            raise

    def _check_readable(self, begin: bytes, end: bytes) -> None:
        try:
            check_readable(self.own.stamped, begin, end)
        except Unreadable as refused:
            self._refused = refused
            raise

    def _check_usable(self) -> None:
        if not self._usable:
            raise StorageError("a transaction was used after its body had returned: a task left over from the body?")


def _uncleared(begin: bytes, end: bytes, cleared: list[tuple[bytes, bytes]]) -> list[_Part]:
    """The parts of begin to end that lie in none of the ranges `cleared`, in order."""
    parts = [_Part(begin, end)] if begin < end else []
    for first, last in cleared:
        pieces = [(_Part(part.begin, min(part.end, first)), _Part(max(part.begin, last), part.end)) for part in parts]
        parts = [piece for both in pieces for piece in both if piece.begin < piece.end]
    return parts
