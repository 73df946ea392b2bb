"""Reading from PostgreSQL: snapshots shared by the transactions that begin together, and reads batched into few
queries.

Theory of operation: a snapshot is a REPEATABLE READ transaction on one of a few connections. A transaction of ours gets
its snapshot at its first read, and it must be newer than that read, or it could miss a commit its caller knows of. So
first reads wait in a *forming* snapshot until a connection is free and its first query is sent; whoever comes later
joins the next one. Under load a snapshot thus serves many transactions. Within a snapshot, all reads called since the
last query went out go into the next one, gets and ranges of all its transactions together: the cost is by query, not by
read.

The first query also brings `head`: the version of the last commit that the snapshot contains, and the server's `boot`.
A snapshot goes back when its last transaction lets go of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from itertools import chain
from typing import Any, Final, TypeAlias

import asyncpg

from windlass.storage.port import Row, Rows
from windlass.storage.postgres_connections import (
    DRIVER_ERRORS,
    Connection,
    PostgresOptions,
    connect,
    cut,
    translated,
)

_QUERY: Final = """
SELECT -1 AS tag, uuid_send(boot) AS key, int8send(version) AS value FROM head WHERE $1
UNION ALL SELECT 0, key, value FROM rows WHERE key = ANY ($2::bytea[])
UNION ALL SELECT s.tag, r.key, r.value
    FROM unnest($3::int[], $4::bytea[], $5::bytea[], $6::bigint[]) AS s(tag, b, e, n) CROSS JOIN LATERAL
    (SELECT key, value FROM rows WHERE key >= s.b AND key < s.e ORDER BY key LIMIT s.n) AS r
UNION ALL SELECT s.tag, r.key, r.value
    FROM unnest($7::int[], $8::bytea[], $9::bytea[], $10::bigint[]) AS s(tag, b, e, n) CROSS JOIN LATERAL
    (SELECT key, value FROM rows WHERE key >= s.b AND key < s.e ORDER BY key DESC LIMIT s.n) AS r
