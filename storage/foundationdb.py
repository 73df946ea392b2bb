"""The port on a FoundationDB cluster (7.3 series): for production, with many engines.

Theory of operation: the library does the work, this file is the retry loop and the translation of its errors. A
commit whose answer was lost is run again with `maybe_committed` set when the library vouches that the old one cannot
land any more, and is `CommitUnknown` when it cannot: past the deadline, the lost commit may still land, seconds
later. `settle` ends that with a write conflict on a key which the lost transaction had read. Every transaction has a
deadline; an unreachable cluster costs a caller that long and is answered by `Unavailable`. The library reconnects by
itself, so the next call works when the cluster does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from windlass.storage import foundationdb_library as codes
from windlass.storage.backoff import TOO_OLD_ATTEMPTS
from windlass.storage.foundationdb_client import Database, NativeTransaction
from windlass.storage.foundationdb_library import FoundationError
from windlass.storage.foundationdb_transaction import FoundationTransaction, FoundationWatch
from windlass.storage.port import (
    TRANSACTION_SECONDS_MAX,
    CommitUnknown,
    KeyIllegal,
    KeyTooLarge,
    StorageError,
    Transaction,
    TransactionTooLarge,
    TransactionTooOld,
    Unavailable,
    Unreadable,
    ValueTooLarge,
)

T = TypeVar("T")

SETTLE_ATTEMPTS: Final = 9

_TRANSLATED: Final[dict[int, type[StorageError]]] = {
    codes.TRANSACTION_TOO_LARGE: TransactionTooLarge,
    codes.KEY_TOO_LARGE: KeyTooLarge,
    codes.VALUE_TOO_LARGE: ValueTooLarge,
    codes.KEY_OUTSIDE_LEGAL_RANGE: KeyIllegal,
    codes.ACCESSED_UNREADABLE: Unreadable,
    codes.TRANSACTION_TOO_OLD: TransactionTooOld,
}


class FoundationDBStorage:
    """A `Storage` of the port. Made by `open_foundationdb`."""

    shared = True

    def __init__(self, database: Database, prefix: bytes) -> None:
        """`prefix` is where the rows lie; the store takes over `database`."""
        self._now: Callable[[], float] = time.monotonic
        self._database = database
        self._prefix = prefix
        self._closed = False
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        result, tx = await self._attempts(body, _commit)
        if tx.unarmed:
            await self._arm(tx.unarmed)
        return result

    async def read(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        result, _ = await self._attempts(body, _commit_nothing)
        return result

    async def settle(self, key: bytes) -> bytes | None:
        async def touch(tx: Transaction) -> bytes | None:
            value = await tx.get(key)
            tx.add_write_conflict_key(key)
            return value

        for _ in range(SETTLE_ATTEMPTS):
            try:
                return await self.transact(touch)
            except CommitUnknown:
                continue
        raise Unavailable(f"could not settle {key!r}: the answers to its commits keep getting lost")

    async def close(self) -> None:
        self._closed = True
        await self._idle.wait()  # bounded: every transaction has a deadline
        await self._database.close()

    def use_clock(self, now: Callable[[], float]) -> None:
        """What tells how long attempts took; for tests, whose stand-in for the cluster has a clock of its own."""
        self._now = now

    @property
    def pending(self) -> int:
        """Operations the library has not answered yet, armed watches included."""
        return self._database.pending

    async def _attempts(
        self,
        body: Callable[[FoundationTransaction], Awaitable[T]],
        commit: Callable[[FoundationTransaction], Awaitable[None]],
    ) -> tuple[T, FoundationTransaction]:
        """The retry loop: one native transaction, a new `FoundationTransaction` for each attempt."""
        self._check_open(maybe_committed=False)
        self._active += 1
        self._idle.clear()
        native = self._database.begin()
        too_old = 0
        try:
            while True:
                tx = FoundationTransaction(native, self._prefix)
                began = self._now()
                try:
                    result = await body(tx)
                    tx.seal()
                    await commit(tx)
                    return result, tx
                except FoundationError as error:
                    tx.drop("its transaction is tried again")
                    # A lagging server gives the same error to the young; those just run again.
                    slow = self._now() - began >= TRANSACTION_SECONDS_MAX
                    too_old += slow and error.code == codes.TRANSACTION_TOO_OLD
                    await self._again(native, error, too_old)
                except BaseException:
                    tx.drop("its transaction failed")
                    raise
        finally:
            native.close()
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def _again(self, native: NativeTransaction, error: FoundationError, too_old: int) -> None:
        """Make ready for another attempt, or raise what ends the call."""
        try:
            await native.on_error(error)
        except Unavailable:
            if too_old:  # most of the deadline went into attempts that took too long
                raise _too_old(too_old) from error
            raise
        except FoundationError as final:
            raise _TRANSLATED.get(final.code, StorageError)(str(final)) from final
        if too_old >= TOO_OLD_ATTEMPTS:
            message = f"its attempts took over {TRANSACTION_SECONDS_MAX} s each"
            raise CommitUnknown(message) if native.maybe_committed else _too_old(too_old)
        self._check_open(maybe_committed=native.maybe_committed)

    async def _arm(self, unarmed: list[tuple[FoundationWatch, bytes | None]]) -> None:
        """Arm watches after the commit of the transaction that asked for them. That commit stands, so this never
        raises.
        """

        async def arm(tx: FoundationTransaction) -> None:
            reads = [tx.get(watch.key, snapshot=True) for watch, _ in unarmed]
            for (watch, at_commit), read in zip(unarmed, reads, strict=True):
                if await read == at_commit:
                    tx.adopt(watch)
                else:
                    watch.fire()

        try:
            await self._attempts(arm, _commit)
        except StorageError as error:
            for watch, _ in unarmed:
                watch.lose(f"it could not be armed: {error}")

    def _check_open(self, *, maybe_committed: bool) -> None:
        if self._closed:
            raise (CommitUnknown if maybe_committed else Unavailable)("the store was closed")


async def _commit(tx: FoundationTransaction) -> None:
    await tx.commit()


async def _commit_nothing(tx: FoundationTransaction) -> None:
    if tx.writes or tx.watches:
        raise StorageError("a body given to `read` wrote or watched: give it to `transact`")


def _too_old(attempts: int) -> TransactionTooOld:
    return TransactionTooOld(
        f"the transaction took over {TRANSACTION_SECONDS_MAX} s in {attempts} attempts: do less in it"
    )
