"""Watches on PostgreSQL: LISTEN/NOTIFY, with a bounded poll behind it.

Theory of operation: the commit that arms a watch puts a row into `watches`, and the first commit that writes the key
takes it out and notifies this store's own channel; both happen under the commit's lock, so none falls between. A
notification can be lost with its connection. So every few seconds we ask which of our rows are still there: a watch
whose row is gone has fired, or was lost in a crash of the server, and it is rung either way ("look again"). The same
query says that we live: rows of listeners that have said nothing for minutes are removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import uuid
from typing import Final

from windlass.storage.postgres_connections import DRIVER_ERRORS, Connection, PostgresOptions, connect, cut, words
from windlass.storage.watches import WATCHES_MAX, LocalWatch

POLL_SECONDS: Final = 5.0
_RECONNECT_SECONDS: Final = 0.5
_RENEW: Final = "UPDATE watches SET seen = clock_timestamp() WHERE listener = $1 RETURNING id"
_SWEEP: Final = "DELETE FROM watches WHERE seen < clock_timestamp() - interval '10 minutes'"
_log = logging.getLogger(__name__)


class PostgresWatch(LocalWatch):
    """A `Watch` of the port. It is in the table of its store from just before its commit until it ends."""

    __slots__ = ("_listener", "id")

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self.id = 0
        self._listener: Listener | None = None

    def listed(self, listener: Listener, number: int) -> None:
        self._listener, self.id = listener, number

    def cancel(self) -> None:
        self.lose("it was cancelled")
        if self._listener is not None:
            self._listener.discard(self)


class Listener:
    """The armed watches of one store, and the connection on which the server rings."""

    def __init__(self, options: PostgresOptions, poll_seconds: float = POLL_SECONDS) -> None:
        self.name: Final = uuid.uuid4().hex
        self._options = options
        self._poll_seconds = poll_seconds
        self._connection: Connection | None = None
        self._armed: dict[int, PostgresWatch] = {}
        self._committing: dict[int, PostgresWatch] = {}
        self._cancelled: set[int] = set()
        self._numbers = itertools.count(1)
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect and listen. Raises what the driver raises."""
        await self._listen()
        self._task = asyncio.get_running_loop().create_task(self._poll())

    def enlist(self, watch: PostgresWatch) -> bool:
        """Give it a number, before the commit that arms it. False if it is not wanted any more or there are too
        many.
        """
        if watch.settled:
            return False
        if len(self._armed) + len(self._committing) >= WATCHES_MAX:
            watch.lose(f"more than {WATCHES_MAX} watches are armed; cancel those that are not needed any more")
            return False
        watch.listed(self, next(self._numbers))
        self._committing[watch.id] = watch
        return True

    def arm(self, watch: PostgresWatch) -> None:
        """Its commit is done. Its notification may have come already."""
        if self._committing.pop(watch.id, None) is None or watch.settled:
            self._cancelled.add(watch.id)
        else:
            self._armed[watch.id] = watch

    def withdraw(self, watch: PostgresWatch) -> None:
        """Its commit did not happen."""
        self._committing.pop(watch.id, None)

    def discard(self, watch: PostgresWatch) -> None:
        """Cancelled: its row goes with the next poll."""
        if self._armed.pop(watch.id, None) is not None:
            self._cancelled.add(watch.id)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for watch in (*self._armed.values(), *self._committing.values()):
            watch.lose("the store was closed")
        self._armed.clear()
        cut(self._connection)

    async def _listen(self) -> None:
        self._connection = await connect(self._options, "listener")
        await self._connection.add_listener(f"windlass_{self.name}", self._rung)
        self._connection.add_termination_listener(lambda _connection: self._wake.set())

    def _rung(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        number = int(str(payload))
        watch = self._armed.pop(number, None) or self._committing.pop(number, None)
        if watch is not None:
            watch.fire()

    async def _poll(self) -> None:
        """Every few seconds, and at once when the connection was lost."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._poll_seconds)
            self._wake.clear()
            try:
                if self._connection is None or self._connection.is_closed():
                    await self._listen()
                await self._compare()
            except DRIVER_ERRORS as error:
                _log.warning("watches cannot be asked for: %s; trying again", words(error))
                cut(self._connection)
                self._connection = None
                await asyncio.sleep(_RECONNECT_SECONDS)
                self._wake.set()

    async def _compare(self) -> None:
        """Ring the watches whose rows are gone, remove the rows of those that were cancelled."""
        assert self._connection is not None
        before = dict(self._armed)
        cancelled = list(self._cancelled)
        remaining = {record[0] for record in await self._connection.fetch(_RENEW, self.name)}
        for number, watch in before.items():
            if number not in remaining and self._armed.pop(number, None) is not None:
                watch.fire()
        if cancelled:
            await self._connection.execute(
                "DELETE FROM watches WHERE listener = $1 AND id = ANY ($2::bigint[])", self.name, cancelled
            )
            self._cancelled.difference_update(cancelled)
        await self._connection.execute(_SWEEP)
