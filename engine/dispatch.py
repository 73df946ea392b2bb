"""Dispatch: which connected worker gets the next task.

Theory of operation
-------------------
A worker's stream grants *credits*: how many more tasks it can take. A task that becomes ready is leased, in the very
transaction that makes it ready, to the worker whose turn it is among those with credit for its queue and kind
(round-robin, one ring per namespace, queue and kind). If there is none, or others of that kind are queued already, it
is queued, and `claims.py` takes it from there when credit comes back. Everything here is memory of one engine: the
lease in the store is what counts, and a session's leases are read back from the store when its worker reconnects.

A credit is spent by `reserve` and comes back only by the worker's grant, or by `release` if the transaction did not
commit. Worker and engine count credits each for itself, per connection, so a slot belongs to the connection that
granted it: what an older connection paid for is neither delivered to the next one nor given back to it. A worker may
take back credits that a transaction holds at this moment; then `credits` is below 0 until that transaction ends.

Units that tasks need beside a slot are taken and given back with the credit, and held by the lease (`capacity.py`). A
kind with needs has a ring of its own, made when its first task turns up, of the sessions that offer enough; a queue
with needs that was there before its worker is found by a look into the store (`unseen`, claims.py).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from windlass.engine.capacity import QueueKey
from windlass.engine.connected import Assignment, Connected, Held, Outlet
from windlass.engine.core.units import split_kind, units_of
from windlass.engine.records import SessionRecord
from windlass.engine.work import After, TaskKey

log = logging.getLogger(__name__)

#: Rings with needs kept in memory; above this, those of empty queues are forgotten and made again when they are needed.
NEEDY_RINGS_MAX: Final = 1000


class Dispatch:
    """The connected workers of one engine and whose turn it is."""

    def __init__(self) -> None:
        self.connected: dict[str, Connected] = {}
        self._rings: dict[QueueKey, deque[Connected]] = {}
        self._needy: set[QueueKey] = set()  #: those of them that have needs
        self.unseen: set[tuple[str, str]] = set()  #: namespace and queue in which kinds with needs may lie unknown
        self.backlog: set[QueueKey] = set()
        self.untold: set[QueueKey] = set()  #: of the backlog, those that count as such only because a worker connected
        self.claiming: set[QueueKey] = set()  #: rings whose queue is being claimed from at this moment
        self._turns: dict[QueueKey, int] = {}  #: when each ring was last offered for claiming, by count
        self._turn = 0
        #: Called when a queue with a backlog may have a worker, or a worker a backlog.
        self.on_claimable: Callable[[], None] = lambda: None
        #: Called when a worker of a queue connects.
        self.on_ring: Callable[[QueueKey], None] = lambda ring: None
        #: Called with a session that was leased tasks which cannot be handed to it.
        self.on_undelivered: Callable[[str], None] = lambda session_id: None
        #: Called when another engine has ended leases, or asked to stop tasks, that may be with a worker of this one.
        self.on_stops: Callable[[], None] = lambda: None
        #: Called when a worker was handed tasks, or has come back with some.
        self.on_held: Callable[[], None] = lambda: None

    # Sessions

    def connect(self, record: SessionRecord, outlet: Outlet) -> Connected:
        """Add a worker's session; what lies in its queues may be claimed for it as soon as it grants credit."""
        old = self.connected.get(record.session)
        if old is not None:
            self.disconnect(record.session, old.outlet)
            old.outlet.replaced()
        session = self.connected[record.session] = Connected(record, outlet)
        for ring in session.rings:
            self._rings.setdefault(ring, deque()).append(session)
            self.backlog.add(ring)
            self.untold.add(ring)
            self.on_ring(ring)
        if session.capacity is not None:
            mine = set(session.rings)
            for ring in self._needy:
                if (ring[0], ring[1], split_kind(ring[2])[0]) in mine:
                    self._join(session, ring)
            self.look_into((record.namespace, queue) for queue in record.queues)
        self.on_claimable()
        return session

    def disconnect(self, session_id: str, outlet: Outlet) -> Connected | None:
        """Remove a session, if it still is the one of this outlet. Its leases live on until they lapse."""
        session = self.connected.get(session_id)
        if session is None or session.outlet is not outlet:
            return None
        del self.connected[session_id]
        for ring in (*session.rings, *(session.capacity.rings if session.capacity is not None else ())):
            members = self._rings[ring]
            members.remove(session)
            if not members:
                self._forget(ring)
        return session

    def _forget(self, ring: QueueKey) -> None:
        del self._rings[ring]
        self._needy.discard(ring)
        self.backlog.discard(ring)
        self._turns.pop(ring, None)

    def grant(self, session_id: str, credits: int) -> None:
        """The worker can take `credits` more tasks; below 0: it takes credits back, as far as they are unused."""
        session = self.connected.get(session_id)
        if session is not None:
            session.credits = max(-session.reserved, session.credits + credits)
            self._freed(session)

    def _freed(self, session: Connected) -> None:
        """The session has something free that it had not: perhaps tasks wait for it."""
        if session.credits > 0 and self.backlog and session.has_turn(self.backlog):
            self.on_claimable()

    # Rings of tasks with needs

    def look_into(self, queues: Iterable[tuple[str, str]]) -> None:
        """These queues (namespace, name) may hold kinds with needs that are not known here."""
        self.unseen.update(queues)
        self.on_claimable()

    def found(self, ring: QueueKey) -> bool:
        """There are tasks in this queue: they may be claimed from now on, if there is a worker for them."""
        known = ring in self._rings or self._open(ring)
        if known:
            self.backlog.add(ring)
        return known

    def _open(self, ring: QueueKey) -> bool:
        """Make the ring of a kind with needs, of the sessions that offer enough; False if there are none."""
        base, needs = split_kind(ring[2])
        if not needs:
            return False
        if len(self._needy) >= NEEDY_RINGS_MAX:
            self._forget_idle()
        for session in self._rings.get((ring[0], ring[1], base), ()):
            self._join(session, ring)
        return ring in self._rings

    def _join(self, session: Connected, ring: QueueKey) -> None:
        """Put a session that serves the ring's kind into it, if it offers enough and is not there already."""
        needs = units_of(split_kind(ring[2])[1])
        capacity = session.capacity
        if capacity is not None and ring not in capacity.rings and capacity.suffices(needs):
            capacity.rings[ring] = needs
            self._rings.setdefault(ring, deque()).append(session)
            self._needy.add(ring)

    def _forget_idle(self) -> None:
        for ring in self._needy - self.backlog - self.claiming:
            for session in self._rings[ring]:
                assert session.capacity is not None
                session.capacity.leave(ring)
            self._forget(ring)

    # Choosing

    def reserve(
        self,
        ns: str,
        queue: str,
        kind: str,
        *,
        claiming: bool = False,
        avoid: tuple[str, ...] = (),
        needy: bool = False,
    ) -> Connected | None:
        """The session whose turn it is, with one credit taken; None if there is none or others wait before it.

        `needy`: the kind has needs; the units are taken with the credit.

        A worker for which tasks of any kind lie queued takes from the queues only: else a run that goes from step to
        step would keep it from them for ever. `avoid`: sessions that cannot run this task.
        """
        ring = (ns, queue, kind)
        waiting: set[QueueKey] = set() if claiming else self.backlog | self.claiming
        if ring in waiting:
            return None
        members = self._rings.get(ring)
        if members is None and needy and self._open(ring):
            members = self._rings[ring]
        for _ in range(len(members or ())):
            assert members is not None
            session = members[0]
            members.rotate(-1)
            if waiting and not waiting.isdisjoint(session.rings):
                continue
            if waiting and session.capacity is not None and session.capacity.due(waiting):
                continue
            if avoid and session.record.session in avoid:
                continue
            if session.credits > 0 and not session.record.draining:
                if needy and not self._take_units(session, ring):
                    continue
                session.credits -= 1
                session.reserved += 1
                return session
        return None

    def reserve_eagerly(self, session: Connected, ring: QueueKey, *, needy: bool) -> bool:
        """Whether this session can have a task beside its credits: its worker keeps room for it. Units are taken."""
        base = (ring[0], ring[1], split_kind(ring[2])[0])
        if not session.mine or session.record.draining or base not in session.rings or not self._is_current(session):
            return False
        if needy and ring not in self._rings:
            self._open(ring)
        return not needy or self._take_units(session, ring)

    def _take_units(self, session: Connected, ring: QueueKey) -> bool:
        waiting = self.backlog | self.claiming
        if session.capacity is None or not session.room(ring, waiting):
            return False
        session.capacity.take_turn(ring, waiting)
        return True

    def release(self, session: Connected, needy: QueueKey | None = None, *, eagerly: bool = False) -> None:
        """Give back a credit, and the units, taken by `reserve` for a transaction that did not commit.

        A worker that has connected anew since has granted anew: what was taken before is not owed to it.
        `eagerly`: it was reserved by `reserve_eagerly`, without a credit.
        """
        if not eagerly:
            session.reserved -= 1
            session.credits += 1
        if needy is not None and session.capacity is not None:
            session.capacity.give_back(units_of(split_kind(needy[2])[1]))
        if self._is_current(session):
            self.grant(session.record.session, 0)

    def _is_current(self, session: Connected) -> bool:
        return self.connected.get(session.record.session) is session

    def claimable(self) -> list[tuple[QueueKey, int]]:
        """Queues with a backlog that connected workers have credit for, and how much; the longest wait first."""
        found = []
        waiting = self.backlog | self.claiming
        for ring in sorted(self.backlog, key=lambda ring: (self._turns.get(ring, 0), ring)):
            members = (s for s in self._rings.get(ring, ()) if s.credits > 0 and not s.record.draining)
            if ring in self._needy:
                credits = sum(min(s.credits, s.room(ring, waiting)) for s in members)
            else:
                credits = sum(s.credits for s in members)
            if credits:
                found.append((ring, credits))
        return found

    def looks_after(self, session_id: str) -> bool:
        """Whether it is up to this engine to tell the session's worker things."""
        session = self.connected.get(session_id)
        return session is not None and session.mine

    def has_queued(self, session: Connected) -> bool:
        """Whether tasks lie queued that this session could be leased, or are being leased to it at this moment."""
        return session.reserved > 0 or (session.credits > 0 and session.has_turn(self.backlog | self.claiming))

    def offered(self, ring: QueueKey) -> None:
        """This ring has its turn of claiming now: it comes after the others."""
        self._turn += 1
        self._turns[ring] = self._turn

    def rings(self) -> list[QueueKey]:
        """All queues and kinds that connected workers serve; kinds with needs are told by `offering`."""
        return [ring for ring in self._rings if ring not in self._needy]

    def offering(self) -> set[tuple[str, str]]:
        """Namespaces and queues that workers with units serve."""
        return {(s.record.namespace, q) for s in self.connected.values() if s.capacity for q in s.record.queues}

    # Leases

    def deliver(self, after: After) -> None:
        """After a commit: tasks to their workers, stops to whoever holds them, and the news of queued tasks."""
        for session_id, task in after.released:
            if (session := self.connected.get(session_id)) is not None:
                self.end(session, task)
        for session_id, task, deadline_us in after.extended:
            if (session := self.connected.get(session_id)) is not None and (held := session.held.get(task)) is not None:
                held.deadline_us = deadline_us
        if after.assigned:
            self._send(after.assigned)
        for session_id, task, reason in after.stops:
            if (session := self.connected.get(session_id)) is not None:
                if (held := session.held.get(task)) is not None:
                    held.stopping = True
                session.outlet.send_stop(task, reason)
        if after.queued:
            for ring in after.queued:
                self.found(ring)  # `connect` adds those that have no worker yet
            self.on_claimable()

    @contextmanager
    def reading(self, session: Connected) -> Iterator[None]:
        """While the session's leases are read from the store: what ends meanwhile is remembered, no units are given."""
        session.ended = set()
        try:
            yield
        finally:
            session.ended = None
            self._freed(session)

    def end(self, session: Connected, task: TaskKey) -> None:
        """A lease is over, or its worker has dropped it: what it took is free. Harmless if it is not known."""
        held = session.held.pop(task, None)
        if held is None:
            if session.ended is not None:
                session.ended.add(task)
        elif held.needs and session.capacity is not None:
            session.capacity.give_back(held.needs)
            self._freed(session)

    def _send(self, assigned: list[Assignment]) -> None:
        batches: dict[Connected, list[Assignment]] = {}
        for assignment in assigned:
            batches.setdefault(assignment.to, []).append(assignment)
        for session, batch in batches.items():
            session.reserved -= sum(each.eager is None for each in batch)
            session.credits = max(session.credits, -session.reserved)
            if not self._is_current(session):
                # Disconnected, or connected anew, meanwhile: the lease lapses, or is found when the worker reconnects.
                # But if the session's leases were returned before this one was committed, nobody else would find it.
                self.on_undelivered(session.record.session)
                continue
            for each in batch:
                self._hold(session, each)
            session.outlet.send_tasks([each for each in batch if each.eager is None])
        self.on_held()

    def _hold(self, session: Connected, each: Assignment) -> None:
        held = session.held[each.task] = Held(each.deadline_us, each.heartbeat_us, each.leased_us)
        if each.needy is not None and session.capacity is not None:
            held.needs = units_of(split_kind(each.needy[2])[1])
            session.capacity.served(each.needy)
        if each.eager is not None:
            each.eager.assignment = each
            held.send_again(each)
