"""FoundationDB's transactions for asyncio: the client library's operations as awaitables, and what its error codes
mean.

Rules for whoever changes this file:

* A commit is *unknown* when the library says so, or when we stop waiting for it. In the first case
  (`commit_unknown_result`) the old commit cannot happen any more and the body may look for its own effect; in the
  second it may still land, up to seconds later, and only a write conflict keeps it from that: see
  `FoundationDBStorage.settle`.
* Once commit has begun, no operation may reach the library before `on_error`: it would answer by reporting the commit
  as failed (`used_during_commit`, 2017) although it happens. `Unusable` guards that.
* After `on_error` has refused, nothing works on that transaction any more: make a new one.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Generator
from typing import Any, Final

from windlass.storage.foundationdb_inbox import CLOSED, Inbox, Unusable
from windlass.storage.foundationdb_library import TRANSACTION_TIMED_OUT, FoundationError, library
from windlass.storage.port import CommitUnknown, Rows, Unavailable

_COMMITTING: Final[Any] = Unusable(
    "a transaction must not be used after its commit began: a task left over from the body?"
)

_WANT_ALL, _EXACT = -2, 0  # streaming modes
_READ_CONFLICT, _WRITE_CONFLICT = 0, 1
_ADD, _VERSIONSTAMPED_KEY = 2, 14
_PREDICATE_MAYBE_COMMITTED: Final = 50001
_DATABASE_TIMEOUT, _DATABASE_MAX_RETRY_DELAY, _DATABASE_MAX_WATCHES = 500, 502, 20
_TRANSACTION_TIMEOUT: Final = 500
_UNKNOWN_VERSIONSTAMP: Final = b"\xff" * 10


class NativeWatch:
    """Fires once after the watched value changed. Says only "look again", and may miss a change there and back."""

    def __init__(self, native: Any, pointer: int, fired: asyncio.Future[None]) -> None:
        self._native, self._pointer, self.fired = native, pointer, fired

    def cancel(self) -> None:
        if not self.fired.done():  # not done, so the future was not yet destroyed
            self._native.future_cancel(self._pointer)


class RangeRead:
    """A range read under way: its first chunk is asked for at creation, the others when it is awaited."""

    def __init__(
        self, transaction: NativeTransaction, begin: bytes, end: bytes, limit: int, reverse: bool, snapshot: bool
    ) -> None:
        self._transaction, self._begin, self._end = transaction, begin, end
        self._limit, self._reverse, self._snapshot = limit, reverse, snapshot
        self._mode = _EXACT if limit else _WANT_ALL
        self._first = self._chunk(begin, end, limit, 1)

    def __await__(self) -> Generator[Any, Any, Rows]:
        return self._rows().__await__()

    async def _rows(self) -> Rows:
        begin, end = self._begin, self._end
        rows, more = await self._first
        for iteration in itertools.count(2):
            if not more or not rows or (self._limit and len(rows) >= self._limit):
                break
            begin, end = (begin, rows[-1][0]) if self._reverse else (rows[-1][0] + b"\x00", end)
            chunk, more = await self._chunk(begin, end, self._limit and self._limit - len(rows), iteration)
            rows += chunk
        return rows

    def _chunk(self, begin: bytes, end: bytes, limit: int, iteration: int) -> asyncio.Future[tuple[Rows, bool]]:
        return self._transaction.chunk(
            begin, end, limit, self._mode, iteration, reverse=self._reverse, snapshot=self._snapshot
        )


class NativeTransaction:
    """One attempt at a time of one transaction. Reads start when called: call all of them, then await the first."""

    def __init__(self, native: Any, inbox: Inbox, pointer: int) -> None:
        self._native, self._inbox = native, inbox
        self._handle: Any = pointer  # always the transaction
        self._pointer: Any = pointer  # the same, but only while operations are allowed
        #: An earlier attempt may have committed: look for its effect before doing it again.
        self.maybe_committed = False
        #: Attempts so far, this one included.
        self.attempt = 1

    def get(self, key: bytes, *, snapshot: bool = False) -> asyncio.Future[bytes | None]:
        pointer = self._native.transaction_get(self._pointer, key, len(key), snapshot)
        return self._inbox.submit(pointer, self._inbox.decoder.value)

    def get_range(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False, snapshot: bool = False
    ) -> RangeRead:
        """All rows in [begin, end), at most `limit` of them if it is not 0, from the end if `reverse`."""
        return RangeRead(self, begin, end, limit, reverse, snapshot)

    def chunk(
        self, begin: bytes, end: bytes, limit: int, mode: int, iteration: int, *, reverse: bool, snapshot: bool
    ) -> asyncio.Future[tuple[Rows, bool]]:
        """Some rows from the start of a range, and whether there may be more."""
        pointer = self._native.transaction_get_range(
            self._pointer, begin, len(begin), 0, 1, end, len(end), 0, 1, limit, 0, mode, iteration, snapshot, reverse
        )
        return self._inbox.submit(pointer, self._inbox.decoder.chunk)

    # Writes are buffered by the library until commit and never block; their errors come at the next read or commit.

    def set(self, key: bytes, value: bytes) -> None:
        self._native.transaction_set(self._pointer, key, len(key), value, len(value))

    def clear(self, key: bytes) -> None:
        self._native.transaction_clear(self._pointer, key, len(key))

    def clear_range(self, begin: bytes, end: bytes) -> None:
        self._native.transaction_clear_range(self._pointer, begin, len(begin), end, len(end))

    def add(self, key: bytes, operand: bytes) -> None:
        """Add to a 64-bit little-endian counter, without reading it."""
        self._native.transaction_atomic_op(self._pointer, key, len(key), operand, len(operand), _ADD)

    def set_versionstamped_key(self, prefix: bytes, suffix: bytes, value: bytes) -> None:
        """Set `prefix + <10 bytes known at commit> + suffix`. The place of the hole follows the key, in four bytes."""
        key = prefix + _UNKNOWN_VERSIONSTAMP + suffix + struct.pack("<I", len(prefix))
        self._native.transaction_atomic_op(self._pointer, key, len(key), value, len(value), _VERSIONSTAMPED_KEY)

    def add_read_conflict_key(self, key: bytes) -> None:
        self._conflict(key, _READ_CONFLICT)

    def add_write_conflict_key(self, key: bytes) -> None:
        self._conflict(key, _WRITE_CONFLICT)

    def _conflict(self, key: bytes, kind: int) -> None:
        end = key + b"\x00"
        code = self._native.transaction_add_conflict_range(self._pointer, key, len(key), end, len(end), kind)
        self._native.check(code)

    def watch(self, key: bytes) -> NativeWatch:
        """Armed by the commit, lost by `on_error`. In a transaction that writes it also adds a read conflict."""
        pointer = self._native.transaction_watch(self._pointer, key, len(key))
        return NativeWatch(self._native, pointer, self._inbox.submit(pointer, self._inbox.decoder.nothing))

    def set_timeout(self, milliseconds: int) -> None:
        """Bound this transaction with all its attempts, in place of the database's bound."""
        number = struct.pack("<q", milliseconds)
        self._native.check(self._native.transaction_set_option(self._pointer, _TRANSACTION_TIMEOUT, number, 8))

    async def commit(self) -> None:
        """Make it so. From here on every operation is refused."""
        committed = self._inbox.submit(self._native.transaction_commit(self._pointer), self._inbox.decoder.nothing)
        self._pointer = _COMMITTING
        await committed

    def committed_version(self) -> int:
        """After commit: its place in the serial order; -1 if it wrote nothing."""
        return int(self._native.committed_version(self._handle))

    async def on_error(self, error: FoundationError) -> None:
        """Back off and reset for another attempt, or raise if `error` is not one that another attempt can cure.

        Raises `Unavailable` or `CommitUnknown` past the deadline, and otherwise the error itself.
        """
        if error.code == TRANSACTION_TIMED_OUT:
            raise self._given_up(self._pointer is _COMMITTING) from error
        unknown = bool(self._native.error_predicate(_PREDICATE_MAYBE_COMMITTED, error.code))
        self.maybe_committed |= unknown
        try:
            pointer = self._native.transaction_on_error(self._handle, error.code)
            await self._inbox.submit(pointer, self._inbox.decoder.nothing)
        except FoundationError as refused:
            if refused.code == TRANSACTION_TIMED_OUT:
                raise self._given_up(False) from error
            if unknown:
                raise CommitUnknown(str(error)) from error
            if refused.code == error.code:
                raise error from None
            raise refused from error
        self._pointer = self._handle
        self.attempt += 1

    def _given_up(self, committing: bool) -> CommitUnknown | Unavailable:
        if committing or self.maybe_committed:
            return CommitUnknown("the cluster's answer to a commit did not come before the transaction's deadline")
        return Unavailable(f"no answer from the cluster before the transaction's deadline, in {self.attempt} attempts")

    def close(self) -> None:
        """Cancel whatever is still outstanding. Watches of a committed transaction live on."""
        if self._handle is not CLOSED:
            self._native.transaction_destroy(self._handle)
            self._handle = self._pointer = CLOSED


