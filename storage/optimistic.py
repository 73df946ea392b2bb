"""Transactions that run side by side on snapshots and are checked for conflicts at commit.

Theory of operation: `OptimisticTransaction` is everything the port says about one attempt, over a `Snapshot` that a
store gives it at its first read. Values are taken when a read is called, and the answer is handed over after a
suspension, so that other transactions get their turn there, as they do on a cluster. `OptimisticStorage.transact` is
the retry loop. A store adds three things: a snapshot, what happens on the way to it (`network`), and a commit, which
either lands as a whole or raises `Conflict`, `TooOld`, `Forgotten` (run the body again) or a `StorageError` (tell the
caller).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator, Iterator
from random import Random
from typing import Any, Generic, Protocol, TypeVar

from windlass.storage.backoff import Backoff, Conflict, Forgotten, TooOld
from windlass.storage.conflicts import ReadSet
from windlass.storage.own_writes import OwnWrites, check_readable, merge
from windlass.storage.port import (
    TRANSACTION_SECONDS_MAX,
    CommitUnknown,
    Row,
    Rows,
    StorageError,
    Transaction,
    Unavailable,
)
from windlass.storage.sizes import KEYS_END, check_key, check_transaction
from windlass.storage.watches import LocalWatch

T = TypeVar("T")


class Snapshot(Protocol):
    """The store as it was right after the commit `version`."""

    version: int

    def get(self, key: bytes) -> bytes | None: ...

    def rows(self, begin: bytes, end: bytes, reverse: bool) -> Iterator[Row]:
        """Rows in order, read lazily; used up before anything else is called."""
        ...

    def release(self) -> None:
        """Not needed any more. Safe to call twice."""
        ...


class Answer(Generic[T]):
    """A read that was started: its value is known, and handed over after the suspension."""

    __slots__ = ("_storage", "_value")

    def __init__(self, storage: OptimisticStorage, value: T) -> None:
        self._storage = storage
        self._value = value

    def __await__(self) -> Generator[Any, Any, T]:
        yield from self._storage.network().__await__()
        return self._value


def touching(key: bytes) -> Callable[[Transaction], Awaitable[bytes | None]]:
    """The body of `settle`: a read of the key, and a write conflict on it that defeats whatever may land later."""

    async def touch(tx: Transaction) -> bytes | None:
        value = await tx.get(key)
        tx.add_write_conflict_key(key)
        return value

    return touch


class OptimisticTransaction:
    """A `Transaction` of the port."""

    def __init__(self, storage: OptimisticStorage, attempt: int, maybe_committed: bool) -> None:
        self.attempt = attempt
        self.maybe_committed = maybe_committed
        self.commit_version = 0
        self.own = OwnWrites()
        self.reads = ReadSet()
        self.write_conflicts: set[bytes] = set()
        self.watches: list[LocalWatch] = []
        self._storage = storage
        self._snapshot: Snapshot | None = None
        self._began = 0.0
        self._usable = True
        self._kept = False
        self._refused: StorageError | None = None

    def get(self, key: bytes, *, snapshot: bool = False) -> Awaitable[bytes | None]:
        stored = self._stored()
        check_key(key)
        self._check_readable(key, key + b"\0")
        if not snapshot and not self.own.knows(key):
            self.reads.add_key(key)
        return Answer(self._storage, self.own.seen(key, stored.get))

    def get_range(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False, snapshot: bool = False
    ) -> Awaitable[Rows]:
        end = min(end, KEYS_END)
        stored = self._stored()
        if begin >= end:
            return Answer(self._storage, [])
        self._check_readable(begin, end)
        patch = self.own.patch(begin, end, stored.get)
        rows = merge(self.own.uncleared(stored.rows(begin, end, reverse)), patch, limit, reverse)
        if not snapshot:
            cut = bool(limit) and len(rows) == limit
            first = rows[-1][0] if cut and reverse else begin
            last = rows[-1][0] + b"\0" if cut and not reverse else end
            self.reads.add_range(first, last, self.own.values.keys() & patch.keys())
        return Answer(self._storage, rows)

    def set(self, key: bytes, value: bytes) -> None:
        self._writing(lambda own: own.set(key, value))

    def clear(self, key: bytes) -> None:
        self._writing(lambda own: own.clear(key))

    def clear_range(self, begin: bytes, end: bytes) -> None:
        self._writing(lambda own: own.clear_range(begin, min(end, KEYS_END)))

    def add(self, key: bytes, number: int) -> None:
        self._writing(lambda own: own.add(key, number))

    def set_versionstamped_key(self, prefix: bytes, suffix: bytes, value: bytes) -> None:
        self._writing(lambda own: own.set_versionstamped_key(prefix, suffix, value))

    def add_read_conflict_key(self, key: bytes) -> None:
        self._stored()
        self.reads.add_key(key)

    def add_write_conflict_key(self, key: bytes) -> None:
        self._writing(lambda own: check_key(key))
        self.write_conflicts.add(key)

    def watch(self, key: bytes) -> LocalWatch:
        self._stored()
        self.reads.add_key(key)
        watch = LocalWatch(key)
        self.watches.append(watch)
        return watch

    # What follows is for the store.

    @property
    def writes(self) -> bool:
        """True if the commit has anything to say to others."""
        return bool(self.own) or bool(self.write_conflicts)

    @property
    def read_version(self) -> int:
        """The version of the snapshot, or -1 before the first read."""
        return -1 if self._snapshot is None else self._snapshot.version

    def check_age(self) -> None:
        """Raise `TooOld` if the first read is longer ago than allowed."""
        if self._snapshot is not None and self._storage.now() - self._began > TRANSACTION_SECONDS_MAX:
            raise TooOld

    def seal(self) -> None:
        """Refuse any further use: the commit begins. Raises what was refused earlier, even if the body swallowed it."""
        self._usable = False
        if self._refused is not None:
            raise self._refused
        check_transaction(self.own.weight + self.reads.weight)

    def drop(self, why: str) -> None:
        """The attempt is over without a commit of its own."""
        self._usable = False
        for watch in self.watches:
            watch.lose(why)
        self.release()

    def keep_snapshot(self) -> None:
        """Do not release the snapshot when the attempt is dropped: its commit may still land."""
        self._kept = True

    def drop_kept(self) -> None:
        """The commit that was kept has landed or never will."""
        self._kept = False
        self.release()

    def release(self) -> None:
        """Give the snapshot back."""
        if self._snapshot is not None and not self._kept:
            self._snapshot.release()

    def _stored(self) -> Snapshot:
        self._check_usable()
        if self._snapshot is None:
            self._snapshot = self._storage.snapshot()
            self._began = self._storage.now()
        self.check_age()
        return self._snapshot

    def _writing(self, write: Callable[[OwnWrites], None]) -> None:
        self._check_usable()
        try:
            write(self.own)
        except StorageError as refused:
            self._refused = refused
            raise

    def _check_readable(self, begin: bytes, end: bytes) -> None:
        if self.own.stamped:
            self._writing(lambda own: check_readable(own.stamped, begin, end))

    def _check_usable(self) -> None:
        if not self._usable:
            raise StorageError("a transaction was used after its body had returned: a task left over from the body?")


class OptimisticStorage(ABC):
    """The retry loop, over what a store adds."""

    def __init__(self, *, shared: bool, deadline_seconds: float, random: Random) -> None:
        self.shared = shared
        self._deadline = deadline_seconds
        self._random = random
        self._closed = False

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        return await self._attempts(body, self._commit_writes)

    async def read(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        return await self._attempts(body, self._commit_nothing)

    async def settle(self, key: bytes) -> bytes | None:
        for _ in range(9):
            try:
                return await self.transact(touching(key))
            except CommitUnknown:
                continue
        raise Unavailable(f"could not settle {key!r}: the answers to its commits keep getting lost")

    async def close(self) -> None:
        self._closed = True

    async def _attempts(
        self, body: Callable[[Transaction], Awaitable[T]], commit: Callable[[OptimisticTransaction], Awaitable[None]]
    ) -> T:
        backoff = Backoff(self._random, self._deadline)
        while True:
            if self._closed:
                raise backoff.given_up("the store was closed")
            tx = OptimisticTransaction(self, backoff.attempt, backoff.maybe_committed)
            try:
                result = await body(tx)
                tx.seal()
                await commit(tx)
                tx.release()
                return result
            except (Conflict, Forgotten, TooOld) as again:
                tx.drop("its transaction is tried again")
                await backoff.wait(again)
            except Unavailable as silence:
                tx.drop("its transaction failed")
                raise backoff.given_up(str(silence)) from silence
            except BaseException:
                tx.drop("its transaction failed")
                raise

    async def _commit_writes(self, tx: OptimisticTransaction) -> None:
        await self.commit(tx)

    async def _commit_nothing(self, tx: OptimisticTransaction) -> None:
        if tx.writes or tx.watches:
            raise StorageError("a body given to `read` wrote or watched: give it to `transact`")

    def now(self) -> float:
        """Seconds on the clock that the age limit is counted on."""
        return asyncio.get_running_loop().time()

    async def network(self) -> None:
        """What an answer waits for. At least one turn of the loop, so that transactions interleave."""
        await asyncio.sleep(0)

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """The newest state that is committed."""

    @abstractmethod
    async def commit(self, tx: OptimisticTransaction) -> None:
        """Make it durable as a whole and arm its watches, or raise. With nothing written, only arm the watches."""
