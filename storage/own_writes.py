"""The writes of one transaction before its commit, and how its reads see them.

Theory of operation: `values` holds what is known for certain, a value or None for a removed key. `cleared` holds ranges
removed as a whole; a key in one of them that is not in `values` is known to be gone. `added` holds additions to a
number that was not known when they were made. A later write replaces what earlier ones said about its keys, so the
three never contradict each other, and the order in which they are applied at commit is: cleared, values, added,
stamped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from windlass.storage.port import KEY_BYTES_MAX, KeyTooLarge, Row, Rows, Unreadable
from windlass.storage.sizes import RANGE_WEIGHT, STAMP_BYTES, WRITE_WEIGHT, check_key, check_value

COUNTER_BYTES: Final = 8
_COUNTER_SPAN: Final = 1 << 64
_COUNTER_HALF: Final = 1 << 63


def counter_sum(held: bytes | None, number: int) -> bytes:
    """The counter after an `add`:

    Signed, 64 bits, little-endian; it wraps, and a value of other length is cut or filled.
    """
    before = int.from_bytes((held or b"")[:COUNTER_BYTES], "little")
    return ((before + number) % _COUNTER_SPAN).to_bytes(COUNTER_BYTES, "little")


def counter_value(held: bytes | None) -> int:
    """The number in a counter written by `add`."""
    number = int.from_bytes((held or b"")[:COUNTER_BYTES], "little")
    return number - _COUNTER_SPAN if number >= _COUNTER_HALF else number


def merge(base: Iterator[Row], patch: dict[bytes, bytes | None], limit: int, reverse: bool) -> Rows:
    """Rows of `base` (in order) with those of `patch` in their places; a None in `patch` hides a row."""
    rows: Rows = []
    keys = sorted(patch, reverse=reverse)
    place, count = 0, len(keys)
    for row in base:
        while place < count and (keys[place] > row[0] if reverse else keys[place] < row[0]):
            if (value := patch[keys[place]]) is not None:
                rows.append((keys[place], value))
            place += 1
        if place < count and keys[place] == row[0]:
            continue
        if limit and len(rows) >= limit:
            return rows[:limit]
        rows.append(row)
    rows.extend((key, value) for key in keys[place:] if (value := patch[key]) is not None)
    return rows[:limit] if limit else rows


#: Prefix, suffix and value of a versionstamped write.
Stamped = tuple[bytes, bytes, bytes]


def check_readable(stamped: list[Stamped], begin: bytes, end: bytes) -> None:
    """Raise `Unreadable` if one of these versionstamped keys may fall between begin and end."""
    for prefix, suffix, _ in stamped:
        if begin <= prefix + b"\xff" * STAMP_BYTES + suffix and prefix + b"\0" * STAMP_BYTES + suffix < end:
            raise Unreadable(f"read of {begin!r} to {end!r}, where the versionstamped key {prefix!r}… may fall")


def unstamped(stamped: list[Stamped], begin: bytes, end: bytes) -> list[Stamped]:
    """Those that a clear of begin to end leaves, as their keys cannot all fall into it."""
    return [
        (prefix, suffix, value)
        for prefix, suffix, value in stamped
        if prefix + b"\0" * STAMP_BYTES + suffix < begin or prefix + b"\xff" * STAMP_BYTES + suffix >= end
    ]


class OwnWrites:
    """See the head of this file. `weight` is the transaction's size so far, writes and reads."""

    __slots__ = ("added", "cleared", "stamped", "values", "weight")

    def __init__(self) -> None:
        self.values: dict[bytes, bytes | None] = {}
        self.cleared: list[tuple[bytes, bytes]] = []
        self.added: dict[bytes, int] = {}
        self.stamped: list[Stamped] = []
        self.weight = 0

    def __bool__(self) -> bool:
        return bool(self.values or self.cleared or self.added or self.stamped)

    def set(self, key: bytes, value: bytes) -> None:
        check_key(key)
        check_value(key, value)
        self.values[key] = value
        self.added.pop(key, None)
        self.weight += 3 * len(key) + len(value) + WRITE_WEIGHT

    def clear(self, key: bytes) -> None:
        check_key(key)
        self.values[key] = None
        self.added.pop(key, None)
        self.weight += 3 * len(key) + WRITE_WEIGHT

    def clear_range(self, begin: bytes, end: bytes) -> None:
        if begin >= end:
            return
        for written in (self.values, self.added):
            for key in [key for key in written if begin <= key < end]:
                del written[key]
        self.stamped = unstamped(self.stamped, begin, end)
        self.cleared.append((begin, end))
        self.weight += 2 * (len(begin) + len(end)) + RANGE_WEIGHT

    def add(self, key: bytes, number: int) -> None:
        check_key(key)
        if self.knows(key):
            self.values[key] = counter_sum(self.values.get(key), number)
        else:
            self.added[key] = self.added.get(key, 0) + number
        self.weight += 3 * len(key) + COUNTER_BYTES + WRITE_WEIGHT

    def set_versionstamped_key(self, prefix: bytes, suffix: bytes, value: bytes) -> None:
        size = len(prefix) + STAMP_BYTES + len(suffix)
        if size > KEY_BYTES_MAX:
            raise KeyTooLarge(f"versionstamped key of {size} bytes, at most {KEY_BYTES_MAX} are allowed: {prefix!r}")
        check_key(prefix or b"\0")
        check_value(prefix, value)
        self.stamped.append((prefix, suffix, value))
        self.weight += 3 * size + len(value) + WRITE_WEIGHT

    def knows(self, key: bytes) -> bool:
        """True if the key's value follows from the own writes alone."""
        return key in self.values or any(begin <= key < end for begin, end in self.cleared)

    def seen(self, key: bytes, stored: Callable[[bytes], bytes | None]) -> bytes | None:
        """The key's value as this transaction sees it."""
        if self.knows(key):
            return self.values.get(key)
        held = stored(key)
        return counter_sum(held, self.added[key]) if key in self.added else held

    def patch(self, begin: bytes, end: bytes, stored: Callable[[bytes], bytes | None]) -> dict[bytes, bytes | None]:
        """What the own writes say about keys of a range, additions worked out."""
        known = {key: value for key, value in self.values.items() if begin <= key < end}
        for key, number in self.added.items():
            if begin <= key < end:
                known[key] = counter_sum(stored(key), number)
        return known

    def uncleared(self, base: Iterator[Row]) -> Iterator[Row]:
        """Rows of `base` that no range clear of this transaction removes."""
        if not self.cleared:
            return base
        return (row for row in base if not any(begin <= row[0] < end for begin, end in self.cleared))
