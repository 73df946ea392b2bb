"""A connection for reading: one snapshot at a time, and many reads in one query."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg

from windlass.storage.port import Rows
from windlass.storage.postgres_connections import Connection, ConnectionLost, PostgresOptions, connect, cut

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


class RangeRead:
    """A range read that waits for its query."""

    __slots__ = ("begin", "end", "limit", "reverse", "rows")

    def __init__(self, begin: bytes, end: bytes, limit: int, reverse: bool, rows: asyncio.Future[Rows]) -> None:
        self.begin, self.end, self.limit, self.reverse, self.rows = begin, end, limit, reverse, rows


class Reader:
    """A connection for reading, opened when first needed."""

    def __init__(self, options: PostgresOptions) -> None:
        self._options = options
        self.connection: Connection | None = None
        self._statement: asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record] | None = None
        #: Loop time since when a transaction is open that has no snapshot yet; None if there is none.
        self.ready_since: float | None = None

    async def fetch(self, first: bool, keys: list[bytes], ranges: list[RangeRead]) -> list[asyncpg.Record]:
        """Records of tag, key and value: tag 0 for `keys`, the place from 1 on for `ranges`, -1 for the version.

        `first` begins a snapshot, and asks for its version: its `key` is then the boot. Raises what the driver raises,
        and `ConnectionLost` if the snapshot went with its connection: another connection would show another state.
        """
        if self.connection is None or self.connection.is_closed():
            if not first:
                raise ConnectionLost("the connection was lost between two reads, and the snapshot with it")
            self.connection = await connect(self._options, "reader")
            self._statement = await self.connection.prepare(_QUERY)
            self.ready_since = None
        assert self._statement is not None
        if first and self.ready_since is None:
            await self.connection.execute(f"ROLLBACK; {_BEGIN}" if self.connection.is_in_transaction() else _BEGIN)
        self.ready_since = None
        forward = [(tag, one) for tag, one in enumerate(ranges, 1) if not one.reverse]
        backward = [(tag, one) for tag, one in enumerate(ranges, 1) if one.reverse]
        return await self._statement.fetch(first, keys, *_columns(forward), *_columns(backward))

    async def end(self, *, begin_next: bool) -> None:
        """End the snapshot, which would keep the server from cleaning up. The next one may be made ready with it."""
        self.ready_since = None
        if self.connection is not None and not self.connection.is_closed():
            await self.connection.execute(f"ROLLBACK; {_BEGIN}" if begin_next else "ROLLBACK")
            self.ready_since = asyncio.get_running_loop().time() if begin_next else None

    def cut(self) -> None:
        cut(self.connection)
        self.connection = None


def _columns(ranges: list[tuple[int, RangeRead]]) -> tuple[list[int], list[bytes], list[bytes], list[int | None]]:
    return (
        [tag for tag, _ in ranges],
        [one.begin for _, one in ranges],
        [one.end for _, one in ranges],
        [one.limit or None for _, one in ranges],
    )
