"""The embedded store: one LMDB file in a directory, for one engine process. The default.

Bodies run on the event loop's thread, one after another and each without a break, so they never conflict and never
retry; their commits are synced in groups (`embedded_groups`). `strict=True` gives a store over the same files whose
bodies interleave and conflict as on FoundationDB; tests run on it, so that what cannot work on a cluster does not
work on a laptop.

What a body sees: everything committed before it, including groups that are not on disk yet, because it commits after
them. Its `transact` returns only when all it may have seen is on disk, even if it wrote nothing. What `read` sees:
only what is on disk, which includes everything that any `transact` has returned for. So nothing that a crash can take
back is ever told to a caller.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from windlass.storage.embedded_groups import Groups
from windlass.storage.embedded_transaction import EmbeddedTransaction
from windlass.storage.optimistic import touching
from windlass.storage.port import (
    TRANSACTION_SECONDS_MAX,
    BodySuspended,
    StorageError,
    Transaction,
    TransactionTooOld,
)

T = TypeVar("T")


def run_at_once(body: Awaitable[T]) -> T:
    """The result of a body that never suspends. Raises `BodySuspended` if it does."""
    running = body.__await__()
    try:
        next(running)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    if hasattr(running, "close"):
        running.close()
    raise BodySuspended("a transaction body awaited something other than its transaction: do that outside `transact`")


class EmbeddedStorage:
    """A `Storage` of the port."""

    shared = False

    def __init__(self, groups: Groups, clock: Callable[[], float] = time.monotonic) -> None:
        self._groups = groups
        self._clock = clock

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        groups = self._groups
        if groups.refusal:
            raise StorageError(groups.refusal)
        tx = EmbeddedTransaction(groups.present)
        began = self._clock()
        try:
            result = run_at_once(body(tx))
            writes = tx.seal()
            self._check_age(began)
        except BaseException:
            tx.drop("its transaction failed")
            raise
        if writes:
            groups.add(tx)
        if tx.watches:
            groups.arm(tx.watches)
        if writes or groups.pending:
            await groups.landing()
        return result

    async def read(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        if self._groups.refusal:
            raise StorageError(self._groups.refusal)
        tx = EmbeddedTransaction(self._groups.committed)
        began = self._clock()
        try:
            result = run_at_once(body(tx))
            if tx.seal() or tx.watches:
                raise StorageError("a body given to `read` wrote or watched: give it to `transact`")
            self._check_age(began)
        except BaseException:
            tx.drop("its transaction failed")
            raise
        return result

    def _check_age(self, began: float) -> None:
        """A body that a cluster would refuse is refused here too, reads included. Raises TransactionTooOld."""
        if self._clock() - began > TRANSACTION_SECONDS_MAX:
            raise TransactionTooOld(f"the body ran for more than {TRANSACTION_SECONDS_MAX} s: do less in it")

    async def settle(self, key: bytes) -> bytes | None:
        return await self.transact(touching(key))

    def counts(self) -> dict[str, int]:
        """See `Counted` in the port."""
        return self._groups.counts()

    async def close(self) -> None:
        await self._groups.close()
