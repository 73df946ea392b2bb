"""Watches inside one process, for the stores whose every change passes through this process.

A watch is armed by the commit of its transaction and fired by a later one that wrote its key. A fired or cancelled
watch is out of the table, so what is left in the table is armed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from windlass.storage.port import Unavailable

#: FoundationDB's per connection.
WATCHES_MAX: Final = 10_000


class LocalWatch:
    """A `Watch` of the port. Its table is known once its transaction has committed."""

    __slots__ = ("_settled", "_table", "_why_lost", "key")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._settled = asyncio.Event()
        self._why_lost = ""
        self._table: WatchTable | None = None

    async def wait(self) -> None:
        await self._settled.wait()
        if self._why_lost:
            raise Unavailable(f"watch of {self.key!r}: {self._why_lost}")

    def cancel(self) -> None:
        if self._table is not None:
            self._table.discard(self)
        self.lose("it was cancelled")

    def armed(self, table: WatchTable) -> None:
        """Called by the table."""
        self._table = table

    @property
    def settled(self) -> bool:
        """True once it fired or was lost."""
        return self._settled.is_set()

    def fire(self) -> None:
        """Wake the waiters."""
        self._settled.set()

    def lose(self, why: str) -> None:
        """End it without a change, unless it fired before."""
        if not self._settled.is_set():
            self._why_lost = why
            self._settled.set()


class WatchTable:
    """The armed watches of one store, by key."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, dict[LocalWatch, None]] = {}  # a set's order would differ from run to run
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def keys(self) -> Iterable[bytes]:
        """The watched keys; usable with `&` against another dict's keys."""
        return self._by_key.keys()

    def arm(self, watch: LocalWatch) -> None:
        """Arm it; above `WATCHES_MAX` it is lost instead, which its waiter learns."""
        if watch.settled:
            return
        if self._count >= WATCHES_MAX:
            watch.lose(f"more than {WATCHES_MAX} watches are armed; cancel those that are not needed any more")
            return
        watch.armed(self)
        self._by_key.setdefault(watch.key, {})[watch] = None
        self._count += 1

    def discard(self, watch: LocalWatch) -> None:
        """Take it out, if it is in."""
        watches = self._by_key.get(watch.key, {})
        if watch in watches:
            del watches[watch]
            self._count -= 1
            if not watches:
                del self._by_key[watch.key]

    def take_written(self, written: Iterable[bytes]) -> list[LocalWatch]:
        """Take out and return the watches of these keys."""
        taken = [watch for key in written for watch in self._by_key.pop(key, ())]
        self._count -= len(taken)
        return taken

    def take_cleared(self, ranges: Iterable[tuple[bytes, bytes]]) -> list[LocalWatch]:
        """Take out and return the watches of keys in these ranges."""
        return self.take_written([key for begin, end in ranges for key in self._by_key if begin <= key < end])

    def lose_all(self, why: str) -> None:
        """The store is closed or broken."""
        for watch in self.take_written(list(self._by_key)):
            watch.lose(why)
