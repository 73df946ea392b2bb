"""Whether a transaction read what was written since: against the members before it in its group, and recent commits.

Theory of operation: keys lie in a sorted list, so that a range costs a bisection and not a walk over all that others
wrote; with hundreds of transactions in a group the walk would cost more than everything else together. A
versionstamped key is not known before its commit: it may fall anywhere from the last known version on, under its
prefix. It takes part as the first key it could be, which a range that covers the place finds; a read that begins
inside the place is found by its prefix.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from typing import Final

from windlass.storage.conflicts import ReadRange, ReadSet, WriteSet

_NOTHING: Final[frozenset[bytes]] = frozenset()


class Written:
    """What one commit wrote, or the members of a group so far."""

    def __init__(self, stamps_from: bytes = b"") -> None:
        """Versionstamps not known yet are not below `stamps_from`."""
        self._keys: set[bytes] = set()
        self._ordered: list[bytes] = []
        self._clears: list[tuple[bytes, bytes]] = []
        self._stamps_from = stamps_from
        self._prefixes: set[bytes] = set()
        self._lengths: set[int] = set()

    @classmethod
    def by(cls, commit: WriteSet) -> Written:
        """With all its keys known."""
        self = cls()
        self._keys = set(commit.keys)
        self._ordered = sorted(commit.keys)
        self._clears = list(commit.ranges)
        return self

    def add(self, keys: Iterable[bytes], clears: Iterable[tuple[bytes, bytes]], prefixes: Iterable[bytes]) -> None:
        """Another member's writes; `prefixes` are those of its versionstamped keys."""
        for key in keys:
            if key not in self._keys:
                self._keys.add(key)
                insort(self._ordered, key)
        self._clears.extend(clears)
        for prefix in prefixes:
            if prefix not in self._prefixes:
                self._prefixes.add(prefix)
                self._lengths.add(len(prefix))
                insort(self._ordered, prefix + self._stamps_from)

    def meets(self, reads: ReadSet) -> bool:
        """True if any of it was read."""
        if not self._keys.isdisjoint(reads.keys) or any(map(self.covers, reads.ranges)):
            return True
        return bool(self._clears or self._prefixes) and any(map(self._may_hold, reads.keys))

    def covers(self, span: ReadRange) -> bool:
        """True if any of it lies in the range, or may come to lie there."""
        place = bisect_left(self._ordered, span.begin)
        while place < len(self._ordered) and self._ordered[place] < span.end:
            if self._ordered[place] not in span.own:
                return True
            place += 1
        if any(begin < span.end and span.begin < end for begin, end in self._clears):
            return True
        return self._is_stamp_place(span.begin)

    def may_stamp(self, begin: bytes, end: bytes) -> bool:
        """True if a key not known yet may come to lie between begin and end."""
        return bool(self._prefixes) and self.covers(ReadRange(begin, end, _NOTHING))

    def _may_hold(self, key: bytes) -> bool:
        return any(begin <= key < end for begin, end in self._clears) or self._is_stamp_place(key)

    def _is_stamp_place(self, key: bytes) -> bool:
        return any(key[:size] in self._prefixes and key[size:] >= self._stamps_from for size in self._lengths)


class RecentWrites:
    """The commits of this store that a snapshot may not contain."""

    def __init__(self) -> None:
        self._commits: deque[tuple[float, int, Written]] = deque()

    def record(self, now: float, commit: WriteSet) -> None:
        self._commits.append((now, commit.version, Written.by(commit)))

    def forget(self, before: float) -> None:
        """Drop those recorded before that time: every snapshot still in use contains them."""
        while self._commits and self._commits[0][0] < before:
            self._commits.popleft()

    def conflict(self, reads: ReadSet, snapshot: int) -> bool:
        """True if what was read at `snapshot` was written since."""
        for _, version, written in reversed(self._commits):
            if version <= snapshot:
                return False
            if written.meets(reads):
                return True
        return False
