"""Is everything as it must be? Asked while it storms, when it is calm, and at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tests.simulation import ledger, linear, once
from tests.simulation.clocks import true_us
from windlass.engine import checking, keys
from windlass.engine.connected import Connected
from windlass.engine.core import events as e
from windlass.engine.core.invariants import live
from windlass.engine.core.state import CLOSED, Node, RunState
from windlass.engine.records import unpack

if TYPE_CHECKING:
    from tests.simulation.scenario import Simulation

#: In calm weather nothing that is due may be left lying for longer than this.
LATE_US: Final = 60_000_000


def _scan(simulation: Simulation) -> checking.Scan:
    return checking.scan_of(list(simulation.world.dump().items()))


def look(simulation: Simulation) -> list[str]:
    """What must hold at any moment."""
    return [*checking.check_rows(_scan(simulation)), *_offers(simulation)]


def _offers(simulation: Simulation) -> Iterator[str]:
    """No worker has more leased to it than it offers, and its engine knows what."""
    for session in _connected(simulation):
        assert session.capacity is not None
        held: Counter[str] = Counter()
        for each in session.held.values():
            held.update(dict(each.needs))
        name, used = session.record.worker, session.capacity.used()
        if any(used[unit] > amount for unit, amount in session.record.offer.items()):
            yield f"{name} offers {session.record.offer}, and {used} are leased to it"
        if any(used[unit] < held[unit] or (used[unit] > held[unit] and not session.reserved) for unit in used):
            yield f"{name} holds {dict(held)}, its engine counts {used}"


def _connected(simulation: Simulation) -> list[Connected]:
    return [
        session
        for engine in simulation.engines
        if engine.up
        for session in engine.engine.dispatch.connected.values()
        if session.capacity is not None
    ]


def runs(simulation: Simulation) -> list[RunState]:
    """All runs in the store."""
    tables = checking.Tables(_scan(simulation))
    return [unpack(RunState, entry.value) for entry in tables.entries("RUN", 2)]


def open_runs(simulation: Simulation) -> list[RunState]:
    return [state for state in runs(simulation) if state.status not in CLOSED]


def stuck(simulation: Simulation) -> Iterator[str]:
    """Calm has lasted: what is queued, leased or due has been dealt with."""
    now, late = true_us(), int(LATE_US * simulation.plan.pace)
    yield from checking.check_rows(_scan(simulation), settled=True, now_us=now - late)
    tables = checking.Tables(_scan(simulation))
    idle = any(not machine.worker.session.working for machine in simulation.workers)
    closed = {state.run_id for state in runs(simulation) if state.status in CLOSED}
    for state in open_runs(simulation):
        items = {
            entry.parts[2]: unpack(Node, entry.value)
            for entry in tables.entries("ITEM", 3, keys.items("default", state.run_id))
        }
        for path, node in live(state, items):
            if node.phase == "waiting" and node.child in closed:
                yield f"run {state.run_id}: {path!r} waits for its child {node.child}, which is closed"
            if node.phase == "leased" and 0 < node.lease_us < now - late:
                yield f"run {state.run_id}: {path!r} is leased to {node.session} since before {node.lease_us}"
            if node.phase == "queued" and node.queued_us < now - late and idle:
                yield f"run {state.run_id}: {path!r} is queued since {node.queued_us}, with idle workers"


def final(simulation: Simulation) -> Iterator[str]:
    """All runs are closed: nothing is left over, and clients were told the truth."""
    yield from checking.check_rows(_scan(simulation), settled=True, now_us=true_us())
    yield from _nothing_lost(simulation)
    yield from _signals(simulation)
    yield from _slots(simulation)
    yield from _units(simulation)
    yield from _results(simulation)
    for operation in simulation.clients.record.operations:
        if operation.outcome == "INTERNAL":
            yield f"a client was told INTERNAL: {operation}"
    closing = {state.workflow_id: state for state in runs(simulation) if state.parent is None}
    for workflow_id in simulation.clients.started:
        yield from linear.check(simulation.clients.record.of(workflow_id), closing.get(workflow_id))


def _nothing_lost(simulation: Simulation) -> Iterator[str]:
    """Every accepted start is a run; each name has one."""
    there = {state.run_id for state in runs(simulation)}
    names = Counter(state.workflow_id for state in runs(simulation) if state.parent is None)
    for operation in simulation.clients.record.operations:
        if operation.kind == "start" and operation.outcome == "ok" and operation.run_id not in there:
            yield f"an accepted run is lost: {operation}"
    yield from (f"{count} runs have the name {name}" for name, count in names.items() if count > 1)


def _signals(simulation: Simulation) -> Iterator[str]:
    """Each accepted signal came once into its run's history, each refused one never."""
    tables = checking.Tables(_scan(simulation))
    came: Counter[str] = Counter()
    compacted = {state.workflow_id for state in runs(simulation) if _compacted(tables, state.run_id)}
    for entry in tables.entries("EVENTS", 3):
        for event in e.decode_events(entry.value):
            if isinstance(event, e.SignalBuffered) or (isinstance(event, e.SignalTaken) and not event.buffered):
                came[event.payload.decode()] += 1
    for operation in simulation.clients.record.accepted_signals():
        count = came[f'"{operation.detail}"']
        least, most = {"ok": (1, 1), "unknown": (0, 1)}.get(operation.outcome, (0, 0))
        if operation.workflow_id in compacted:
            least = 0  # what the beginning of its history held is gone
        if not least <= count <= most:
            yield f"a signal came {count} times: {operation}"


