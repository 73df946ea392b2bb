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

from windlass.storage.port import Row, Rows
from windlass.storage.postgres_connections import (
    DRIVER_ERRORS,
    PostgresOptions,
    translated,
)
from windlass.storage.postgres_readers import RangeRead, Reader

#: How long the next transaction is kept open for a first query that may come: it saves that query a round trip.
READY_SECONDS: Final = 0.2


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
        self._reader: Reader | None = None
        self._users = 0
        self._gets: _Gets = {}
        self._ranges: list[RangeRead] = []
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
        one = RangeRead(begin, end, limit, reverse, self._pool.loop.create_future())
        self._ranges.append(one)
        self._wake()
        return one.rows

    def start(self, reader: Reader) -> None:
        """Called by the pool: from now on nobody joins, and queries go out."""
        self._reader = reader
        self._task = self._pool.task(self._answer())

    def _wake(self) -> None:
        if self._reader is not None and self._task is None:
            self._task = self._pool.task(self._answer())

    async def _answer(self) -> None:
        """Queries until no read is waiting. Once one failed, what is still asked of this snapshot fails likewise."""
        assert self._reader is not None
        self.since = self.since or self._pool.loop.time()
        while self._users and (self._gets or self._ranges or not self.begun.done()):
            gets, self._gets = self._gets, {}
            ranges, self._ranges = self._ranges, []
            if self._failed is None:
                try:
                    await self._query(self._reader, gets, ranges)
                    continue
                except Exception as error:  # noqa: BLE001 - whatever it is: who waits is told, and the reader comes back
                    self._failed = translated(error)
            waiting: list[asyncio.Future[Any]] = [self.begun, *chain(*gets.values()), *(one.rows for one in ranges)]
            for future in waiting:
                _fail(future, self._failed)
        self._task = None
        if not self._users:
            self._give_back()

    async def _query(self, reader: Reader, gets: _Gets, ranges: list[RangeRead]) -> None:
        first = not self.begun.done()
        records = await reader.fetch(first, list(gets), ranges)
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


class SnapshotPool:
    """The connections that read."""

    def __init__(self, options: PostgresOptions, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._idle = deque(Reader(options) for _ in range(options.readers))
        self._all = list(self._idle)
        self._forming: Snapshot | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

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

    def give_back(self, reader: Reader, *, broken: bool) -> None:
        if broken or self._closed:
            reader.cut()
        if self._closed:
            return
        if broken or self._forming is not None:
            self._idle.append(reader)
            self._launch()
            return
        self.task(self._rest(reader, begin_next=True))

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it, and wait for it at close."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _rest(self, reader: Reader, *, begin_next: bool) -> None:
        try:
            await reader.end(begin_next=begin_next)
        except DRIVER_ERRORS:
            reader.cut()
        self._idle.append(reader)
        self._launch()
        if begin_next:
            self.loop.call_later(READY_SECONDS, self._tire, reader)

    def _tire(self, reader: Reader) -> None:
        """Nobody came for a while: a session that is idle in a transaction looks like a leak to operators."""
        since = reader.ready_since
        if reader in self._idle and since is not None and self.loop.time() - since >= READY_SECONDS:
            self._idle.remove(reader)
            self.task(self._rest(reader, begin_next=False))

    def _launch(self) -> None:
        if self._forming is not None and self._idle:
            forming, self._forming = self._forming, None
            forming.start(self._idle.pop())  # the one used last: its caches are warm

    async def close(self) -> None:
        """What is under way may be opening a connection at this moment: so they are cut until nothing is."""
        self._closed = True
        self._idle.clear()
        while True:
            for reader in self._all:
                reader.cut()
            if not self._tasks:
                return
            await asyncio.gather(*self._tasks, return_exceptions=True)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Nobody may be waiting: then it is no use telling asyncio's log of an error nobody retrieved."""
    if not future.done():
        future.set_exception(error)
        future.exception()
