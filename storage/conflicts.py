"""The optimistic conflict check FoundationDB does, shared by the in-memory store and the embedded store's strict mode.

Theory of operation: a transaction reads one snapshot and remembers what it read, single keys and ranges. At commit it
is compared with what was written by commits later than its snapshot: any overlap, and it must run again. Only real
reads count, a missing key and an empty range as much as a found one; equal values written again count as changes; a
transaction that writes nothing is never checked, for its snapshot is a point in the serial order by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

from windlass.storage.sizes import RANGE_WEIGHT

_NOTHING_OWN: Final[frozenset[bytes]] = frozenset()


class ReadRange(NamedTuple):
    """begin <= key < end was read, but for the keys in `own`, which the transaction had written itself before."""

    begin: bytes
    end: bytes
    own: frozenset[bytes]


class ReadSet:
    """What one transaction read for real."""

    __slots__ = ("keys", "ranges", "weight")

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self.ranges: list[ReadRange] = []
        self.weight = 0

    def add_key(self, key: bytes) -> None:
        self.keys.add(key)
        self.weight += 2 * len(key) + 1 + RANGE_WEIGHT

    def add_range(self, begin: bytes, end: bytes, own: Iterable[bytes]) -> None:
        self.ranges.append(ReadRange(begin, end, frozenset(own) or _NOTHING_OWN))
        self.weight += len(begin) + len(end) + RANGE_WEIGHT


class WriteSet(NamedTuple):
    """What one commit changed, as far as readers must know: single keys and ranges cleared."""

    version: int
    keys: frozenset[bytes]
    ranges: tuple[tuple[bytes, bytes], ...]


class ConflictTable:
    """The writes of recent commits. Forget them only up to the oldest snapshot that may still commit."""

    def __init__(self) -> None:
        self._commits: deque[WriteSet] = deque()
        self._clears: deque[WriteSet] = deque()
        self._last_write: dict[bytes, int] = {}

    def record(self, commit: WriteSet) -> None:
        self._commits.append(commit)
        if commit.ranges:
            self._clears.append(commit)
        self._last_write.update(dict.fromkeys(commit.keys, commit.version))

    def forget(self, version: int) -> None:
        """Drop the commits up to `version`: no snapshot older than it will be checked again."""
        while self._clears and self._clears[0].version <= version:
            self._clears.popleft()
        while self._commits and self._commits[0].version <= version:
            for key in self._commits.popleft().keys:
                if self._last_write.get(key, 0) <= version:
                    self._last_write.pop(key, None)

    def take_back(self, version: int) -> None:
        """Drop the commits after `version`: they failed on their way to the disk, and never happened."""
        kept = [commit for commit in self._commits if commit.version <= version]
        self._commits.clear()
        self._clears.clear()
        self._last_write.clear()
        for commit in kept:
            self.record(commit)

    def conflict(self, reads: ReadSet, snapshot: int) -> bytes | None:
        """A key or the begin of a range that was read at `snapshot` and written since, or None."""
        for key in reads.keys:
            if self.conflict_of(key, snapshot):
                return key
        for span in reads.ranges:
            if self._was_touched(span, snapshot):
                return span.begin
        return None

    def conflict_of(self, key: bytes, snapshot: int) -> bool:
        """True if the key was written after `snapshot`."""
        return self._last_write.get(key, 0) > snapshot or self._was_cleared(key, snapshot)

    def _was_cleared(self, key: bytes, snapshot: int) -> bool:
        return any(
            begin <= key < end
            for commit in reversed(self._clears)
            if commit.version > snapshot
            for begin, end in commit.ranges
        )

    def _was_touched(self, span: ReadRange, snapshot: int) -> bool:
        for commit in reversed(self._commits):
            if commit.version <= snapshot:
                return False
            if any(span.begin <= key < span.end and key not in span.own for key in commit.keys):
                return True
            if any(begin < span.end and span.begin < end for begin, end in commit.ranges):
                return True
        return False
