"""What lies in the queues, and why a queued task is not running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from windlass.engine import keys
from windlass.engine.core.state import RunState
from windlass.engine.core.units import split_kind, units_of
from windlass.engine.records import SessionRecord, unpack
from windlass.engine.survey import survey
from windlass.storage.port import Row, Storage, Transaction

if TYPE_CHECKING:
    from windlass.engine.capacity import QueueKey
    from windlass.engine.core.explain import Reason
    from windlass.engine.engine import Engine


#: Workers named one by one.
SHOWN_MAX: Final = 5
#: Tasks before another one are counted up to this.
BEFORE_MAX: Final = 1000


class Depth(msgspec.Struct):
    """One kind of task in one queue."""

    queue: str
    kind: str
    queued: int
    oldest_us: int


async def kinds_in(tr: Transaction, ns: str, queue: str) -> list[str]:
    """The kinds of which tasks lie in a queue."""
    found: list[str] = []
    head = keys.queue_named(ns, queue)
    begin = head
    while rows := await tr.get_range(begin, keys.end(head), limit=1, snapshot=True):
        found.append(str(keys.unpack(rows[0][0])[3]))
        begin = keys.end(keys.queue(ns, queue, found[-1]))
    return found


async def depths(storage: Storage, ns: str) -> list[Depth]:
    """Every queue and kind that holds tasks, with what it holds."""
    found = [Depth(queue, kind, 0, 0) for queue, kind in await storage.read(lambda tr: _kinds(tr, ns))]

    def see(at: int, rows: Sequence[Row]) -> None:
        if rows:
            oldest_us = min(int(str(keys.unpack(key)[6])) for key, _ in rows)
            depth = found[at]
            depth.queued += len(rows)
            depth.oldest_us = min(depth.oldest_us or oldest_us, oldest_us)

    await survey(storage, [keys.queue(ns, depth.queue, depth.kind) for depth in found], see)
    return [depth for depth in found if depth.queued]


async def _kinds(tr: Transaction, ns: str) -> list[tuple[str, str]]:
    """The queues and kinds that hold tasks, by skipping from one to the next."""
    found: list[tuple[str, str]] = []
    head = keys.queues(ns)
    begin = head
    while rows := await tr.get_range(begin, keys.end(head), limit=1, snapshot=True):
        _, _, queue, kind, *_ = keys.unpack(rows[0][0])
        found.append((str(queue), str(kind)))
        begin = keys.end(keys.queue(ns, *found[-1]))
    return found


async def why_queued(engine: Engine, state: RunState, reason: Reason) -> tuple[str, str]:
    """Why a queued task does not start, with its place in the queue, and what to do about it."""
    why, advice = await _why(engine, state, reason)
    before = await _before(engine, state, reason)
    place = f"tasks before it in its queue: {before}" if before else "it is the next in its queue"
    return f"{why}; {place}{' or more' if before == BEFORE_MAX else ''}", advice


async def why_silent(engine: Engine, session_id: str) -> str:
    """What comes of a leased task whose worker is not heard of; "" while it is."""
    value = await engine.storage.read(lambda tr: tr.get(keys.session(session_id)))
    if value is None:
        return "that worker is gone: in a moment the task goes to others"
    record = unpack(SessionRecord, value)
    left_us = max(0, record.expires_us - engine.clock.now_us())
    silent_us = engine.sessions.lease_us - left_us
    if session_id not in engine.dispatch.connected and record.engine == engine.engine_id:
        what = "that worker is not connected"
    elif silent_us > engine.sessions.lease_us * 2 // 3:  # two heartbeats did not come
        what = f"that worker is silent for {silent_us // 1_000_000} s"
    else:
        return ""
    return f"{what}: unless it comes back, the task goes to others in {-(-left_us // 1_000_000)} s"


async def _before(engine: Engine, state: RunState, reason: Reason) -> int:
    """Tasks that come before it: of a higher priority, or older."""
    head = keys.queue(state.namespace, reason.queue, reason.task_kind)
    place = keys.queue_place(state.priority, reason.since_us)

    async def body(tr: Transaction) -> int:
        found = 0
        for shard in range(engine.transition.shards):
            begin = head + keys.integer(shard)
            found += len(await tr.get_range(begin, begin + place, limit=BEFORE_MAX, snapshot=True))
        return min(found, BEFORE_MAX)

    return await engine.storage.read(body)


async def _why(engine: Engine, state: RunState, reason: Reason) -> tuple[str, str]:
    there = [s for s in await engine.sessions.all() if s.namespace == state.namespace]
    sessions = [s for s in there if _takes_tasks(engine, s)]
    queue, (kind, needs) = reason.queue, split_kind(reason.task_kind)
    if not sessions:
        lack = "every worker that is there stops or is cut off" if there else "no worker is connected"
        return f"{reason.what}; {lack}", _start_one(queue, kind)
    on_queue = [s for s in sessions if queue in s.queues]
    if not on_queue:
        served = ", ".join(sorted({q for s in sessions for q in s.queues}))
        return (
            f"{reason.what}; no worker serves queue {queue!r} (workers serve: {served})",
            _start_one(queue, kind),
        )
    able = [s for s in on_queue if kind in s.kinds]
    if not able:
        return f"{reason.what}; no worker on queue {queue!r} can run {kind!r}", _advice(kind, on_queue)
    willing = [s for s in able if s.session not in reason.unable]
    if not willing:
        lack = "every worker that serves it lacks something that the task needs, and is asked again within a minute"
        return f"{reason.what}; {lack}", "give these workers what they lack, or start one that has it"
    able = willing
    if needs:
        short = await _short_of(engine, able, (state.namespace, queue, reason.task_kind))
        if short is not None:
            return f"{reason.what}; {short[0]}", short[1]
        able = [s for s in able if lacking(s.offer, dict(units_of(needs))) is None]
    slots = sum(s.slots for s in able)
    return f"{reason.what}; all {slots} slots of {len(able)} able workers are busy", "wait, or start more workers"


def _takes_tasks(engine: Engine, record: SessionRecord) -> bool:
    """False for a worker that drains, or that this engine looks after and cannot reach. The store knows neither."""
    connected = engine.dispatch.connected.get(record.session)
    if connected is None:
        return record.engine != engine.engine_id
    return not connected.record.draining


def lacking(offer: Mapping[str, int], needs: Mapping[str, int]) -> str | None:
    """The first unit of which there is less than needed; None if there is enough of all."""
    return next((name for name, amount in needs.items() if offer.get(name, 0) < amount), None)


async def used_units(engine: Engine, record: SessionRecord) -> dict[str, int]:
    """What the leases of a session take of its offer, by name."""
    connected = engine.dispatch.connected.get(record.session)
    if connected is not None:
        return connected.capacity.used() if connected.capacity is not None else {}
    if not record.offer:
        return {}
    used = dict.fromkeys(record.offer, 0)
    for _, lease in await engine.sessions.leases_of(record.session):
        for name, amount in units_of(lease.needs):
            if name in used:
                used[name] += amount
    return used


async def tasks_held(engine: Engine, record: SessionRecord) -> int:
    """Tasks that a worker holds; of one that this engine does not look after, or is cut off, by its leases."""
    connected = engine.dispatch.connected.get(record.session)
    return len(connected.held if connected is not None else await engine.sessions.leases_of(record.session))


def _saved_for(engine: Engine, record: SessionRecord, ring: QueueKey) -> str:
    """What another task needs, if this worker keeps its units for that one."""
    connected = engine.dispatch.connected.get(record.session)
    if connected is None or connected.capacity is None:
        return ""
    saving = connected.capacity.saving(ring, engine.dispatch.backlog | engine.dispatch.claiming)
    return split_kind(saving[2])[1] if saving is not None else ""


async def _short_of(engine: Engine, able: list[SessionRecord], ring: QueueKey) -> tuple[str, str] | None:
    """Why none of these workers has the units that a task needs, and what to do; None if one of them has."""
    what = split_kind(ring[2])[1]
    needs = dict(units_of(what))
    offering = [s for s in able if lacking(s.offer, needs) is None]
    if not offering:
        most = {name: max(s.offer.get(name, 0) for s in able) for name in needs}
        has = ", ".join(f"{name}={amount}" for name, amount in sorted(most.items()))
        flags = " ".join(f"--offer {name}={amount}" for name, amount in sorted(needs.items()))
        return f"no worker that can run it offers what it needs ({what}; the most offered is {has})", (
            f"start one: windlass worker {flags}"
        )
    full = []
    for session in offering[:SHOWN_MAX]:
        used = await used_units(engine, session)
        free = {name: session.offer[name] - used.get(name, 0) for name in needs}
        name = lacking(free, needs)
        if name is None:
            saved = _saved_for(engine, session, ring)
            if not saved:
                return None
            full.append(f"{session.worker} keeps it for a task that needs {saved} and was passed too often")
            continue
        full.append(f"{session.worker} has {max(0, free[name])} of {session.offer[name]} {name} free")
    return f"it needs {what}, which is in use now: {', '.join(full)}", "wait, or start more workers that offer it"


def _start_one(queue: str, kind: str) -> str:
    handler = kind.partition(":")[2]
    code = f" --handlers MODULE, a module that registers {handler!r}" if handler else ""
    return f"start one: windlass worker --queue {queue}{code}"


def _advice(kind: str, sessions: list[SessionRecord]) -> str:
    runtime, _, handler = kind.partition(":")
    if handler:
        return f"start a worker whose --handlers module registers {handler!r}"
    return f"start a worker with --runtimes {runtime}"
