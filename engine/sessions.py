"""Worker sessions: registration, renewal, resumption, and the return of leases when a session lapses.

Theory of operation
-------------------
A worker's lease on all its tasks is one record, SESSION, renewed by its heartbeats. When the record lapses, whichever
engine sees it first deletes it and returns the session's leases to their queues in small transactions; from then on the
old epochs are refused. That counts as a crash of its worker, unless the record was not renewed for want of an engine:
its worker has not come back to this one, and before it there was none (which the core believes AWAY_MAX times of one
task). Clocks decide only *when* that happens. A worker that reconnects in time names its session and the tokens it
still holds: leases of the session that it does not hold (their delivery was lost) are returned at once, tokens without
a lease are reported lost.

One engine looks after a session, by its record: the one that it registered with, or that it polls. On a shared store
other calls of its worker may reach others; these watch what they hear of, and lease nothing and take nothing back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from windlass.engine import keys, step_types
from windlass.engine.clock import Clock
from windlass.engine.connected import Connected, Outlet
from windlass.engine.core import commands as cmd
from windlass.engine.definitions import DEFAULT_NAMESPACE
from windlass.engine.dispatch import Dispatch
from windlass.engine.errors import EngineError
from windlass.engine.leases import Leases
from windlass.engine.loops import Loop
from windlass.engine.records import LeaseRecord, SessionRecord, pack, unpack
from windlass.engine.strays import Strays, leases_of, moved
from windlass.engine.work import TaskKey
from windlass.storage.port import Row, Storage, Transaction
from windlass.v1 import common_pb2

log = logging.getLogger(__name__)

#: How often an engine looks for lapsed sessions of other engines' workers, on a shared store.
LOOK_SECONDS: Final = 2.0
#: Leases returned in one go.
RETURN_BATCH: Final = 200


class _Closing(NamedTuple):
    """Why a session is closed."""

    reason: str
    ended: bool = False  #: by its worker
    unattended: bool = False
    interrupted: bool = False  #: its worker may have begun what it still held


_LAPSED: Final = _Closing("the worker's lease lapsed")


class Sessions(Loop):
    """The sessions of all workers of the store, as far as this engine knows them."""

    def __init__(self, storage: Storage, clock: Clock, dispatch: Dispatch, leases: Leases, lease_us: int) -> None:
        super().__init__("sessions")
        self._storage, self._clock, self._dispatch, self._leases = storage, clock, dispatch, leases
        self.lease_us = lease_us
        self.alone = not storage.shared  #: no other engine can have a session
        self._expires: dict[str, int] = {}  #: every session known, and when it lapses unless renewed
        self._closing: dict[str, _Closing] = {}  #: sessions whose leases are being returned
        #: A session that lapses by then was not renewed since this engine began. If nobody else was there to renew it,
        #: its worker may be on its way back; on a shared store others were there, but for what had lapsed before.
        self._unattended_until_us = clock.now_us() + (0 if storage.shared else lease_us)
        self._strays = Strays(storage, clock, dispatch)
        dispatch.on_undelivered = lambda session_id: self.suspect((session_id,))
        dispatch.on_stops = self._look_soon

    # What workers ask

    async def register(
        self,
        record: SessionRecord,
        resume: str,
        held: Iterable[TaskKey],
        offered: Sequence[common_pb2.StepType] = (),
    ) -> tuple[SessionRecord, bool, list[TaskKey]]:
        """Open a session, or resume one that still stands: its record, whether resumed, held tasks that are lost.

        Raises EngineError NAMESPACE_NOT_FOUND.
        """
        now = self._clock.now_us()
        record = msgspec.structs.replace(record, expires_us=now + self.lease_us, registered_us=now)

        async def body(tr: Transaction) -> tuple[SessionRecord, bool]:
            ns, stored = record.namespace, record
            if ns != DEFAULT_NAMESPACE and await tr.get(keys.namespace(ns)) is None:
                raise EngineError("NAMESPACE_NOT_FOUND", f"there is no namespace {ns!r}; create it first", namespace=ns)
            old = await tr.get(keys.session(resume)) if resume else None
            if old is not None and unpack(SessionRecord, old).worker == record.worker:
                stored = msgspec.structs.replace(record, session=resume)
            tr.set(keys.session(stored.session), pack(stored))
            step_types.put(tr, stored.session, offered)
            return stored, stored.session == resume

        stored, resumed = await self._storage.transact(body)
        self._expires[stored.session] = stored.expires_us
        self.wake()
        return stored, resumed, [] if resumed else list(held)

    async def adopt(self, session: Connected, held: Iterable[TaskKey] | None = None) -> list[TaskKey]:
        """After a resumption: take over the leases the worker holds, return the others; the tasks it has lost.

        `held`: None if the worker did not say; then all are taken over.
        """
        with self._dispatch.reading(session):
            found: dict[TaskKey, LeaseRecord] = dict(await self.leases_of(session.record.session))
            now = self._clock.now_us()
            claimed = set(found if held is None else held)
            for task, lease in found.items():
                if task in claimed:
                    session.take_over(task, lease, now, arrived=held is not None)
                    session.heed(task, lease)
        if session.held:
            self._dispatch.on_held()  # else nobody might look at their deadlines
        if held is not None:
            polled = [task for task, lease in found.items() if task in claimed and lease.poll]
            await self._arrived(session.record.session, polled)
        lost = [task for task in found if task not in claimed and task not in session.held]
        await self._return(lost, False, "its worker came back without it", undelivered=True)
        return [task for task in claimed if task not in found]

    async def _arrived(self, session_id: str, tasks: list[TaskKey]) -> None:
        """The worker has these, so no answer to a poll brings them again, also if it counts its polls anew now."""

        async def body(tr: Transaction) -> None:
            for ns, run_id, visit, path, epoch in tasks:
                key = keys.lease_of(session_id, keys.of_run(ns, run_id), visit, path)
                value = await tr.get(key)
                if value is not None and (lease := unpack(LeaseRecord, value)).epoch == epoch:
                    tr.set(key, pack(msgspec.structs.replace(lease, poll=0)))

        if tasks:
            await self._storage.transact(body)

    async def recall(self, session: Connected, named: Iterable[TaskKey]) -> None:
        """Take over leases that the worker names and that are not known here: another engine may have leased them to
        it, and look after its session, while this one has not seen that yet.
        """
        unknown = [task for task in named if task not in session.held]
        if self.alone or not unknown:
            return
        leases, now = dict(await self.leases_of(session.record.session)), self._clock.now_us()
        for task in unknown:
            if (lease := leases.get(task)) is not None:
                session.take_over(task, lease, now, arrived=True)
        self._dispatch.on_held()

    async def give_back_lost(self, session: Connected, number: int) -> None:
        """The poll of this number has come: if leases are known here from the store only, and were made for it, it is
        repeated, and the answer that carried them was lost.
        """
        lost = [task for task, held in session.held.items() if number and held.poll == number]
        if lost:
            await self._return(lost, False, "its worker asks again for the answer that carried it", undelivered=True)

    async def leave_if_moved(self, session_id: str) -> None:
        """The worker may have polled another engine before it turned to this one, which has not seen that yet: what the
        other one's answers carried is not known here, and what is leased here is not known there.
        """
        if self.alone or session_id not in self._dispatch.connected:
            return
        value = await self._storage.read(lambda tr: tr.get(keys.session(session_id)))
        if value is not None and moved(self._dispatch, unpack(SessionRecord, value)):
            await self._leave(session_id)

    async def renew(self, session_id: str) -> None:
        """A heartbeat. Raises EngineError SESSION_NOT_FOUND if the session has lapsed, INVALID_FIELD for none."""
        now = self._clock.now_us()
        if self._expires.get(session_id, 0) - now > self.lease_us * 9 // 10:
            return

        async def body(tr: Transaction) -> None:
            value = await tr.get(keys.session(session_id))
            if value is None:
                raise _unknown(session_id)
            tr.set(
                keys.session(session_id),
                pack(msgspec.structs.replace(unpack(SessionRecord, value), expires_us=now + self.lease_us)),
            )

        await self._storage.transact(body)
        self._expires[session_id] = now + self.lease_us

    async def take(self, session_id: str, engine: str) -> SessionRecord:
        """This engine looks after the session from now on; the one that did sees it (`moved`).

        Raises EngineError SESSION_NOT_FOUND.
        """

        async def body(tr: Transaction) -> SessionRecord:
            value = await tr.get(keys.session(session_id))
            if value is None:
                raise _unknown(session_id)
            record = unpack(SessionRecord, value)
            if record.engine != engine:
                record = msgspec.structs.replace(record, engine=engine)
                tr.set(keys.session(session_id), pack(record))
            return record

        return self._noted(await self._storage.transact(body))

    async def find(self, session_id: str) -> SessionRecord:
        """Raises EngineError SESSION_NOT_FOUND."""
        value = await self._storage.read(lambda tr: tr.get(keys.session(session_id)))
        if value is None:
            raise _unknown(session_id)
        return self._noted(unpack(SessionRecord, value))

    def _noted(self, record: SessionRecord) -> SessionRecord:
        """Who asks for a session connects it here: the loop must see its end, also if it comes before the next turn."""
        self._expires.setdefault(record.session, record.expires_us)
        return record

    async def end(self, session_id: str, reason: str, *, unbegun: bool = False) -> None:
        """The worker says goodbye: its leases go back at once, without counting as attempts.

        `unbegun`: it has begun nothing of what it holds; else nobody knows.
        """
        await self._close(session_id, _Closing(reason, ended=True, interrupted=not unbegun))

    async def all(self) -> list[SessionRecord]:
        """Every session in the store."""
        return [unpack(SessionRecord, value) for _, value in await self._rows()]

    # The loop

    async def turn(self) -> float | None:
        """Close lapsed sessions; sleep until the next may lapse."""
        now = self._clock.now_us()
        records = await self.all()
        for record in records:
            self._expires[record.session] = record.expires_us
            if moved(self._dispatch, record):
                await self._leave(record.session)
        for session_id in [s for s, expires in self._expires.items() if expires <= now]:
            await self._lapse(session_id, now)
        undelivered, left = await self._strays.find({record.session for record in records})
        await self._return(undelivered, False, "not delivered")
        await self._return(left, False, "its worker's session is gone", interrupted=True)
        due = [expires - now for expires in self._expires.values()]
        if look_us := self._strays.due_us():
            due.append(max(0, look_us - now))
        seconds = min(due) / 1e6 + 0.001 if due else None
        return min(seconds or LOOK_SECONDS, LOOK_SECONDS) if self._storage.shared else seconds

    async def _leave(self, session_id: str) -> None:
        """Another engine looks after the session now. It has taken over all leases of a worker that just polls there,
        also those of tasks that still wait here to be sent: nobody would send them.
        """
        unsent: list[TaskKey] = []
        self._hang_up(session_id, lambda outlet: unsent.extend(outlet.replaced()))
        await self._return(unsent, False, "not delivered")

    async def _lapse(self, session_id: str, now: int) -> None:
        value = await self._storage.read(lambda tr: tr.get(keys.session(session_id)))
        why = self._closing.get(session_id, _LAPSED)
        if value is None and session_id not in self._closing and not self.alone:
            # Whoever closed it knows why, and returns its leases; if that engine died over it, they are strays.
            self._hang_up(session_id, lambda outlet: outlet.lapsed())
            self._expires.pop(session_id, None)
            return
        if value is not None:
            record = unpack(SessionRecord, value)
            if record.expires_us > now:
                self._expires[session_id] = record.expires_us
                return
            why = self._silent(record)
        if await self._close(session_id, why):
            self.done["sessions_lapsed"] += 1

    def _silent(self, record: SessionRecord) -> _Closing:
        why, said = _LAPSED, "silent"
        if record.expires_us <= self._unattended_until_us:
            why = _Closing("the worker's lease ran out while no engine was there to renew it", unattended=True)
            said = why.reason
        log.warning("worker %s (session %s): %s; its tasks go to others", record.worker, record.session, said)
        return why

    async def _close(self, session_id: str, why: _Closing) -> bool:
        """True unless the session was renewed meanwhile. If the store fails on the way, the next turn goes on."""
        now = self._clock.now_us()

        async def body(tr: Transaction) -> bool:
            value = await tr.get(keys.session(session_id))
            if not why.ended and value is not None and unpack(SessionRecord, value).expires_us > now:
                return False
            tr.clear(keys.session(session_id))
            step_types.remove(tr, session_id)
            return True

        self._closing[session_id] = why
        if closed := await self._storage.transact(body):
            await self._return_all(session_id, why)
            self._expires.pop(session_id, None)
        self._closing.pop(session_id, None)
        return closed

    async def _return_all(self, session_id: str, why: _Closing) -> None:
        """The leases of a session that is closed. Its worker can have begun what was sent, and nothing else."""
        unsent: list[TaskKey] = []
        if why.ended:
            self._hang_up(session_id, lambda outlet: unsent.extend(outlet.hang_up()))
            await self._return(unsent, False, why.reason)
        else:
            self._hang_up(session_id, lambda outlet: outlet.lapsed())
        tasks = [task for task, _ in await self.leases_of(session_id)]
        crashed = not (why.ended or why.unattended)
        how = {"unattended": why.unattended, "interrupted": why.interrupted}
        await self._return(tasks, crashed, why.reason, **how)

    def suspect(self, session_ids: Iterable[str]) -> None:
        """A commit is unknown that may have leased tasks to these sessions: look for leases nobody delivered."""
        for session_id in session_ids:
            self._strays.suspect(session_id)
        self.wake()

    def _look_soon(self) -> None:
        """Another engine has stopped tasks: perhaps of workers of this one."""
        self._strays.hurry()
        self.wake()

    def _hang_up(self, session_id: str, tell: Callable[[Outlet], None]) -> None:
        session = self._dispatch.connected.get(session_id)
        if session is not None:
            self._dispatch.disconnect(session_id, session.outlet)
            tell(session.outlet)

    async def _return(self, tasks: list[TaskKey], crashed: bool, reason: str, **how: bool) -> None:
        for at in range(0, len(tasks), RETURN_BATCH):
            chunk = tasks[at : at + RETURN_BATCH]
            jitter = self._clock.random.random()
            told = await self._leases.report(
                [
                    (
                        t,
                        cmd.TaskReturned(
                            path=t[3],
                            visit=t[2],
                            epoch=t[4],
                            crashed=crashed,
                            reason=reason,
                            jitter=jitter,
                            **how,
                        ),
                    )
                    for t in chunk
                ]
            )
            self.done["leases_returned"] += sum(each.error is None for each in told)

    async def leases_of(self, session_id: str) -> list[tuple[TaskKey, LeaseRecord]]:
        """The leases of a session, from the store."""
        return await leases_of(self._storage, session_id)

    async def _rows(self) -> list[Row]:
        begin = keys.sessions()
        return await self._storage.read(lambda tr: tr.get_range(begin, keys.end(begin)))


def _unknown(session_id: str) -> EngineError:
    """Why a call about this session cannot be answered."""
    if not session_id:
        return EngineError(
            "INVALID_FIELD", "session_id is missing: it is in the answer to registering", field="session_id"
        )
    return EngineError("SESSION_NOT_FOUND", "the worker's session has lapsed; register again", session=session_id)
