"""What the shell owes after a decision, carried out in the same storage transaction as the new state.

Order of handling: the state, the changed items and the events are written first; then the effects in their order. An
effect is idempotent by its ids, because the transaction may run more than once.
"""

from __future__ import annotations

import msgspec

from windlass.engine.core.commands import Command, Failure, ParentRef


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Root of all effects."""


class ScheduleTask(Effect, frozen=True):
    """Queue the node's task, or lease it to a worker at once. `activation` says all a worker must know."""

    path: str
    visit: int
    attempt: int
    queue: str
    runtime: str  #: javascript | wasm | python
    handler: str = ""
    priority: int = 5
    queued_us: int = 0  #: when it was queued: its place among equals
    start_to_close_us: int = 0  #: longest time of one attempt; the shell stores it with the lease
    heartbeat_us: int = 0  #: longest gap between heartbeats; 0 = not asked
    avoid: tuple[str, ...] = ()  #: sessions that cannot run it, not to be asked for this long
    avoid_us: int = 0  #: a span: the run's clock may be another than that of its workers
    needs: str = ""  #: units that it takes of its worker, as canonical text (units.py)


class WithdrawTask(Effect, frozen=True):
    """The node's task must not start: remove it from its queue."""

    path: str
    visit: int
    queue: str
    runtime: str
    handler: str = ""
    priority: int = 5
    queued_us: int = 0  #: as in its ScheduleTask, so that the entry is found
    needs: str = ""


class StopTask(Effect, frozen=True):
    """Tell the worker that holds the lease to stop; its result will be refused (or is awaited, when cancelling)."""

    path: str
    visit: int
    epoch: int
    session: str
    reason: str


class ExtendLease(Effect, frozen=True):
    """The attempt has until `lease_us`: note it in the lease record."""

    path: str
    visit: int
    epoch: int
    session: str
    lease_us: int


class ReleaseLease(Effect, frozen=True):
    """The attempt is over: remove the lease record."""

    path: str
    visit: int
    epoch: int
    session: str


class ArmTimer(Effect, frozen=True):
    """Fire `timer` (unique in the run) at or after `due_us`."""

    timer: str
    due_us: int


class DisarmTimer(Effect, frozen=True):
    timer: str
    due_us: int


class StartChild(Effect, frozen=True):
    """Start a run with this id, in this transaction. A child that cannot start must answer with ChildClosed(failed)."""

    run_id: str
    workflow: str
    revision: str
    workflow_id: str
    input: bytes
    parent: ParentRef
    queue: str = ""


class TellRun(Effect, frozen=True):
    """Give a command to another run (cancel or terminate a child)."""

    run_id: str
    command: Command


class TellParent(Effect, frozen=True):
    parent: ParentRef
    status: str
    output: bytes
    failure: Failure | None


class AppendOutbox(Effect, frozen=True):
    name: str
    payload: bytes


class BufferSignal(Effect, frozen=True):
    """Nothing waits for it yet: keep it in the run's inbox, after those of the same name (state.seq is its place)."""

    name: str
    payload: bytes


class ConsumeSignal(Effect, frozen=True):
    """Remove this entry from the run's inbox; a wait has taken it."""

    key: bytes


class OpenEscalation(Effect, frozen=True):
    """Write the escalation's index row. `details` is JSON: to, message, fields, channel, due."""

    escalation_id: str
    details: bytes


class CloseEscalation(Effect, frozen=True):
    escalation_id: str
    status: str  #: approved | rejected | timeout | cancelled
    values: bytes = b""
    by: str = ""


class OpenIncident(Effect, frozen=True):
    incident_id: str
    code: str
    message: str


class CloseIncident(Effect, frozen=True):
    incident_id: str


class SubscribeMessage(Effect, frozen=True):
    """A wait with a business key opened: published messages (name, key) reach it."""

    name: str
    correlation_key: str
    wait_id: str


class UnsubscribeMessage(Effect, frozen=True):
    name: str
    correlation_key: str
    wait_id: str


class Defer(Effect, frozen=True):
    """More to do than one transaction should hold: give the run `Continue(token)` in a transaction of its own, soon."""

    token: str
