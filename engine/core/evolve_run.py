"""What events about the run as a whole do to its state. See `evolve`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from windlass.engine.core import events as e
from windlass.engine.core.limits import SPIN_BYTES
from windlass.engine.core.state import CancelRequest, Move, RunState
from windlass.engine.core.tree import Items


def _started(_: RunState | None, items: Items, event: e.RunStarted) -> RunState:
    return RunState(
        namespace=event.namespace,
        run_id=event.run_id,
        workflow_id=event.workflow_id,
        workflow=event.workflow,
        revision=event.revision,
        status="pending",
        context=event.context,
        queue=event.queue,
        priority=event.priority,
        created_us=event.at_us,
        started_us=0 if event.pending else event.at_us,
        config=event.config,
        metadata=event.metadata,
        parent=event.parent,
        root_run_id=event.root_run_id,
        forked_from=event.forked_from,
        virtual_time=event.virtual_time,
        timers=event.timers,
        timeout_us=event.timeout_us,
        timeout_from=event.timeout_from,
        move=Move("state", event.state),
        retry=event.retry,
    )


def _began(state: RunState, items: Items, event: e.RunBegan) -> RunState:
    return replace(state, started_us=event.at_us, timers=event.timers)


def _entered(state: RunState, items: Items, event: e.StateEntered) -> RunState:
    items.clear()
    return replace(
        state,
        state=event.state,
        visit=state.visit + 1,
        node=event.node,
        node_path="",
        stage="enter" if event.node is None else "body",
        cursor=0,
        outcome="",
        move=None,
        spin=state.spin + 1,
        entered_us=event.at_us,
    )


def _context_set(state: RunState, items: Items, event: e.ContextSet) -> RunState:
    cursor = state.cursor + (event.cause == "action")
    by_itself = event.cause in ("action", "transition")
    spin = state.spin + _spun(*event.values.values()) if by_itself else state.spin
    return replace(state, context={**state.context, **event.values}, cursor=cursor, spin=spin)


def _logged(state: RunState, items: Items, event: e.Logged) -> RunState:
    return replace(state, cursor=state.cursor + 1, spin=state.spin + _spun(event.message))


def _emitted(state: RunState, items: Items, event: e.Emitted) -> RunState:
    if not event.action:
        return state
    return replace(state, cursor=state.cursor + 1, spin=state.spin + _spun(event.payload))


def _spun(*written: str | bytes) -> int:
    """What an action writes counts like states: a loop that never waits would fill the store."""
    return 1 + sum(map(len, written)) // SPIN_BYTES


def _leaving(state: RunState, items: Items, event: e.Leaving) -> RunState:
    cursor = state.cursor if state.stage == "exit" else 0
    keep = state.node is not None and state.node_path.startswith("undo!")
    if not keep:
        items.clear()
    failure = event.move.failure or state.failure
    return replace(
        state,
        stage="exit",
        cursor=cursor,
        move=replace(event.move, on=event.on),
        node=state.node if keep else None,
        node_path=state.node_path if keep else "",
        failure=failure,
        incidents=(),
        deferred=state.deferred if keep else (),
    )


def _undone(state: RunState, items: Items, event: e.Undone) -> RunState:
    undo = state.undo[: event.index] + state.undo[event.index + 1 :]
    return replace(state, undo=undo, node=None, node_path="", failure=event.failure or state.failure)


def _run_closed(state: RunState, items: Items, event: e.RunClosed) -> RunState:
    items.clear()
    return replace(
        state,
        status=event.status,
        stage="closed",
        closed_us=event.at_us,
        output=event.output,
        failure=event.failure if event.failure is not None else state.failure,
        node=None,
        node_path="",
        move=None,
        undo=(),
        incidents=(),
        deferred=(),
        timers=(),
        paused_us=0,
        pause_reason="",
        held=False,
        step_until=0,
    )


def _cancel_requested(state: RunState, items: Items, event: e.CancelRequested) -> RunState:
    return replace(
        state,
        cancel=CancelRequest(event.source, event.reason, event.at_us),
        timers=event.timers,
        incidents=(),
        paused_us=0,
        pause_reason="",
        left_us=None,
        held=False,
        step_until=0,
    )


def _timers_set(state: RunState, items: Items, event: e.RunTimersSet) -> RunState:
    return replace(state, timers=event.timers)


def _paused(state: RunState, items: Items, event: e.RunPaused) -> RunState:
    return replace(
        state,
        paused_us=event.at_us,
        pause_reason=event.reason,
        timers=event.timers,
        left_us=event.left_us,
        step_until=0,
    )


def _unpaused(state: RunState, items: Items, event: e.RunUnpaused | e.RunStepped) -> RunState:
    return replace(state, paused_us=0, pause_reason="", timers=event.timers, left_us=None, held=False, step_until=0)


def _stepped(state: RunState, items: Items, event: e.RunStepped) -> RunState:
    return replace(_unpaused(state, items, event), step_until=event.until, spin=0)


def _incident_opened(state: RunState, items: Items, event: e.IncidentOpened) -> RunState:
    return replace(state, incidents=(*state.incidents, event.incident), failure=event.failure or state.failure)


def _incident_resolved(state: RunState, items: Items, event: e.IncidentResolved) -> RunState:
    left = tuple(incident for incident in state.incidents if incident.incident_id != event.incident_id)
    return replace(state, incidents=left, spin=0)


def _signal_buffered(state: RunState, items: Items, event: e.SignalBuffered) -> RunState:
    return replace(state, inbox=state.inbox + 1)


def _signal_dropped(state: RunState, items: Items, event: e.SignalDropped) -> RunState:
    return replace(state, inbox=state.inbox - 1)


def _update_applied(state: RunState, items: Items, event: e.UpdateApplied) -> RunState:
    return replace(state, context={**state.context, **event.values})


def _deferred(state: RunState, items: Items, event: e.Deferred) -> RunState:
    return replace(state, deferred=(*state.deferred, event.token))


def _continued(state: RunState, items: Items, event: e.Continued) -> RunState:
    return replace(state, deferred=tuple(token for token in state.deferred if token != event.token))


def _fail_requested(state: RunState, items: Items, event: e.FailRequested) -> RunState:
    return replace(state, failure=event.failure, paused_us=0, pause_reason="", held=False, left_us=None, step_until=0)


def _work_held(state: RunState, items: Items, event: e.WorkHeld) -> RunState:
    return replace(state, held=True)


def _compacted(state: RunState | None, items: Items, event: e.Compacted) -> RunState:
    items.clear()
    for path, node in event.items.items():
        items[path] = node
    return event.state


APPLIERS: dict[type, Callable[[Any, Items, Any], RunState]] = {
    e.RunStarted: _started,
    e.RunBegan: _began,
    e.StateEntered: _entered,
    e.ContextSet: _context_set,
    e.Logged: _logged,
    e.Emitted: _emitted,
    e.Leaving: _leaving,
    e.Undone: _undone,
    e.RunClosed: _run_closed,
    e.CancelRequested: _cancel_requested,
    e.RunTimersSet: _timers_set,
    e.RunPaused: _paused,
    e.RunUnpaused: _unpaused,
    e.RunStepped: _stepped,
    e.IncidentOpened: _incident_opened,
    e.IncidentResolved: _incident_resolved,
    e.SignalBuffered: _signal_buffered,
    e.SignalDropped: _signal_dropped,
    e.UpdateApplied: _update_applied,
    e.Deferred: _deferred,
    e.Continued: _continued,
    e.FailRequested: _fail_requested,
    e.WorkHeld: _work_held,
    e.Compacted: _compacted,
}