class Database:
    """A cluster, seen from one event loop. Open it, use it and close it in that loop. Opening never fails."""

    def __init__(self, cluster_file: str, *, timeout_ms: int, max_retry_delay_ms: int, native: Any = None) -> None:
        """`timeout_ms` bounds every transaction with all its attempts: without it an unreachable cluster is waited
        for for ever. `native` is for tests: a stand-in with the methods and the `decoder` of `Library`, and any
        integers for pointers.
        """
        self._native = native or library()
        self._inbox = Inbox(self._native, asyncio.get_running_loop())
        self._pointer: Any = self._native.open(cluster_file)
        self._set_option(_DATABASE_TIMEOUT, timeout_ms)
        self._set_option(_DATABASE_MAX_RETRY_DELAY, max_retry_delay_ms)

    def set_max_watches(self, number: int) -> None:
        self._set_option(_DATABASE_MAX_WATCHES, number)

    def _set_option(self, option: int, number: int) -> None:
        self._native.check(self._native.database_set_option(self._pointer, option, struct.pack("<q", number), 8))

    @property
    def pending(self) -> int:
        """FDB futures not yet settled, armed watches included."""
        return self._inbox.pending

    def begin(self) -> NativeTransaction:
        """A transaction that the caller commits and closes."""
        return NativeTransaction(self._native, self._inbox, self._native.begin(self._pointer))

    async def client_status(self) -> bytes:
        """What the client knows of the cluster, as JSON: `Healthy`, coordinators, connections."""
        pointer = self._native.database_get_client_status(self._pointer)
        return await self._inbox.submit(pointer, self._inbox.decoder.key)

    async def close(self) -> None:
        """Cancel everything outstanding, watches too, and let go of the cluster. The network thread runs until exit."""
        await self._inbox.close()
        if self._pointer is not CLOSED:
            self._native.database_destroy(self._pointer)
            self._pointer = CLOSED
