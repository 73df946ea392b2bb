"""A worker session connected to this engine, and the leases on their way to it and in its hands."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from windlass.engine import keys
from windlass.engine.capacity import Capacity, QueueKey
from windlass.engine.core.activation import TaskActivation
from windlass.engine.core.state import RunState
from windlass.engine.core.units import Units, split_kind, units_of
from windlass.engine.records import LeaseRecord, SessionRecord, pack
from windlass.engine.work import TaskKey

if TYPE_CHECKING:
    from windlass.engine.eager import FirstTask

#: A task that went out in the answer to a start, and that nothing was heard of in this time, is sent once more.
UNHEARD_US: Final = 5_000_000


class Assignment:
    """A leased task on its way to its worker."""

    __slots__ = (
        "activation",
        "deadline_us",
        "eager",
        "heartbeat_us",
        "leased_us",
        "needy",
        "opened_us",
        "run",
        "task",
        "to",
    )

    def __init__(
        self,
        to: Connected,
        task: TaskKey,
        activation: TaskActivation,
        run: RunState,
        opened_us: int,
        leased_us: int,
        deadline_us: int,
        heartbeat_us: int,
        needy: QueueKey | None = None,
        eager: FirstTask | None = None,
    ) -> None:
        """`leased_us`, `deadline_us`: by the wall clock, also for a run that goes by another; 0 = no deadline."""
        self.to, self.task, self.activation, self.run = to, task, activation, run
        self.opened_us, self.leased_us = opened_us, leased_us
        self.deadline_us, self.heartbeat_us = deadline_us, heartbeat_us
        self.needy = needy  #: the ring it was reserved by, if that has needs
        self.eager = eager  #: it travels with the answer to the start, and took no credit

    @property
    def session(self) -> str:
        """The id of the session that has the lease."""
        return self.to.record.session

    def lease_record(self, packed: bytes) -> tuple[bytes, bytes]:
        """Key and value of the lease in the store; `packed` is the run's part of the key."""
        _, _, visit, path, epoch = self.task
        needs = split_kind(self.needy[2])[1] if self.needy is not None else ""
        poll = self.to.poll if self.eager is None else 0
        record = LeaseRecord(epoch, self.deadline_us, self.heartbeat_us, needs, poll=poll)
        return keys.lease_of(self.session, packed, visit, path), pack(record)


def never_sent(waiting: Iterable[Assignment]) -> list[TaskKey]:
    """Of what waits to be sent, that which its worker cannot have: a first task was in the answer to its start."""
    return [each.task for each in waiting if each.eager is None]


class Outlet(Protocol):
    """The way to one worker: its stream, or the answers of its polls."""

    def send_tasks(self, assignments: list[Assignment]) -> None: ...
    def send_stop(self, task: TaskKey, reason: str) -> None: ...
    def send_drain(self) -> None: ...
    def lapsed(self) -> None: ...
    def hang_up(self) -> list[TaskKey]: ...  # what it has never sent, and will not
    def replaced(self) -> list[TaskKey]: ...  # what it has never sent


class Connected:
    """A worker session connected to this engine."""

    __slots__ = ("capacity", "credits", "ended", "held", "mine", "outlet", "poll", "record", "reserved", "rings")

    def __init__(self, record: SessionRecord, outlet: Outlet) -> None:
        self.record, self.outlet = record, outlet
        self.credits = 0  #: how many more tasks may be leased to it
        self.reserved = 0  #: credits taken by transactions that have not ended
        self.held: dict[TaskKey, Held] = {}
        self.rings: list[QueueKey] = [(record.namespace, q, k) for q in record.queues for k in record.kinds]
        self.capacity = Capacity(record.offer) if record.offer else None
        self.ended: set[TaskKey] | None = None  #: leases that ended while those in the store are being read
        self.poll = 0  #: the number of the worker's poll of the moment, if it numbers them
        self.mine = True  #: this engine looks after it; else another one does, and this one has heard of it by a call

    def drain(self) -> None:
        """The worker says it stops: it gets no more tasks."""
        self.record = msgspec.structs.replace(self.record, draining=True)

    def forfeit(self) -> None:
        """Take back all credits, also those that transactions have taken and may yet give back."""
        self.credits = -self.reserved

    def take_over(self, task: TaskKey, lease: LeaseRecord, now_us: int, *, arrived: bool = False) -> None:
        """A lease of the session that the store has from before this connection. `arrived`: its worker names it."""
        if task in self.held or (self.ended is not None and task in self.ended):
            return
        beat_us = lease.heartbeat_us if self.mine else 0  # the signs of life go to whoever looks after the session
        held = self.held[task] = Held(lease.deadline_us, beat_us, now_us, units_of(lease.needs))
        held.poll = 0 if arrived else lease.poll
        if held.needs and self.capacity is not None:
            self.capacity.take(held.needs)

    def heed(self, task: TaskKey, lease: LeaseRecord) -> None:
        """Tell the worker what its lease says: that it is to stop the task, if it was not told so here."""
        held = self.held.get(task)
        if lease.stop and held is not None and not held.stopping:
            held.stopping = True
            self.outlet.send_stop(task, lease.stop)

    def has_turn(self, waiting: AbstractSet[QueueKey]) -> bool:
        """Whether tasks lie queued that could be leased to it, so that it takes from the queues only."""
        return not waiting.isdisjoint(self.rings) or (self.capacity is not None and self.capacity.due(waiting))

    def room(self, ring: QueueKey, waiting: AbstractSet[QueueKey]) -> int:
        """How many tasks of a ring with needs it has the units for now."""
        return 0 if self.capacity is None or self.ended is not None else self.capacity.room(ring, waiting)


class Held:
    """A lease this engine watches: its start-to-close deadline and its last heartbeat, wall clock µs; what it takes."""

    __slots__ = ("again_us", "deadline_us", "heard_us", "heartbeat_us", "needs", "poll", "stopping", "unheard")

    def __init__(self, deadline_us: int, heartbeat_us: int, heard_us: int, needs: Units = ()) -> None:
        self.deadline_us, self.heartbeat_us, self.heard_us = deadline_us, heartbeat_us, heard_us
        self.needs = needs
        self.stopping = False  #: its worker was told to stop it
        self.unheard: Assignment | None = None  #: it went out in an answer that may have been lost
        self.again_us = 0  #: when to send that again
        self.poll = 0  #: if that poll is repeated, the task was in an answer that was lost before this engine had it

    def send_again(self, unheard: Assignment) -> None:
        """Unless something is heard of the task by then."""
        self.unheard, self.again_us = unheard, unheard.leased_us + UNHEARD_US

    def heard(self, now_us: int) -> None:
        """A sign of life of the task."""
        self.heard_us, self.unheard, self.poll = now_us, None, 0

    def due_us(self) -> int:
        """When this lease must be judged; 0 = never."""
        beat = self.heard_us + self.heartbeat_us if self.heartbeat_us else 0
        return min(filter(None, (self.deadline_us, beat)), default=0)
