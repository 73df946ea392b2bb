"""Group commit on PostgreSQL: one call at a time, with everything that waits.

Theory of operation: while a call is under way, what wants to commit gathers; the next call takes it all. A lone
transaction is not delayed. One connection commits, so the calls of a store are in order. Its own commits are checked
here, against `_recent`, those of others on the server.

When the connection is lost during a call, the group's fate is unknown. The first thing the new connection does is to
register its session and strike out the old one, under the commit's lock: from then on the lost call has either
happened or never will, and its members are told `Forgotten`: their bodies run again and look for their own effect.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from typing import Final

import asyncpg

from windlass.storage.backoff import Conflict, Forgotten, TooOld
from windlass.storage.port import TRANSACTION_SECONDS_MAX, StoreFull, StoreReadOnly
from windlass.storage.postgres_conflicts import RecentWrites
from windlass.storage.postgres_connections import (
    DRIVER_ERRORS,
    Connection,
    PostgresOptions,
    connect,
    cut,
    lost,
    translated,
    words,
)
from windlass.storage.postgres_group import Group, Member, commit_version
from windlass.storage.postgres_schema import FENCED, TOO_OLD
from windlass.storage.postgres_transaction import PostgresTransaction
from windlass.storage.postgres_watches import Listener

_ARGUMENTS: Final = ", ".join(f"${n}" for n in range(1, 27))
_CALL: Final = f"CALL commit_group({_ARGUMENTS})"
_RECONNECT_SECONDS: Final = 0.2
_log = logging.getLogger(__name__)


class Committer:
    """The one connection of a store that writes."""

    def __init__(self, options: PostgresOptions, listener: Listener) -> None:
        self._options = options
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Member] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._connection: Connection | None = None
        self._call: asyncpg.prepared_stmt.PreparedStatement[asyncpg.Record] | None = None
        self._session: uuid.UUID | None = None
        self._boot = b""
        self._version = 0
        self._recent = RecentWrites()
        self._transactions = self._commits = 0

    def counts(self) -> dict[str, int]:
        """See `Counted` in the port."""
        return {"transactions": self._transactions, "commits": self._commits}

    async def start(self) -> None:
        """Connect. Raises what the driver raises."""
        await self._connect()

    def submit(self, tx: PostgresTransaction) -> Member:
        """Queue it for the next group."""
        member = Member(tx, self._loop.create_future())
        self._waiting.append(member)
        if self._task is None:
            self._task = self._loop.create_task(self._run())
        return member

    async def close(self) -> None:
        """Finish the commit under way; what still waits was given up by its callers."""
        self._closing = True
        if self._task is not None:
            await self._task
        cut(self._connection)

    async def _run(self) -> None:
        await asyncio.sleep(0)  # whoever became ready in the same turn goes along
        try:
            while self._waiting and not self._closing:
                if self._connection is None or self._connection.is_closed():
                    await self._reconnect()
                else:
                    await self._commit(self._gather())
        finally:
            self._task = None

    def _gather(self) -> Group:
        """The next group, from those who wait. Who cannot be committed any more is told so."""
        self._recent.forget(self._loop.time() - TRANSACTION_SECONDS_MAX - 1)
        group = Group(self._version)
        while self._waiting and not group.full() and not group.must_wait(self._waiting[0]):
            member = self._waiting.popleft()
            if member.done.done():
                continue  # its caller gave it up before it was sent
            try:
                if self._outdated(member) or not group.add(member):
                    member.conflicted()
            except TooOld as old:
                member.fail(old)
        return group

    def _outdated(self, member: Member) -> bool:
        """True if what it read was written since, as far as this store knows. Raises `TooOld`."""
        member.tx.check_age()
        if member.reads_from is None:
            return False
        if member.boot != self._boot:
            return True  # the server crashed since it read
        return self._recent.conflict(member.tx.reads, member.reads_from)

    async def _commit(self, group: Group) -> None:
        """Commit it whole, or without those who conflict with other stores. Everyone in it gets an answer."""
        while group.members:
            try:
                version, conflicts = await self._called(group)
            except DRIVER_ERRORS as error:
                group.withdraw_watches(self._listener)
                await self._failed(group, error)
                return
            if not conflicts:
                self._committed(group, version)
                return
            group.withdraw_watches(self._listener)
            for number in conflicts:
                group.members[number].conflicted()
            group = group.again(self._version)

    async def _called(self, group: Group) -> tuple[int, list[int]]:
        """The group's version, and the numbers of the members because of whom nothing was committed."""
        assert self._call is not None
        for member in group.members:
            member.sent = True
        answer = await self._call.fetchrow(self._session, *group.arguments(self._listener), None, None)
        assert answer is not None
        return answer[0] or 0, answer[1] or []

    def _committed(self, group: Group, version: int) -> None:
        self._version = version
        self._commits += 1
        self._transactions += len(group.members)
        self._recent.record(self._loop.time(), group.written(version))
        for number, member in enumerate(group.members):
            for watch in member.tx.watches:
                if watch in group.rung:
                    watch.fire()
                else:
                    self._listener.arm(watch)
            member.succeed(commit_version(version, number) if member.tx.writes else 0)

    async def _failed(self, group: Group, error: Exception) -> None:
        code = getattr(error, "sqlstate", None)
        if code == FENCED:
            cut(self._connection)
            group.fail(Conflict("its session was struck out"))
        elif code == TOO_OLD:
            group.fail(Conflict("its snapshot is too old to be checked"))
        elif lost(error):
            _log.warning("the answer to a commit of %d transactions was lost: %s", len(group.members), words(error))
            cut(self._connection)
            await self._reconnect()
            group.fail(Forgotten())
        else:
            await self._refused(group, translated(error))

    async def _refused(self, group: Group, refusal: Exception) -> None:
        """Nothing was committed. One member may be to blame, so each is tried alone, but for want of disk or leave."""
        if len(group.members) == 1 or isinstance(refusal, (StoreFull, StoreReadOnly)):
            group.fail(refusal)
            return
        for member in group.members:
            alone = Group(self._version)
            if not member.done.done() and alone.add(member):
                await self._commit(alone)

    async def _reconnect(self) -> None:
        """A new session in place of the lost one. Takes as long as the server takes to come back."""
        while not self._closing:
            try:
                await self._connect()
                return
            except DRIVER_ERRORS as error:
                _log.warning("no connection to commit on: %s; trying again", words(error))
                cut(self._connection)
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _connect(self) -> None:
        connection = await connect(self._options, "committer")
        self._connection = connection
        session = uuid.uuid4()
        opened = await connection.fetchrow("CALL open_session($1, $2, NULL, NULL)", session, self._session)
        assert opened is not None
        self._boot, self._version = opened[0].bytes, opened[1]
        self._call = await connection.prepare(_CALL)
        self._session = session
