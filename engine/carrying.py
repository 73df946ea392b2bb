"""Effects carried out: for each kind one function that writes what it asks for into the unit's transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from windlass.engine import keys
from windlass.engine.core import effects as fx
from windlass.engine.core.commands import ChildClosed, Continue
from windlass.engine.core.units import kind_of
from windlass.engine.records import (
    ESCALATION_STATES,
    EscalationRecord,
    IncidentRecord,
    LeaseRecord,
    OutboxRecord,
    chunks_of,
    clear_large,
    get_large,
    pack,
    set_large,
    set_record,
    unpack,
)
from windlass.engine.unit import Unit
from windlass.engine.work import Work

Carry = Callable[[Unit, Work, Any], Awaitable[None]]


async def schedule_task(unit: Unit, work: Work, effect: fx.ScheduleTask) -> None:
    await unit.lease(work, effect)


async def withdraw_task(unit: Unit, work: Work, effect: fx.WithdrawTask) -> None:
    head = keys.queue(work.ns, effect.queue, kind_of(effect.runtime, effect.handler, effect.needs))
    shard = unit.shard(work.run_id)
    unit.tr.clear(
        keys.queue_entry(head, shard, effect.priority, effect.queued_us, work.run_id, effect.visit, effect.path)
    )


#: What a worker is told of why it is to stop; all of it is in the run's history.
STOP_CHARACTERS: Final = 1000


async def stop_task(unit: Unit, work: Work, effect: fx.StopTask) -> None:
    """It is kept with the lease, too: the worker may be away for a moment, or with another engine."""
    task = (work.ns, work.run_id, effect.visit, effect.path, effect.epoch)
    unit.after.stops.append((effect.session, task, effect.reason))
    await _change_lease(unit, work, effect, stop=effect.reason[:STOP_CHARACTERS])


async def _change_lease(unit: Unit, work: Work, of: fx.StopTask | fx.ExtendLease, **changes: object) -> None:
    key = keys.lease_of(of.session, work.packed, of.visit, of.path)
    if (value := await unit.tr.get(key)) is not None:
        unit.tr.set(key, pack(msgspec.structs.replace(unpack(LeaseRecord, value), **changes)))


async def extend_lease(unit: Unit, work: Work, effect: fx.ExtendLease) -> None:
    await _change_lease(unit, work, effect, deadline_us=effect.lease_us)
    task = (work.ns, work.run_id, effect.visit, effect.path, effect.epoch)
    unit.after.extended.append((effect.session, task, effect.lease_us))


async def release_lease(unit: Unit, work: Work, effect: fx.ReleaseLease) -> None:
    unit.tr.clear(keys.lease_of(effect.session, work.packed, effect.visit, effect.path))
    unit.after.released.append((effect.session, (work.ns, work.run_id, effect.visit, effect.path, effect.epoch)))


async def arm_timer(unit: Unit, work: Work, effect: fx.ArmTimer) -> None:
    unit.tr.set(_timer_key(unit, work, effect), b"")
    unit.armed(effect.due_us)


async def disarm_timer(unit: Unit, work: Work, effect: fx.DisarmTimer) -> None:
    unit.tr.clear(_timer_key(unit, work, effect))


def _timer_key(unit: Unit, work: Work, effect: fx.ArmTimer | fx.DisarmTimer) -> bytes:
    assert work.state is not None
    if work.state.virtual_time:
        return keys.virtual_timer(work.ns, effect.due_us, work.run_id, effect.timer)
    return keys.timer(unit.shard(work.run_id), effect.due_us, work.ns, work.run_id, effect.timer)


async def start_child(unit: Unit, work: Work, effect: fx.StartChild) -> None:
    unit.children.append((work.ns, effect))


async def tell_run(unit: Unit, work: Work, effect: fx.TellRun) -> None:
    unit.follow_ups.append((work.ns, effect.run_id, effect.command))


async def tell_parent(unit: Unit, work: Work, effect: fx.TellParent) -> None:
    parent = effect.parent
    command = ChildClosed(
        visit=parent.visit,
        path=parent.path,
        child_run_id=work.run_id,
        status=effect.status,
        output=effect.output,
        failure=effect.failure,
    )
    unit.follow_ups.append((work.ns, parent.run_id, command))


#: One decision may emit many events: their sequence is the number of its last event, then their place in the unit.
OUTBOX_SHIFT: Final = 16


async def append_outbox(unit: Unit, work: Work, effect: fx.AppendOutbox) -> None:
    assert work.state is not None
    unit.outbox_rows += 1
    sequence = (work.state.seq << OUTBOX_SHIFT) + unit.outbox_rows
    record = OutboxRecord(work.run_id, sequence, effect.name, effect.payload, work.now_us)
    place = unit.outbox_rows.to_bytes(2, "big")
    for suffix, value in chunks_of(pack(record)):
        unit.tr.set_versionstamped_key(keys.outbox(work.ns) + b"\x33", place + suffix, value)
    unit.tr.set_versionstamped_key(keys.emitted(work.ns, work.run_id) + b"\x33", place, b"")


async def buffer_signal(unit: Unit, work: Work, effect: fx.BufferSignal) -> None:
    assert work.state is not None
    key = keys.inbox(work.ns, work.run_id, effect.name) + keys.integer(work.state.seq)
    set_large(unit.tr, key, effect.payload)
    work.signals_seen.pop(effect.name, None)


async def consume_signal(unit: Unit, work: Work, effect: fx.ConsumeSignal) -> None:
    clear_large(unit.tr, effect.key)
    work.signals_seen.clear()


async def open_escalation(unit: Unit, work: Work, effect: fx.OpenEscalation) -> None:
    assert work.state is not None
    record = EscalationRecord(
        work.ns, effect.escalation_id, work.run_id, work.state.workflow, "pending", effect.details, work.now_us
    )
    for status in ESCALATION_STATES:  # of the same question, if its step is tried again
        clear_large(unit.tr, keys.escalations(work.ns, status, effect.escalation_id))
    set_record(unit.tr, keys.escalations(work.ns, "pending", effect.escalation_id), pack(record))


async def close_escalation(unit: Unit, work: Work, effect: fx.CloseEscalation) -> None:
    key = keys.escalations(work.ns, "pending", effect.escalation_id)
    value = await get_large(unit.tr, key)
    if value is None:
        return
    record = unpack(EscalationRecord, value)
    clear_large(unit.tr, key, len(value))
    closed = msgspec.structs.replace(
        record, status=effect.status, values=effect.values, by=effect.by, closed_us=work.now_us
    )
    set_record(unit.tr, keys.escalations(work.ns, effect.status, effect.escalation_id), pack(closed))


#: What the index of incidents shows of a message; all of it is in the run's history.
INCIDENT_CHARACTERS: Final = 8000


async def open_incident(unit: Unit, work: Work, effect: fx.OpenIncident) -> None:
    assert work.state is not None
    code, message = effect.code[:INCIDENT_CHARACTERS], effect.message[:INCIDENT_CHARACTERS]
    record = IncidentRecord(work.ns, work.run_id, effect.incident_id, work.state.workflow, code, message, work.now_us)
    unit.tr.set(keys.incidents(work.ns, work.run_id, effect.incident_id), pack(record))


async def close_incident(unit: Unit, work: Work, effect: fx.CloseIncident) -> None:
    unit.tr.clear(keys.incidents(work.ns, work.run_id, effect.incident_id))


async def subscribe_message(unit: Unit, work: Work, effect: fx.SubscribeMessage) -> None:
    key = keys.subscription(work.ns, effect.name, effect.correlation_key, work.run_id, effect.wait_id)
    unit.tr.set(key, b"")
    unit.awaited.append((work.ns, work.run_id, effect))


async def unsubscribe_message(unit: Unit, work: Work, effect: fx.UnsubscribeMessage) -> None:
    unit.tr.clear(keys.subscription(work.ns, effect.name, effect.correlation_key, work.run_id, effect.wait_id))


async def defer(unit: Unit, work: Work, effect: fx.Defer) -> None:
    unit.put_off(work.ns, work.run_id, Continue(token=effect.token))


CARRYING: Final[Mapping[type, Carry]] = {
    fx.ScheduleTask: schedule_task,
    fx.WithdrawTask: withdraw_task,
    fx.StopTask: stop_task,
    fx.ExtendLease: extend_lease,
    fx.ReleaseLease: release_lease,
    fx.ArmTimer: arm_timer,
    fx.DisarmTimer: disarm_timer,
    fx.StartChild: start_child,
    fx.TellRun: tell_run,
    fx.TellParent: tell_parent,
    fx.AppendOutbox: append_outbox,
    fx.BufferSignal: buffer_signal,
    fx.ConsumeSignal: consume_signal,
    fx.OpenEscalation: open_escalation,
    fx.CloseEscalation: close_escalation,
    fx.OpenIncident: open_incident,
    fx.CloseIncident: close_incident,
    fx.SubscribeMessage: subscribe_message,
    fx.UnsubscribeMessage: unsubscribe_message,
    fx.Defer: defer,
}
