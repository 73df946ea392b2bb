"""The writes of one transaction of the FoundationDB stand-in: a log, and what a read sees of it at the moment of its
call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.storage.fdb_fake_cluster import added

Row = tuple[bytes, bytes]
_HOLE = 10


@dataclass(frozen=True)
class OfKey:
    """What the own writes say about one key."""

    known: bool
    value: bytes | None
    adds: tuple[bytes, ...]
    unreadable: bool

    def over(self, stored: bytes | None) -> bytes | None:
        value = self.value if self.known else stored
        for operand in self.adds:
            value = added(value, operand)
        return value


@dataclass(frozen=True)
class Between:
    """What the own writes say about a range."""

    keys: dict[bytes, OfKey]
    cleared: tuple[tuple[bytes, bytes], ...]
    unreadable: bool

    def over(self, stored: Iterable[Row]) -> list[Row]:
        seen = dict(stored)
        rows = {key: v for key, v in seen.items() if not any(b <= key < e for b, e in self.cleared)}
        for key, own in self.keys.items():
            value = own.over(seen.get(key))
            rows.pop(key, None)
            if value is not None:
                rows[key] = value
        return sorted(rows.items())


class OwnWrites:
    """The log, and an index of it."""

    def __init__(self) -> None:
        self._log: list[tuple[str, bytes, bytes]] = []
        self._values: dict[bytes, bytes | None] = {}
        self._adds: dict[bytes, tuple[bytes, ...]] = {}
        self._cleared: list[tuple[bytes, bytes]] = []
        self._stamped: list[tuple[bytes, bytes]] = []  # the lowest and the highest key it may become

    def __bool__(self) -> bool:
        return bool(self._log)

    def mutations(self) -> list[tuple[str, bytes, bytes]]:
        return list(self._log)

    def set(self, key: bytes, value: bytes) -> None:
        self._log.append(("set", key, value))
        self._values[key] = value
        self._adds.pop(key, None)

    def add(self, key: bytes, operand: bytes) -> None:
        self._log.append(("add", key, operand))
        self._adds[key] = (*self._adds.get(key, ()), operand)

    def stamp(self, template: bytes, value: bytes) -> None:
        self._log.append(("stamp", template, value))
        offset = int.from_bytes(template[-4:], "little")
        prefix, suffix = template[:offset], template[offset + _HOLE : -4]
        self._stamped.append((prefix + b"\0" * _HOLE + suffix, prefix + b"\xff" * _HOLE + suffix))

    def clear_range(self, begin: bytes, end: bytes) -> None:
        self._log.append(("clear", begin, end))
        for written in (self._values, self._adds):
            for key in [key for key in written if begin <= key < end]:
                del written[key]
        self._cleared.append((begin, end))
        kept = [(low, high) for low, high in self._stamped if not (begin <= low and high < end)]
        if len(kept) < len(self._stamped):
            self._log = [one for one in self._log if not _gone(one, begin, end)]
        self._stamped = kept

    def of(self, key: bytes) -> OfKey:
        known = key in self._values or any(begin <= key < end for begin, end in self._cleared)
        unreadable = any(low <= key <= high for low, high in self._stamped)
        return OfKey(known, self._values.get(key), self._adds.get(key, ()), unreadable)

    def between(self, begin: bytes, end: bytes) -> Between:
        keys = {key for written in (self._values, self._adds) for key in written if begin <= key < end}
        unreadable = any(low < end and begin <= high for low, high in self._stamped)
        return Between({key: self.of(key) for key in keys}, tuple(self._cleared), unreadable)


def _gone(mutation: tuple[str, bytes, bytes], begin: bytes, end: bytes) -> bool:
    """A stamped write of which a later clear leaves nothing."""
    kind, template, _ = mutation
    if kind != "stamp":
        return False
    offset = int.from_bytes(template[-4:], "little")
    prefix, suffix = template[:offset], template[offset + _HOLE : -4]
    return begin <= prefix + b"\0" * _HOLE + suffix and prefix + b"\xff" * _HOLE + suffix < end
