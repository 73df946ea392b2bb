"""News from other engines on a shared store: queued tasks, earlier timers, stopped tasks, runs that moved.

Writers ring a counter per topic (`Unit._bump`). This loop reads all counters this engine cares for, reacts to those
that changed, and waits on watches for the next change, with a bounded poll behind them. The counters are read in the
transaction that arms the watches, so nothing that changed before is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from typing import Final

from windlass.engine import keys
from windlass.engine.capacity import QueueKey
from windlass.engine.core.state import CLOSED
from windlass.engine.dispatch import Dispatch
from windlass.engine.errors import EngineError
from windlass.engine.loops import Loop
from windlass.engine.notices import Notices
from windlass.engine.reading import get_run
from windlass.engine.timers import Timers
from windlass.storage.port import Storage, StorageError, Transaction, Watch

#: The poll behind the watches, in seconds.
LOOK_SECONDS: Final = 1.0

Topic = tuple[str, ...]


class Feed(Loop):
    """Watches the bumps of a shared store."""

    def __init__(self, storage: Storage, dispatch: Dispatch, notices: Notices, timers: Timers) -> None:
        super().__init__("feed")
        self._storage, self._dispatch, self._notices, self._timers = storage, dispatch, notices, timers
        self._seen: dict[Topic, bytes | None] = {}
        self._watched: set[Topic] = set()
        notices.on_wait = lambda run_id: self._want(("runs", str(bucket(run_id))))
        dispatch.on_ring = lambda ring: self._want(("queue", *ring))

    def _want(self, topic: Topic) -> None:
        """Somebody cares for this topic from now on: watch it too, and look what was rung before."""
        if topic not in self._watched:
            self.wake()

    async def turn(self) -> float | None:
        """Read the counters, react, wait for the next ring."""
        topics = self._watched = self._topics()
        counters, watches = await self._look(topics)
        try:
            await self._hear(counters)
            await _first(watches, self._wake, LOOK_SECONDS)
        finally:  # also if the store failed on the way: it has room for so many, and keeps those that nobody cancels
            for watch in watches:
                watch.cancel()
        return 0

    async def _hear(self, counters: dict[Topic, bytes | None]) -> None:
        for topic, value in counters.items():
            if self._seen.get(topic, b"") != value:
                await self._react(topic)
                self._seen[topic] = value  # not before: what the store failed to tell must be asked again
        for stale in self._seen.keys() - counters.keys():
            del self._seen[stale]

    def _topics(self) -> set[Topic]:
        topics: set[Topic] = {("timers",), ("stops",)}
        topics |= {("queue", *ring) for ring in self._dispatch.rings()}
        topics |= {("needs", *queue) for queue in self._dispatch.offering()}
        topics |= {("runs", str(bucket(run_id))) for _, run_id in self._notices.waited_for()}
        return topics

    async def _look(self, topics: set[Topic]) -> tuple[dict[Topic, bytes | None], list[Watch]]:
        async def body(tr: Transaction) -> tuple[dict[Topic, bytes | None], list[Watch]]:
            found = await asyncio.gather(*(tr.get(keys.bump(*topic), snapshot=True) for topic in topics))
            return dict(zip(topics, found, strict=True)), [tr.watch(keys.bump(*topic)) for topic in topics]

        return await self._storage.transact(body)

    async def _react(self, topic: Topic) -> None:
        if topic[0] == "timers":
            self._timers.wake()
        elif topic[0] == "stops":
            self._dispatch.on_stops()
        elif topic[0] == "queue":
            _, ns, queue, kind = topic
            ring: QueueKey = (ns, queue, kind)
            self._dispatch.backlog.add(ring)
            self._dispatch.on_claimable()
        elif topic[0] == "needs":
            self._dispatch.look_into(((topic[1], topic[2]),))
        else:
            await self._runs(int(topic[1]))

    async def _runs(self, number: int) -> None:
        for ns, run_id in self._notices.waited_for():
            if bucket(run_id) != number:
                continue
            with contextlib.suppress(EngineError):  # not started yet, or deleted: whoever waits has its own end
                state = await self._storage.read(lambda tr, n=ns, r=run_id: get_run(tr, n, r))  # type: ignore[misc]
                self._notices.moved(ns, run_id)
                if state.status in CLOSED:
                    self._notices.closed_elsewhere(state)


def bucket(run_id: str) -> int:
    """The topic of a run's changes."""
    return zlib.crc32(run_id.encode()) % 16


async def _first(watches: list[Watch], wake: asyncio.Event, seconds: float) -> None:
    """Until one of the watches fires, somebody has a new wish, or the time is over."""
    waits: list[asyncio.Future[object]] = [asyncio.ensure_future(_fired(watch)) for watch in watches]
    waits.append(asyncio.ensure_future(wake.wait()))
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _fired(watch: Watch) -> None:
    """Ends when it fires. One that is lost is left to the poll: armed anew at once, it might be lost at once again."""
    try:
        await watch.wait()
    except StorageError:
        await asyncio.Event().wait()
