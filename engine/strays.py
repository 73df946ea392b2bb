"""Stray leases: those in the store that no worker works on and nobody would ever end.

Theory of operation. A worker's tasks go back when its session lapses, so a lease is lost only if its session lives on,
or is gone already. Both happen: a commit whose answer was lost leased a task that was never delivered; a session moved
to another engine while the old one was still leasing to it; an engine died between closing a session and returning its
leases, or leased to it in that moment. So the leases in the store are held against what this engine delivered
(`Connected.held`), and those of sessions without a record are taken as lost. What is stray at two looks in a row is
returned: at one look it may just have been committed. A mistake here costs a second execution and nothing else, because
the epoch decides.

The same look finds what other engines did to leases that this one watches: results given there, runs that were ended
there, tasks that are to stop. What they end is not in the store any more, and counts as over at the second look: at the
first, this engine's own word of it may be on its way to the worker.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from windlass.engine import keys
from windlass.engine.clock import Clock
from windlass.engine.dispatch import Dispatch
from windlass.engine.records import LeaseRecord, SessionRecord, unpack
from windlass.engine.work import TaskKey
from windlass.storage.port import TRANSACTION_SECONDS_MAX, Row, Storage, Transaction

#: How often all sessions are looked at on a shared store; suspects are looked at every second.
LOOK_US: Final = 10_000_000
SUSPECT_US: Final = 1_000_000
#: A lost commit may land this long after its caller gave it up.
LATE_US: Final = int(TRANSACTION_SECONDS_MAX * 1e6) + 3 * SUSPECT_US


class Strays:
    """Finds the stray leases of one engine's sessions, and those of sessions that are gone."""

    def __init__(self, storage: Storage, clock: Clock, dispatch: Dispatch) -> None:
        self._storage, self._clock, self._dispatch = storage, clock, dispatch
        self._suspects: dict[str, int] = {}  #: session: until when it is looked at
        self._seen: set[TaskKey] = set()
        self._ended: set[tuple[str, TaskKey]] = set()  #: held here and not in the store, at the last look
        self._look_us = 0
        self._again_us = 0

    def suspect(self, session_id: str) -> None:
        """A commit is unknown that may have leased a task to this session."""
        self._suspects[session_id] = self._clock.now_us() + LATE_US

    def hurry(self) -> None:
        """Look at all sessions soon."""
        self._look_us = 0

    def due_us(self) -> int:
        """When to look next; 0 = not before something is suspected."""
        if self._suspects or self._seen or self._ended or not self._look_us:
            return self._again_us
        return self._look_us + LOOK_US if self._storage.shared else 0

    async def find(self, known: set[str]) -> tuple[list[TaskKey], list[TaskKey]]:
        """Leases that were stray at the last look and still are: those that were not delivered, and those whose session
        is gone, of which nobody knows. `known`: sessions that have a record.
        """
        now = self._clock.now_us()
        if now < self._again_us:
            return [], []
        self._again_us = now + SUSPECT_US
        again_whole = bool(self._seen or self._ended) or (self._storage.shared and now >= self._look_us + LOOK_US)
        whole = not self._look_us or again_whole
        stray: set[TaskKey] = set()
        left: set[TaskKey] = set()
        ended, self._ended = self._ended, set()
        for session_id in list(self._dispatch.connected) if whole else list(self._suspects):
            (stray if session_id in known else left).update(await self._of(session_id, known))
        if whole:
            self._look_us = now
            left.update(await self._orphans(known))
        self._end(ended & self._ended)
        self._suspects = {session: until for session, until in self._suspects.items() if until > now}
        seen, self._seen = self._seen, (stray | left) - self._seen
        return sorted((stray - left) & seen), sorted(left & seen)

    async def _of(self, session_id: str, known: set[str]) -> list[TaskKey]:
        session = self._dispatch.connected.get(session_id)
        before = set(session.held) if session is not None else set()
        leases = dict(await leases_of(self._storage, session_id))
        session = self._dispatch.connected.get(session_id)
        if session is None:  # gone for good, or connected to another engine, which looks after it
            return [] if session_id in known else list(leases)
        for task in before & session.held.keys():
            if task in leases:
                session.heed(task, leases[task])
            else:
                self._ended.add((session_id, task))
        return [task for task in leases if task not in session.held] if session.mine else []

    def _end(self, ended: set[tuple[str, TaskKey]]) -> None:
        """Leases that ended through another engine: what they took is free, and whoever works on them may stop."""
        for session_id, task in sorted(ended):
            session = self._dispatch.connected.get(session_id)
            if session is not None and task in session.held:
                self._dispatch.end(session, task)
                if session.mine:
                    session.outlet.send_stop(task, "lost")

    async def _orphans(self, known: set[str]) -> list[TaskKey]:
        """Leases of sessions without a record, by skipping from session to session."""
        found: list[TaskKey] = []
        begin = keys.all_leases()
        while rows := await self._storage.read(_first_from(begin)):
            session_id = str(keys.unpack(rows[0][0])[1])
            if session_id not in known and session_id not in self._dispatch.connected:
                found += [task for task, _ in await leases_of(self._storage, session_id)]
            begin = keys.end(keys.leases(session_id))
        return found


def _first_from(begin: bytes) -> Callable[[Transaction], Awaitable[list[Row]]]:
    return lambda tr: tr.get_range(begin, keys.end(keys.all_leases()), limit=1)


async def leases_of(storage: Storage, session_id: str) -> list[tuple[TaskKey, LeaseRecord]]:
    """The leases of a session, from the store."""
    begin = keys.leases(session_id)
    rows = await storage.read(lambda tr: tr.get_range(begin, keys.end(begin)))
    return [_lease(row) for row in rows]


def _lease(row: Row) -> tuple[TaskKey, LeaseRecord]:
    _, _, ns, run_id, visit, path = keys.unpack(row[0])
    record = unpack(LeaseRecord, row[1])
    return (str(ns), str(run_id), int(str(visit)), str(path), record.epoch), record


def moved(dispatch: Dispatch, record: SessionRecord) -> bool:
    """True if this session is connected here and was resumed at another engine since."""
    session = dispatch.connected.get(record.session)
    return session is not None and bool(record.engine) and session.record.engine != record.engine
