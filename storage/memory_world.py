"""What is stored by in-memory stores: every version of every key that an open snapshot may still read.

Theory of operation: `_values` is the present. `_before[key]` lists, for a key changed recently, pairs (version, value
before that commit), oldest first; a snapshot at version v sees the value before the first change later than v, or
else the present. `_keys` holds, in order, the present keys and those that only a snapshot still sees. A change is
forgotten when no open snapshot is older than it; a snapshot that outlived the age limit counts as closed, for nothing
may be read through it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from sortedcontainers import SortedList

from windlass.storage.backoff import Conflict, TooOld
from windlass.storage.conflicts import ConflictTable, WriteSet
from windlass.storage.optimistic import OptimisticTransaction
from windlass.storage.own_writes import counter_sum
from windlass.storage.port import Row
from windlass.storage.snapshots import OpenSnapshots
from windlass.storage.watches import LocalWatch, WatchTable


class MemorySnapshot:
    """A `Snapshot` at one version of a world."""

    __slots__ = ("_world", "taken_at", "version")

    def __init__(self, world: Versions, version: int, taken_at: float) -> None:
        self._world = world
        self.version = version
        self.taken_at = taken_at

    def get(self, key: bytes) -> bytes | None:
        return self._world.value_at(key, self.version)

    def rows(self, begin: bytes, end: bytes, reverse: bool) -> Iterator[Row]:
        return self._world.rows_at(begin, end, reverse, self.version)

    def release(self) -> None:
        self._world.release(self)


class Versions:
    """See the head of this file. Knows nothing of loops and faults."""

    def __init__(self) -> None:
        self.version = 0
        self.watches = WatchTable()
        self._values: dict[bytes, bytes] = {}
        self._keys: SortedList[bytes] = SortedList()
        self._before: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self._changes: deque[WriteSet] = deque()
        self._recent = ConflictTable()
        self._open: OpenSnapshots[MemorySnapshot] = OpenSnapshots()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def remembered(self) -> int:
        """How many commits are kept for the sake of open snapshots."""
        return len(self._changes)

    def snapshot(self, now: float) -> MemorySnapshot:
        """The present, kept readable until it is released or `TRANSACTION_SECONDS_MAX` old."""
        for outlived in self._open.outlived(now):
            self.release(outlived)
        taken = MemorySnapshot(self, self.version, now)
        self._open.add(taken)
        return taken

    def release(self, snapshot: MemorySnapshot) -> None:
        """Forget what only this snapshot could still see."""
        self._open.remove(snapshot)
        self._forget(self._open.floor(self.version))

    def value_at(self, key: bytes, version: int) -> bytes | None:
        """The value that commit `version` left."""
        for changed, value in self._before.get(key, ()):
            if changed > version:
                return value
        return self._values.get(key)

    def rows_at(self, begin: bytes, end: bytes, reverse: bool, version: int) -> Iterator[Row]:
        """Rows as commit `version` left them."""
        for key in self._keys.irange(begin, end, (True, False), reverse):
            value = self.value_at(key, version) if self._before else self._values[key]
            if value is not None:
                yield key, value

    def commit(self, tx: OptimisticTransaction) -> int:
        """Apply a transaction as a whole and return its version.

        Raises `Conflict` or `TooOld`, then nothing changed.
        """
        if tx.read_version >= 0:
            if tx.read_version < self._open.floor(self.version):
                raise TooOld
            if self._recent.conflict(tx.reads, tx.read_version) is not None:
                raise Conflict
        self.version += 1
        changed = self._apply(tx)
        ranges = tuple(tx.own.cleared)
        self._recent.record(WriteSet(self.version, frozenset(changed) | tx.write_conflicts, ranges))
        self._changes.append(WriteSet(self.version, frozenset(changed), ()))
        self._fire(changed)
        self._forget(self._open.floor(self.version))
        return self.version

    def arm(self, tx: OptimisticTransaction, watches: list[LocalWatch]) -> None:
        """Arm the watches of a committed transaction. One whose key changed after the snapshot fires at once."""
        for watch in watches:
            own = tx.own.knows(watch.key)
            if not own and self.value_at(watch.key, tx.read_version) != self._values.get(watch.key):
                watch.fire()
            else:
                self.watches.arm(watch)

    def _apply(self, tx: OptimisticTransaction) -> dict[bytes, bytes | None]:
        """Change the present; returns what each touched key held before."""
        stamp = self.version.to_bytes(8, "big") + b"\0\0"
        after: dict[bytes, bytes | None] = {}
        for begin, end in tx.own.cleared:
            after.update(dict.fromkeys(self._keys.irange(begin, end, (True, False))))
        after.update(tx.own.values)
        for key, number in tx.own.added.items():
            after[key] = counter_sum(self._values.get(key), number)
        after.update((prefix + stamp + suffix, value) for prefix, suffix, value in tx.own.stamped)
        before = {key: self._values.get(key) for key in after}
        for key, value in after.items():
            self._write(key, value)
        return before

    def _write(self, key: bytes, value: bytes | None) -> None:
        known = key in self._values or key in self._before
        self._before.setdefault(key, []).append((self.version, self._values.get(key)))
        if not known:
            self._keys.add(key)
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    def _forget(self, floor: int) -> None:
        self._recent.forget(floor)
        while self._changes and self._changes[0].version <= floor:
            for key in self._changes.popleft().keys:
                self._forget_before(key, floor)

    def _forget_before(self, key: bytes, floor: int) -> None:
        kept = [change for change in self._before.get(key, ()) if change[0] > floor]
        if kept:
            self._before[key] = kept
        elif key in self._before:
            del self._before[key]
            if key not in self._values:
                self._keys.remove(key)

    def _fire(self, before: dict[bytes, bytes | None]) -> None:
        if len(self.watches):
            changed = [key for key in self.watches.keys() & before.keys() if before[key] != self._values.get(key)]
            for watch in self.watches.take_written(changed):
                watch.fire()
