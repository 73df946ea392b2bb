"""One attempt of one transaction on FoundationDB, as the port describes it: our key prefix, our limits, our watches.

Theory of operation of watches: they live in transactions that write nothing, where no conflict can kill them. A
transaction that writes only reads the watched key, so that it conflicts with a change as the library's own watch would,
and notes what the key will hold after its commit. A second transaction arms the watch and reads the key again: another
value there means that it changed in between, and the watch fires at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, Final

from windlass.storage.foundationdb_client import NativeTransaction, NativeWatch, RangeRead
from windlass.storage.foundationdb_library import TOO_MANY_WATCHES, FoundationError
from windlass.storage.own_writes import COUNTER_BYTES
from windlass.storage.port import KEY_BYTES_MAX, KeyTooLarge, Rows, StorageError, Unavailable
from windlass.storage.sizes import (
    KEYS_END,
    RANGE_WEIGHT,
    STAMP_BYTES,
    WRITE_WEIGHT,
    check_key,
    check_transaction,
    check_value,
)

_COUNTER_SPAN: Final = 1 << 64


class FoundationWatch:
    """A `Watch` of the port. The library's watch joins it when it is armed."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._settled = asyncio.Event()
        self._why_lost = ""
        self._native: NativeWatch | None = None

    async def wait(self) -> None:
        await self._settled.wait()
        if self._why_lost:
            raise Unavailable(f"watch of {self.key!r}: {self._why_lost}")

    def cancel(self) -> None:
        self.lose("it was cancelled")
        if self._native is not None:
            self._native.cancel()

    def join(self, native: NativeWatch) -> None:
        """Armed: from now on it ends as `native` does."""
        if self._settled.is_set():
            native.cancel()
            return
        self._native = native
        native.fired.add_done_callback(self._ended)

    def fire(self) -> None:
        self._settled.set()

    def lose(self, why: str) -> None:
        """End it without a change, unless it ended before."""
        if not self._settled.is_set():
            self._why_lost = why
            self._settled.set()

    def _ended(self, fired: asyncio.Future[None]) -> None:
        error = fired.exception() if not fired.cancelled() else asyncio.CancelledError()
        if error is None:
            self.fire()
        elif isinstance(error, FoundationError) and error.code == TOO_MANY_WATCHES:
            self.lose(
                "too many watches are armed on this cluster connection; cancel those that are not needed any more"
            )
        else:
            self.lose(f"the connection to the cluster gave it up: {error}")


class _StrippedRows:
    """A range read whose rows lose the installation's prefix."""

    __slots__ = ("_read", "_strip")

    def __init__(self, read: RangeRead, strip: int) -> None:
        self._read, self._strip = read, strip

    def __await__(self) -> Generator[Any, Any, Rows]:
        rows = yield from self._read.__await__()
        strip = self._strip
        return [(key[strip:], value) for key, value in rows]


class _NoRows:
    """A range read that needs no cluster."""

    def __await__(self) -> Generator[Any, Any, Rows]:
        yield from asyncio.sleep(0).__await__()
        return []


