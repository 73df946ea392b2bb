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
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from windlass.engine import keys
from windlass.engine.core import tree
from windlass.engine.core.activation import TaskActivation, activation_of
from windlass.engine.core.state import RunState
from windlass.engine.records import LeaseRecord, SessionRecord, pack
from windlass.engine.work import After, TaskKey, Work

log = logging.getLogger(__name__)

QueueKey = tuple[str, str, str]  #: namespace, queue, kind


class Assignment:
    """A leased task on its way to its worker."""

    __slots__ = ("activation", "deadline_us", "heartbeat_us", "opened_us", "run", "task", "to")

    def __init__(
        self,
        to: Connected,
        task: TaskKey,
        activation: TaskActivation,
        run: RunState,
        opened_us: int,
        deadline_us: int,
        heartbeat_us: int,
    ) -> None:
        self.to, self.task, self.activation = to, task, activation
        self.run, self.opened_us = run, opened_us
        self.deadline_us, self.heartbeat_us = deadline_us, heartbeat_us

    @property
    def session(self) -> str:
        """The id of the session that has the lease."""
        return self.to.record.session

    def lease_record(self, packed: bytes) -> tuple[bytes, bytes]:
        """Key and value of the lease in the store; `packed` is the run's part of the key."""
        _, _, visit, path, epoch = self.task
        record = LeaseRecord(epoch, self.deadline_us, self.heartbeat_us)
        return keys.lease_of(self.session, packed, visit, path), pack(record)


class Outlet(Protocol):
    """The way to one worker: its stream, or the answers of its polls."""

    def send_tasks(self, assignments: list[Assignment]) -> None: ...
    def send_stop(self, task: TaskKey, reason: str) -> None: ...
    def send_drain(self) -> None: ...
    def lapsed(self) -> None: ...
    def replaced(self) -> None: ...


class Connected:
    """A worker session connected to this engine."""

    __slots__ = ("credits", "held", "outlet", "record", "reserved", "rings")

    def __init__(self, record: SessionRecord, outlet: Outlet) -> None:
        self.record, self.outlet = record, outlet
        self.credits = 0  #: how many more tasks may be leased to it
        self.reserved = 0  #: credits taken by transactions that have not ended
        self.held: dict[TaskKey, Held] = {}
        self.rings: list[QueueKey] = [(record.namespace, q, k) for q in record.queues for k in record.kinds]

    def drain(self) -> None:
        """The worker says it stops: it gets no more tasks."""
        self.record = msgspec.structs.replace(self.record, draining=True)

    def forfeit(self) -> None:
        """Take back all credits, also those that transactions have taken and may yet give back."""
        self.credits = -self.reserved


class Held:
    """A lease this engine watches: its start-to-close deadline and its last heartbeat, wall clock µs."""

    __slots__ = ("deadline_us", "heard_us", "heartbeat_us")

    def __init__(self, deadline_us: int, heartbeat_us: int, heard_us: int) -> None:
        self.deadline_us, self.heartbeat_us, self.heard_us = deadline_us, heartbeat_us, heard_us

    def due_us(self) -> int:
        """When this lease must be judged; 0 = never."""
        beat = self.heard_us + self.heartbeat_us if self.heartbeat_us else 0
        return min(filter(None, (self.deadline_us, beat)), default=0)


