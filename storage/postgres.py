"""The port on PostgreSQL: for teams that run it already, and for several engines on one store without a cluster.

Theory of operation: transactions of ours are not transactions of PostgreSQL. A body reads a shared snapshot
(`postgres_snapshots`), keeps its writes in memory, and is checked for conflicts when it commits, by FoundationDB's
rule: a real read of what was written since. Commits are folded into groups, each one SERIALIZABLE transaction and one
round trip (`postgres_commits`, `postgres_schema`). PostgreSQL's own conflict detection would not do: it finds another
serial order than that of commits, so a stale reader may commit after the writer; it locks pages and, with many reads
in one transaction, whole tables, so that two engines would abort each other without cause.

Several engines may open one store, and several stores may share a database by their schemas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final, TypeVar

from windlass.storage.backoff import Backoff, Conflict, Forgotten, TooOld
from windlass.storage.port import (
    TRANSACTION_SECONDS_MAX,
    CommitUnknown,
    StorageError,
    Transaction,
    TransactionTooOld,
    Unavailable,
)
from windlass.storage.postgres_commits import Committer
from windlass.storage.postgres_connections import DRIVER_ERRORS, PostgresOptions, connect, connect_error, cut, parse_url
from windlass.storage.postgres_schema import ensure_schema
from windlass.storage.postgres_snapshots import SnapshotPool
from windlass.storage.postgres_transaction import PostgresTransaction
from windlass.storage.postgres_watches import POLL_SECONDS, Listener

T = TypeVar("T")

SETTLE_ATTEMPTS: Final = 9


async def open_postgres(url: str, *, watch_poll_seconds: float = POLL_SECONDS) -> PostgresStorage:
    """The store at `postgres://user:password@host/database?schema=windlass&deadline=10&readers=4`, made if it is not
    there.

    A unix socket is `postgres://user@/database?host=/its/directory`. The role must be allowed to create the schema
    the first time. `deadline` (seconds) bounds every transaction with all its attempts. Not through a pooler that
    gives every transaction another session.

    Raises `Unavailable` if the server does not answer, `StoreFormat` if the schema is not a store this program knows,
    and `StorageError` for a bad URL or a refused connection.
    """
    options = parse_url(url)
    try:
        first = await connect(options, "opening")
        try:
            await ensure_schema(first, options.schema)
        finally:
            cut(first)
        return await _started(options, Listener(options, watch_poll_seconds))
    except DRIVER_ERRORS as error:
        raise connect_error(error, options) from error


async def _started(options: PostgresOptions, listener: Listener) -> PostgresStorage:
    """With both its permanent connections, or with none."""
    committer = Committer(options, listener)
    try:
        await listener.start()
        await committer.start()
    except BaseException:
        await committer.close()
        await listener.close()
        raise
    return PostgresStorage(options, committer, listener)


class PostgresStorage:
    """A `Storage` of the port. Made by `open_postgres`."""

    shared = True

    def __init__(self, options: PostgresOptions, committer: Committer, listener: Listener) -> None:
        self._options = options
        self._committer = committer
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._snapshots = SnapshotPool(options, self._loop)
        self._random = Random()
        self._closed = False
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        return await self._attempts(body, self._commit)

    async def read(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        return await self._attempts(body, _commit_nothing)

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

    def counts(self) -> dict[str, int]:
        """See `Counted` in the port."""
        return self._committer.counts()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._idle.wait()  # bounded: every transaction has a deadline
        await self._committer.close()
        await self._listener.close()
        await self._snapshots.close()

    async def _attempts(
        self,
        body: Callable[[Transaction], Awaitable[T]],
        commit: Callable[[PostgresTransaction], Awaitable[None]],
    ) -> T:
        backoff = Backoff(self._random, self._options.deadline)
        self._check_open(backoff)
        self._active += 1
        self._idle.clear()
        try:
            return await self._until_it_holds(body, commit, backoff)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()

    async def _until_it_holds(
        self,
        body: Callable[[Transaction], Awaitable[T]],
        commit: Callable[[PostgresTransaction], Awaitable[None]],
        backoff: Backoff,
    ) -> T:
        """The retry loop, within the deadline."""
        ends = self._loop.time() + self._options.deadline
        too_old = 0
        while True:
            tx = PostgresTransaction(self._snapshots, backoff.attempt, backoff.maybe_committed)
            bound = asyncio.timeout_at(ends)
            try:
                async with bound:
                    result = await body(tx)
                    tx.seal()
                    await commit(tx)
                tx.leave()
                return result
            except (Conflict, Forgotten, TooOld) as again:
                tx.drop("its transaction is tried again")
                too_old += isinstance(again, TooOld)
                await self._wait(backoff, again, too_old)
            except TimeoutError as silence:
                tx.drop("its transaction found no answer in time")
                if not bound.expired():  # the body's own
                    raise
                raise _out_of_time(backoff, tx, too_old) from silence
            except BaseException:
                tx.drop("its transaction failed")
                raise

    async def _wait(self, backoff: Backoff, again: Exception, too_old: int) -> None:
        """Before the next attempt. Raises what ends the call."""
        try:
            await backoff.wait(again)
        except Unavailable as silence:
            raise (_too_old(too_old) if too_old else silence) from again
        self._check_open(backoff)

    def _check_open(self, backoff: Backoff) -> None:
        if self._closed:
            raise backoff.given_up("the store was closed")

    async def _commit(self, tx: PostgresTransaction) -> None:
        await tx.read_version()
        tx.leave()
        if not tx.writes and not tx.watches:
            return  # what it read was true at its snapshot
        member = self._committer.submit(tx)
        try:
            tx.commit_version = await member.done
        finally:
            tx.sent = member.sent


async def _commit_nothing(tx: PostgresTransaction) -> None:
    if tx.writes or tx.watches:
        raise StorageError("a body given to `read` wrote or watched: give it to `transact`")


def _out_of_time(backoff: Backoff, tx: PostgresTransaction, too_old: int) -> StorageError:
    if tx.sent:
        return CommitUnknown("the answer to a commit did not come before the transaction's deadline")
    error = backoff.given_up(f"no answer from PostgreSQL before the deadline, in {backoff.attempt} attempts")
    return _too_old(too_old) if too_old and isinstance(error, Unavailable) else error


def _too_old(attempts: int) -> TransactionTooOld:
    return TransactionTooOld(
        f"the transaction took over {TRANSACTION_SECONDS_MAX} s in {attempts} attempts: do less in it"
    )
