"""What commits have changed and the disk does not show yet, over one snapshot of LMDB.

Theory of operation: at most two groups of commits are not in the snapshot: the one being written (`flying`) and the
one being collected (`open`). Each is a `Layer`: a dict of the newest values, None for a removed key. A reader asks
the open layer, then the flying one, then LMDB. Layers have no cleared ranges, because bodies run one after another
and a range clear is turned into single removals at once.

Ranges need the layers' keys in order. A dict keeps the order in which keys came, and no key ever leaves a layer; so
the keys that came since the last range read are the last ones of the dict, and are sorted in only then.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import islice
from typing import Final, cast

import lmdb

from windlass.storage.port import Row

#: Up to this many new keys are put in their places one by one; more are sorted together.
_FEW: Final = 32


class Layer:
    """See the head of this file. Write to `values` directly, and never remove a key from it."""

    __slots__ = ("_order", "values")

    def __init__(self) -> None:
        self.values: dict[bytes, bytes | None] = {}
        self._order: list[bytes] = []

    def between(self, begin: bytes, end: bytes) -> list[bytes]:
        """The keys with begin <= key < end, in order."""
        order = self.order()
        low = bisect_left(order, begin)
        return order[low : bisect_left(order, end, low)]

    def order(self) -> list[bytes]:
        """All keys in order; valid until the next write."""
        order = self._order
        fresh = len(self.values) - len(order)
        if fresh:
            newest = islice(reversed(self.values), fresh)
            if fresh <= _FEW:
                for key in newest:
                    insort(order, key)
            else:
                order.extend(newest)
                order.sort()
        return order

    def first_piece(self, begin: bytes, end: bytes, keys: int) -> bytes:
        """An end, at most `end`, before which lie no more than so many keys from `begin` on."""
        order = self.order()
        place = bisect_left(order, begin) + keys
        return min(end, order[place]) if place < len(order) else end

    def last_piece(self, begin: bytes, end: bytes, keys: int) -> bytes:
        """A begin, at least `begin`, from which lie no more than so many keys before `end`."""
        order = self.order()
        place = bisect_left(order, end) - keys
        return max(begin, order[place]) if place >= 0 else begin


NO_LAYER: Final = Layer()


def forward(cursor: lmdb.Cursor, begin: bytes, end: bytes) -> Iterator[Row]:
    """Rows of the snapshot with begin <= key < end, in order."""
    if cursor.set_range(begin):
        for row in cast("Iterator[Row]", cursor.iternext()):
            if row[0] >= end:
                return
            yield row


def backward(cursor: lmdb.Cursor, begin: bytes, end: bytes) -> Iterator[Row]:
    """The same rows from the last to the first."""
    found = cursor.prev() if cursor.set_range(end) else cursor.last()
    if found:
        for row in cast("Iterator[Row]", cursor.iterprev()):
            if row[0] < begin:
                return
            yield row


def keys_between(cursor: lmdb.Cursor, begin: bytes, end: bytes) -> Iterator[bytes]:
    """The keys of the snapshot with begin <= key < end."""
    if cursor.set_range(begin):
        for key in cast("Iterator[bytes]", cursor.iternext(values=False)):
            if key >= end:
                return
            yield key
