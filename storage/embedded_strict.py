"""The embedded store in strict mode: bodies interleave and conflict as they do on FoundationDB. For tests.

Theory of operation: a body reads a snapshot of what is on disk and suspends at each read. At its end it is checked
against all commits that are not in its snapshot, those on their way to the disk included; if it stands, its writes
are played into the plain embedded store as one body there, which cannot conflict, and are committed in groups as
ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import lmdb

from windlass.storage.backoff import Conflict, TooOld
from windlass.storage.conflicts import ConflictTable, WriteSet
from windlass.storage.embedded_files import stored_version
from windlass.storage.embedded_groups import Groups
from windlass.storage.embedded_layer import backward, forward
from windlass.storage.embedded_transaction import EmbeddedTransaction
from windlass.storage.optimistic import OptimisticStorage, OptimisticTransaction
from windlass.storage.port import Row, StorageError
from windlass.storage.snapshots import OpenSnapshots

#: Longer than any run of conflicts that a test means to have.
DEADLINE_SECONDS = 30.0


class StrictSnapshot:
    """A `Snapshot` on disk. When the map grows it is lost, and its transaction runs again."""

    def __init__(
        self, storage: StrictEmbeddedStorage, version: int, reading: lmdb.Transaction, taken_at: float
    ) -> None:
        self.version = version
        self.taken_at = taken_at
        #: None once released: a reference would keep its place among LMDB's readers.
        self.reading: lmdb.Transaction | None = reading
        self._storage = storage

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._live().get(key)  # type: ignore[return-value]
        except lmdb.BadTxnError as lost:
            raise Conflict from lost

    def rows(self, begin: bytes, end: bytes, reverse: bool) -> Iterator[Row]:
        try:
            cursor = self._live().cursor()
        except lmdb.BadTxnError as lost:
            raise Conflict from lost
        return (backward if reverse else forward)(cursor, begin or b"\0", end)

    def release(self) -> None:
        self._storage.released(self)

    def _live(self) -> lmdb.Transaction:
        if self.reading is None:
            raise TooOld
        return self.reading


class StrictEmbeddedStorage(OptimisticStorage):
    """A `Storage` of the port."""

    def __init__(self, groups: Groups) -> None:
        super().__init__(shared=False, deadline_seconds=DEADLINE_SECONDS, random=Random(0))
        self._groups = groups
        self._recent = ConflictTable()
        self._open: OpenSnapshots[StrictSnapshot] = OpenSnapshots()

    def snapshot(self) -> StrictSnapshot:
        if self._groups.refusal:
            raise StorageError(self._groups.refusal)
        now = self.now()
        for outlived in self._open.outlived(now):
            self.released(outlived)
        reading = self._groups.store.snapshot()
        # Asked of the snapshot itself: the writer's thread may have committed what the loop has not been told yet.
        taken = StrictSnapshot(self, stored_version(reading), reading, now)
        self._open.add(taken)
        return taken

    def released(self, snapshot: StrictSnapshot) -> None:
        """A snapshot is not needed any more."""
        if snapshot.reading is not None:
            self._open.remove(snapshot)
            self._groups.store.release(snapshot.reading)
            snapshot.reading = None
        self._recent.forget(self._open.floor(self._groups.durable_version))

    async def commit(self, tx: OptimisticTransaction) -> None:
        tx.check_age()
        if tx.writes and self._recent.conflict(tx.reads, tx.read_version) is not None:
            raise Conflict
        if tx.writes:
            self._play(tx)
        changed = [watch for watch in tx.watches if self._recent.conflict_of(watch.key, tx.read_version)]
        self._groups.arm(tx.watches)
        if not tx.writes:
            for watch in changed:
                watch.fire()
        if tx.writes or self._groups.pending:
            try:
                await self._groups.landing()
            except StorageError:
                self._recent.take_back(self._groups.durable_version)
                raise

    async def close(self) -> None:
        await super().close()
        await self._groups.close()

    def _play(self, tx: OptimisticTransaction) -> None:
        """Write what the transaction wrote to the plain store."""
        plain = EmbeddedTransaction(self._groups.present)
        for begin, end in tx.own.cleared:
            plain.clear_range(begin, end)
        plain.own.update(tx.own.values)
        for key, number in tx.own.added.items():
            plain.add(key, number)
        plain.stamped = tx.own.stamped
        self._groups.add(plain)
        tx.commit_version = plain.commit_version
        keys = frozenset(plain.own) | tx.write_conflicts
        self._recent.record(WriteSet(plain.commit_version, keys, tuple(tx.own.cleared)))