class FoundationTransaction:
    """A `Transaction` of the port; `native` outlives it when the body runs again."""

    def __init__(self, native: NativeTransaction, prefix: bytes) -> None:
        self.attempt = native.attempt
        self.maybe_committed = native.maybe_committed
        self.commit_version = 0
        self.writes = False
        self._native = native
        self._prefix = prefix
        self._weight = 0
        self._usable = True
        self._refused: StorageError | None = None
        self._watches: list[FoundationWatch] = []
        self._adopted: list[FoundationWatch] = []
        self._unarmed: list[tuple[FoundationWatch, bytes | None]] = []

    def get(self, key: bytes, *, snapshot: bool = False) -> Awaitable[bytes | None]:
        native = self._usable_native()
        self._weight += 0 if snapshot else 2 * len(key) + 1 + RANGE_WEIGHT
        return native.get(self._prefix + key, snapshot=snapshot)

    def get_range(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False, snapshot: bool = False
    ) -> Awaitable[Rows]:
        native = self._usable_native()
        end = min(end, KEYS_END)
        if begin >= end:
            return _NoRows()
        self._weight += 0 if snapshot else len(begin) + len(end) + RANGE_WEIGHT
        first, last = self._prefix + begin, self._prefix + end
        read = native.get_range(first, last, limit=limit, reverse=reverse, snapshot=snapshot)
        return _StrippedRows(read, len(self._prefix))

    def set(self, key: bytes, value: bytes) -> None:
        native = self._writing(key, value)
        self._weight += 3 * len(key) + len(value) + WRITE_WEIGHT
        native.set(self._prefix + key, value)

    def clear(self, key: bytes) -> None:
        native = self._writing(key)
        self._weight += 3 * len(key) + WRITE_WEIGHT
        native.clear(self._prefix + key)

    def clear_range(self, begin: bytes, end: bytes) -> None:
        native = self._usable_native()
        end = min(end, KEYS_END)
        if begin < end:
            self.writes = True
            self._weight += 2 * (len(begin) + len(end)) + RANGE_WEIGHT
            native.clear_range(self._prefix + begin, self._prefix + end)

    def add(self, key: bytes, number: int) -> None:
        native = self._writing(key)
        self._weight += 3 * len(key) + COUNTER_BYTES + WRITE_WEIGHT
        native.add(self._prefix + key, (number % _COUNTER_SPAN).to_bytes(COUNTER_BYTES, "little"))

    def set_versionstamped_key(self, prefix: bytes, suffix: bytes, value: bytes) -> None:
        size = len(prefix) + STAMP_BYTES + len(suffix)
        if size > KEY_BYTES_MAX:
            self._refuse(KeyTooLarge(f"versionstamped key of {size} bytes, at most {KEY_BYTES_MAX}: {prefix[:40]!r}…"))
        native = self._writing(prefix or b"\0", value)
        self._weight += 3 * size + len(value) + WRITE_WEIGHT
        native.set_versionstamped_key(self._prefix + prefix, suffix, value)

    def add_read_conflict_key(self, key: bytes) -> None:
        self._usable_native().add_read_conflict_key(self._prefix + key)
        self._weight += 2 * len(key) + 1 + RANGE_WEIGHT

    def add_write_conflict_key(self, key: bytes) -> None:
        self._writing(key).add_write_conflict_key(self._prefix + key)
        self._weight += 2 * len(key) + 1 + RANGE_WEIGHT

    def watch(self, key: bytes) -> FoundationWatch:
        self._usable_native()
        watch = FoundationWatch(key)
        self._watches.append(watch)
        return watch

    # What follows is for the store.

    def adopt(self, watch: FoundationWatch) -> None:
        """Arm a watch of an earlier transaction by this one's commit, if this one writes nothing."""
        self._adopted.append(watch)

    def seal(self) -> None:
        """Refuse any further use by the body. Raises what was refused earlier, even if the body swallowed it."""
        self._usable = False
        if self._refused is not None:
            raise self._refused
        check_transaction(self._weight)

    @property
    def watches(self) -> bool:
        return bool(self._watches)

    async def commit(self) -> None:
        """Commit, and arm the watches where this very transaction can."""
        joined: list[tuple[FoundationWatch, NativeWatch]] = []
        if not self.writes:
            both = (*self._watches, *self._adopted)
            joined = [(watch, self._native.watch(self._prefix + watch.key)) for watch in both]
        elif self._watches:
            reads = [self._native.get(self._prefix + watch.key) for watch in self._watches]
            self._unarmed = [(watch, await read) for watch, read in zip(self._watches, reads, strict=True)]
        try:
            await self._native.commit()
        except asyncio.CancelledError:  # it may have been done: then they are armed, and nobody would give them up
            for _, native in joined:
                native.cancel()
            raise
        if self.writes:
            self.commit_version = self._native.committed_version()
        for watch, native in joined:
            watch.join(native)

    @property
    def unarmed(self) -> list[tuple[FoundationWatch, bytes | None]]:
        """After the commit: the watches still to be armed, each with its key's value at the commit."""
        return self._unarmed

    def drop(self, why: str) -> None:
        """The attempt is over without a commit that its caller knows of."""
        self._usable = False
        for watch in self._watches:
            watch.lose(why)

    def _usable_native(self) -> NativeTransaction:
        if not self._usable:
            raise StorageError("a transaction was used after its body had returned: a task left over from the body?")
        return self._native

    def _writing(self, key: bytes, value: bytes = b"") -> NativeTransaction:
        native = self._usable_native()
        try:
            check_key(key)
            check_value(key, value)
        except StorageError as refused:
            self._refuse(refused)
        self.writes = True
        return native

    def _refuse(self, error: StorageError) -> None:
        self._refused = error
        raise error