"""
_BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"


class _Range:
    """A range read that waits for its query."""

    __slots__ = ("begin", "end", "limit", "reverse", "rows")

    def __init__(self, begin: bytes, end: bytes, limit: int, reverse: bool, rows: asyncio.Future[Rows]) -> None:
        self.begin, self.end, self.limit, self.reverse, self.rows = begin, end, limit, reverse, rows


_Gets: TypeAlias = dict[bytes, list[asyncio.Future[bytes | None]]]


class Snapshot:
    """One state of the store, read by several transactions. `version` and `boot` are known after `begun`."""

    def __init__(self, pool: SnapshotPool) -> None:
        self.version = -1
        self.boot = b""
        #: Loop time of the first query; None before it.
        self.since: float | None = None
        self.begun: asyncio.Future[None] = pool.loop.create_future()
        self._pool = pool
        self._reader: _Reader | None = None
        self._users = 0
        self._gets: _Gets = {}
        self._ranges: list[_Range] = []
        self._task: asyncio.Task[None] | None = None
        self._failed: Exception | None = None

    def join(self) -> Snapshot:
        self._users += 1
        return self

    def leave(self) -> None:
        """Let go of it. The last one out frees its connection."""
        self._users -= 1
        if not self._users:
            self._pool.forget(self)
            if self._task is None:
                self._give_back()

    def get(self, key: bytes) -> asyncio.Future[bytes | None]:
        one: asyncio.Future[bytes | None] = self._pool.loop.create_future()
        self._gets.setdefault(key, []).append(one)  # not shared: a waiter that is cancelled cancels its future
        self._wake()
        return one

    def get_range(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> asyncio.Future[Rows]:
        """All rows if `limit` is 0."""
        one = _Range(begin, end, limit, reverse, self._pool.loop.create_future())
        self._ranges.append(one)
        self._wake()
        return one.rows

    def start(self, reader: _Reader) -> None:
        """Called by the pool: from now on nobody joins, and queries go out."""
        self._reader = reader
        self._task = self._pool.task(self._answer())

    def _wake(self) -> None:
        if self._reader is not None and self._task is None:
            self._task = self._pool.task(self._answer())

    async def _answer(self) -> None:
        """Queries until no read is waiting."""
        assert self._reader is not None
        self.since = self.since or self._pool.loop.time()
        while self._users and (self._gets or self._ranges or not self.begun.done()):
            gets, self._gets = self._gets, {}
            ranges, self._ranges = self._ranges, []
            try:
                if self._failed is not None:
                    raise self._failed
                await self._query(self._reader, gets, ranges)
            except DRIVER_ERRORS as error:
                self._failed = translated(error)
                waiting: list[asyncio.Future[Any]] = [self.begun, *chain(*gets.values()), *(one.rows for one in ranges)]
                for future in waiting:
                    _fail(future, self._failed)
        self._task = None
        if not self._users:
            self._give_back()

    async def _query(self, reader: _Reader, gets: _Gets, ranges: list[_Range]) -> None:
        forward = [(tag, one) for tag, one in enumerate(ranges, 1) if not one.reverse]
        backward = [(tag, one) for tag, one in enumerate(ranges, 1) if one.reverse]
        first = not self.begun.done()
        records = await reader.fetch(first, list(gets), *_columns(forward), *_columns(backward))
        found: dict[bytes, bytes] = {}
        rows: list[list[Row]] = [[] for _ in ranges]
        for tag, key, value in records:
            if tag == 0:
                found[key] = value
            elif tag > 0:
                rows[tag - 1].append((key, value))
            else:
                self.boot, self.version = key, int.from_bytes(value, "big")
        if first:
            self.begun.set_result(None)
        for key, waiters in gets.items():
            for get in waiters:
                if not get.done():
                    get.set_result(found.get(key))
        for one, its in zip(ranges, rows, strict=True):
            if not one.rows.done():
                one.rows.set_result(its)

    def _give_back(self) -> None:
        if self._reader is not None:
            self._pool.give_back(self._reader, broken=self._failed is not None)
            self._reader = None


class _Reader:
    """A connection for reading, opened when first needed."""

    def __init__(self, options: PostgresOptions) -> None:
        self._options = options
        self.connection: Connection | None = None
        self._statement: asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record] | None = None

    async def fetch(self, first: bool, *arguments: object) -> list[asyncpg.Record]:
        if self.connection is None or self.connection.is_closed():
            self.connection = await connect(self._options, "reader")
            self._statement = await self.connection.prepare(_QUERY)
        assert self._statement is not None
        if first:
            begin = f"ROLLBACK; {_BEGIN}" if self.connection.is_in_transaction() else _BEGIN
            await self.connection.execute(begin)
        return await self._statement.fetch(first, *arguments)

    async def rest(self) -> None:
        """End the snapshot, which would keep the server from cleaning up."""
        if self.connection is not None and not self.connection.is_closed():
            await self.connection.execute("ROLLBACK")

    def cut(self) -> None:
        cut(self.connection)
        self.connection = None


class SnapshotPool:
    """The connections that read."""

    def __init__(self, options: PostgresOptions, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._idle = deque(_Reader(options) for _ in range(options.readers))
        self._all = list(self._idle)
        self._forming: Snapshot | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self) -> Snapshot:
        """A snapshot that is newer than this call."""
        if self._forming is None:
            self._forming = Snapshot(self)
            self.loop.call_soon(self._launch)  # not at once: others of this turn may join
        return self._forming.join()

    def forget(self, snapshot: Snapshot) -> None:
        """All its users are gone."""
        if self._forming is snapshot:
            self._forming = None

    def give_back(self, reader: _Reader, *, broken: bool) -> None:
        if broken:
            reader.cut()
        if broken or self._forming is not None:
            self._idle.append(reader)
            self._launch()
            return
        self.task(self._rest(reader))

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it, and wait for it at close."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _rest(self, reader: _Reader) -> None:
        try:
            await reader.rest()
        except DRIVER_ERRORS:
            reader.cut()
        self._idle.append(reader)
        self._launch()

    def _launch(self) -> None:
        if self._forming is not None and self._idle:
            forming, self._forming = self._forming, None
            forming.start(self._idle.pop())  # the one used last: its caches are warm

    async def close(self) -> None:
        for reader in self._all:
            reader.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _columns(ranges: list[tuple[int, _Range]]) -> tuple[list[int], list[bytes], list[bytes], list[int | None]]:
    return (
        [tag for tag, _ in ranges],
        [one.begin for _, one in ranges],
        [one.end for _, one in ranges],
        [one.limit or None for _, one in ranges],
    )


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Nobody may be waiting: then it is no use telling asyncio's log of an error nobody retrieved."""
    if not future.done():
        future.set_exception(error)
        future.exception()
