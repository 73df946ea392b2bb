"""The rows of a run: its record, items, events and index rows, written together, and removed together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from windlass.engine import keys
from windlass.engine.core.branches import has_items
from windlass.engine.core.compaction import compacted
from windlass.engine.core.events import encode_events
from windlass.engine.core.state import CLOSED, RunState
from windlass.engine.records import ESCALATION_STATES, clear_large, pack, set_large
from windlass.engine.work import Work

if TYPE_CHECKING:
    from windlass.engine.unit import Unit


def write_run(unit: Unit, work: Work) -> None:
    """Write what a unit changed of one run. Raises EngineError PAYLOAD_TOO_LARGE for a record beyond all limits."""
    state, before, tr = work.state, work.before, unit.tr
    assert state is not None
    set_large(tr, keys.run_of(work.packed), pack(_compacted(unit, work)), work.before_bytes)
    if work.cleared and before is not None and has_items(work.definition):
        begin = keys.items(work.ns, work.run_id)
        tr.clear_range(begin, keys.end(begin))
    for path in work.changed:
        node = work.loaded[path]
        if node is None:
            clear_large(tr, keys.item_of(work.packed, path), work.item_bytes.get(path, 0))
        else:
            set_large(tr, keys.item_of(work.packed, path), pack(node), work.item_bytes.get(path, 0))
    if work.events:
        first = state.seq - len(work.events) + 1
        set_large(tr, keys.event_of(work.packed, first), encode_events(work.events))
    if before is None or before.status != state.status:
        _write_listing(unit, state, before)
    unit.after.touched.append((work.ns, work.run_id, state.seq))


def _write_listing(unit: Unit, state: RunState, before: RunState | None) -> None:
    ns, tr = state.namespace, unit.tr
    if before is not None:
        tr.clear(keys.listed(ns, state.workflow, before.status, state.run_id))
    tr.set(keys.listed(ns, state.workflow, state.status, state.run_id), b"")
    was_open = before is not None and before.status not in CLOSED
    is_open = state.status not in CLOSED
    if was_open != is_open:
        tr.add(keys.open_runs(ns, state.workflow, state.revision), 1 if is_open else -1)
    if not is_open and (was_open or before is None):
        unit.after.closed.append(state)


def _compacted(unit: Unit, work: Work) -> RunState:
    """Begin a fresh log now and then, so that a run that loops for years keeps a bounded history: the state after it.

    The new log begins with an event of its own that carries the whole state. What lies before the fresh log made
    last time is dropped: so at least `history_keep` events are always there. A run whose map may be open is passed
    over.
    """
    state, before, keep = work.state, work.before, unit.transition.history_keep
    assert state is not None
    if before is None or state.seq // keep == before.seq // keep or state.status in CLOSED:
        return state
    if has_items(work.definition) and state.node is not None:
        return state
    after, event = compacted(state, {}, unit.now_us)
    set_large(unit.tr, keys.event_of(work.packed, after.seq), encode_events([event]))
    if state.compacted:
        unit.tr.clear_range(keys.events(work.ns, work.run_id), keys.event_of(work.packed, state.compacted))
    work.state = after
    return after


#: Outbox rows removed with their run; of more than these the sweeper removes the rest, so many at a time.
EMITTED_AT_ONCE: Final = 20
EMITTED_BATCH: Final = 500


async def clear_run(unit: Unit, state: RunState) -> None:
    """Remove a closed run with all of it: record, items, events, inbox, index rows, incidents, questions, outbox rows.

    Its workflow id becomes free, unless a newer run has it. What stays has a time of its own: remembered requests, and
    messages kept for whoever waits for them.
    """
    tr, ns, run_id = unit.tr, state.namespace, state.run_id
    name = keys.workflow_id(ns, state.workflow_id)
    if state.workflow_id and await tr.get(name) == run_id.encode():
        tr.clear(name)
    clear_large(tr, keys.run(ns, run_id))
    for head in (keys.items(ns, run_id), keys.events(ns, run_id), keys.inbox(ns, run_id), keys.incidents(ns, run_id)):
        tr.clear_range(head, keys.end(head))
    for status in ESCALATION_STATES:
        begin = keys.escalations(ns, status) + keys.text(f"{run_id}:")[:-1]
        tr.clear_range(begin, begin + b"\xff")
    tr.clear(keys.listing(ns, state.workflow, state.status, run_id))
    if await clear_emitted(unit, ns, run_id, EMITTED_AT_ONCE):
        tr.set(keys.expiry(unit.now_us, "emitted", ns, run_id), b"")


async def clear_emitted(unit: Unit, ns: str, run_id: str, most: int = EMITTED_BATCH) -> bool:
    """Remove outbox rows of a run that is gone. Whether there may be more of them."""
    head = keys.emitted(ns, run_id)
    rows = await unit.tr.get_range(head, keys.end(head), limit=most)
    for key, _ in rows:
        clear_large(unit.tr, keys.outbox(ns) + key[len(head) :])
        unit.tr.clear(key)
    return len(rows) == most