class Dispatch:
    """The connected workers of one engine and whose turn it is."""

    def __init__(self) -> None:
        self.connected: dict[str, Connected] = {}
        self._rings: dict[QueueKey, deque[Connected]] = {}
        self.backlog: set[QueueKey] = set()
        self.claiming: set[QueueKey] = set()  #: rings whose queue is being claimed from at this moment
        self._turns: dict[QueueKey, int] = {}  #: when each ring was last offered for claiming, by count
        self._turn = 0
        #: Called when a queue with a backlog may have a worker, or a worker a backlog.
        self.on_claimable: Callable[[], None] = lambda: None
        #: Called when a worker of a queue connects.
        self.on_ring: Callable[[QueueKey], None] = lambda ring: None
        #: Called with a session that was leased tasks which cannot be handed to it.
        self.on_undelivered: Callable[[str], None] = lambda session_id: None
        #: Called when a worker was handed tasks.
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
            self.on_ring(ring)
        return session

    def disconnect(self, session_id: str, outlet: Outlet) -> Connected | None:
        """Remove a session, if it still is the one of this outlet. Its leases live on until they lapse."""
        session = self.connected.get(session_id)
        if session is None or session.outlet is not outlet:
            return None
        del self.connected[session_id]
        for ring in session.rings:
            members = self._rings[ring]
            members.remove(session)
            if not members:
                del self._rings[ring]
                self.backlog.discard(ring)
                self._turns.pop(ring, None)
        return session

    def grant(self, session_id: str, credits: int) -> None:
        """The worker can take `credits` more tasks; below 0: it takes credits back, as far as they are unused."""
        session = self.connected.get(session_id)
        if session is not None:
            session.credits = max(-session.reserved, session.credits + credits)
            if session.credits > 0 and self.backlog and not self.backlog.isdisjoint(session.rings):
                self.on_claimable()

    # Choosing

    def reserve(
        self, ns: str, queue: str, kind: str, *, claiming: bool = False, avoid: tuple[str, ...] = ()
    ) -> Connected | None:
        """The session whose turn it is, with one credit taken; None if there is none or others wait before it.

        A worker for which tasks of any kind lie queued takes from the queues only: else a run that goes from step to
        step would keep it from them for ever. `avoid`: sessions that cannot run this task.
        """
        ring = (ns, queue, kind)
        waiting: set[QueueKey] = set() if claiming else self.backlog | self.claiming
        if ring in waiting:
            return None
        members = self._rings.get(ring)
        for _ in range(len(members or ())):
            assert members is not None
            session = members[0]
            members.rotate(-1)
            if waiting and not waiting.isdisjoint(session.rings):
                continue
            if avoid and session.record.session in avoid:
                continue
            if session.credits > 0 and not session.record.draining:
                session.credits -= 1
                session.reserved += 1
                return session
        return None

    def release(self, session: Connected) -> None:
        """Give back a credit taken by `reserve` for a transaction that did not commit.

        A worker that has connected anew since has granted anew: what was taken before is not owed to it.
        """
        session.reserved -= 1
        session.credits += 1
        if self._is_current(session):
            self.grant(session.record.session, 0)

    def _is_current(self, session: Connected) -> bool:
        return self.connected.get(session.record.session) is session

    def claimable(self) -> list[tuple[QueueKey, int]]:
        """Queues with a backlog that connected workers have credit for, and how much; the longest wait first."""
        found = []
        for ring in sorted(self.backlog, key=lambda ring: (self._turns.get(ring, 0), ring)):
            credits = sum(max(0, s.credits) for s in self._rings.get(ring, ()) if not s.record.draining)
            if credits:
                found.append((ring, credits))
        return found

    def offered(self, ring: QueueKey) -> None:
        """This ring has its turn of claiming now: it comes after the others."""
        self._turn += 1
        self._turns[ring] = self._turn

    def rings(self) -> list[QueueKey]:
        """All queues and kinds that connected workers serve."""
        return list(self._rings)

    # Leases

    def assignment(
        self, work: Work, path: str, visit: int, session: Connected, deadline_us: int, heartbeat_us: int
    ) -> Assignment:
        """Describe a task just leased, and note the lease under its session."""
        assert work.state is not None
        state = work.state
        node = tree.find(state, work.loaded, path)
        assert node is not None
        activation = activation_of(work.definition, state, work.item, path, node)
        task = (work.ns, work.run_id, visit, path, node.epoch)
        return Assignment(session, task, activation, state, node.opened_us, deadline_us, heartbeat_us)

    def deliver(self, after: After) -> None:
        """After a commit: tasks to their workers, stops to whoever holds them, and the news of queued tasks."""
        for session_id, task in after.released:
            if (session := self.connected.get(session_id)) is not None:
                session.held.pop(task, None)
        if after.assigned:
            self._send(after.assigned)
        for session_id, task, reason in after.stops:
            if (session := self.connected.get(session_id)) is not None:
                session.outlet.send_stop(task, reason)
        if after.queued:
            self.backlog.update(ring for ring in after.queued if ring in self._rings)  # `connect` adds the others
            self.on_claimable()

    def _send(self, assigned: list[Assignment]) -> None:
        batches: dict[Connected, list[Assignment]] = {}
        for assignment in assigned:
            batches.setdefault(assignment.to, []).append(assignment)
        for session, batch in batches.items():
            session.reserved -= len(batch)
            session.credits = max(session.credits, -session.reserved)
            if not self._is_current(session):
                # Disconnected, or connected anew, meanwhile: the lease lapses, or is found when the worker reconnects.
                # But if the session's leases were returned before this one was committed, nobody else would find it.
                self.on_undelivered(session.record.session)
                continue
            for each in batch:
                session.held[each.task] = Held(each.deadline_us, each.heartbeat_us, each.run.updated_us)
            session.outlet.send_tasks(batch)
        self.on_held()