def _compacted(tables: checking.Tables, run_id: str) -> bool:
    entry = next(iter(tables.entries("EVENTS", 3, keys.events("default", run_id))), None)
    return entry is not None and entry.parts[2] != 1


def _results(simulation: Simulation) -> Iterator[str]:
    """Each result is recorded for the attempt that made it, what a worker was told is recorded, is, and what must not
    run twice did not.
    """
    tables = checking.Tables(_scan(simulation))
    ended: set[tuple[str, int, str, int]] = set()
    began: set[tuple[str, int, str, int, str]] = set()
    whole: set[str] = set()
    for state in runs(simulation):
        rows = tables.entries("EVENTS", 3, keys.events("default", state.run_id))
        events = [event for entry in rows for event in e.decode_events(entry.value)]
        if len(events) != state.seq:
            continue  # compacted: the beginning is gone
        whole.add(state.run_id)
        yield from ledger.misplaced(state.run_id, events)
        if (definition := simulation.definitions.get(state.workflow)) is not None:
            yield from once.ran_again(state.run_id, definition, events, simulation.work.executed)
        began |= {(state.run_id, *attempt) for attempt in ledger.started(events)}
        ended |= {(state.run_id, *attempt) for attempt, _, _ in ledger.recorded(events)}
    for given in sorted(simulation.work.delivered):
        if given[0] in whole and given not in began:
            yield f"a worker was given a task that was never leased to it: {given}"
    for told in sorted(simulation.work.acknowledged):
        if told[0] in whole and told not in ended:
            yield f"a worker was told that its result is recorded, and it is not: {told}"


def _slots(simulation: Simulation) -> Iterator[str]:
    """With nothing to do, an engine knows of every slot that a worker granted it."""
    for machine in simulation.workers:
        session = machine.worker.session
        if session.held:
            yield f"{machine.name} still holds {session.held} tasks"
        if not session.registered:
            yield f"{machine.name} is not registered with any engine"
            continue
        views = [
            engine.engine.dispatch.connected[session.session_id].credits
            for engine in simulation.engines
            if session.session_id in engine.engine.dispatch.connected
        ]
        # One too few is never used again, one too many makes a task wait at this worker while another may be free. That
        # may happen for a while where credits taken back crossed tasks (Session._put_credits), and for no other reason.
        if not 0 <= sum(views) - session._credit <= simulation.work.taken_back[session.session_id]:
            yield f"{machine.name} granted {session._credit} slots, its engines know of {views}"


def _units(simulation: Simulation) -> Iterator[str]:
    """With nothing to do, all that workers offer is free."""
    for session in _connected(simulation):
        assert session.capacity is not None
        if any(session.capacity.used().values()):
            yield f"{session.record.worker} has nothing to do, and {session.capacity.used()} are taken"


def facts(simulation: Simulation) -> dict[str, int]:
    """Figures for the report."""
    found = runs(simulation)
    return {
        "runs": len(found),
        "events": sum(state.seq for state in found),
        "executions": sum(simulation.work.executed.values()),
        "messages": simulation.network.crossed,
        "calls": len(simulation.clients.record.operations),
        "commits": simulation.world.versions.version,
        "faults": sum(simulation.nemesis.injected.values()),
    }
