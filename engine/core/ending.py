"""How runs end: completed, failed, terminated, or cancelled in good order."""

from __future__ import annotations

import msgspec

from windlass.engine.core import compensation, jsontext, pausing, stopping, tree
from windlass.engine.core.commands import Cancel, Fail, Failure, Terminate
from windlass.engine.core.effects import ArmTimer, DisarmTimer, TellParent
from windlass.engine.core.events import (
    CancelRequested,
    FailRequested,
    Leaving,
    NodeChanged,
    NodesStopped,
    RunClosed,
    RunTimersSet,
    Undone,
)
from windlass.engine.core.limits import SHIELD_US
from windlass.engine.core.refusal import Rejection
from windlass.engine.core.routing import fail_move
from windlass.engine.core.selectors import select
from windlass.engine.core.state import Move, Node
from windlass.engine.core.turn import Problem, Timers, Turn, evaluating, run_facts


def complete(turn: Turn) -> None:
    """Raises Problem when the output cannot be selected."""
    definition, state = turn.definition, turn.state
    if state.inbox and definition.unread_signals == "refuse":
        message = f"{state.inbox} signals were never read, and this workflow refuses to complete then"
        _fail_at_the_end(turn, Failure("UNREAD_SIGNALS", message, retryable=False))
        return
    output = state.result
    if definition.output is not None:
        selector, extra = definition.output, {"result": state.result, "run": run_facts(definition, state)}
        output = evaluating(lambda: select(selector, state.context, extra))
    if definition.output_schema is not None:
        problems = jsontext.misfit(definition.output_schema, output)
        if problems:
            raise Problem("OUTPUT_SCHEMA_MISMATCH", f"the run's output does not fit: {problems}")
    close_run(turn, "completed", output)


def _fail_at_the_end(turn: Turn, failure: Failure) -> None:
    """The exit actions are through; what completed is undone as for any failure."""
    move = fail_move(turn, failure)
    if compensation.next_undo(turn.definition, turn.state, move) is None:
        close_run(turn, "failed", failure=failure)
    else:
        turn.apply(Leaving(turn.now_us, move, "failure"))


def close_run(turn: Turn, status: str, output: bytes = b"", failure: Failure | None = None) -> None:
    state = turn.state
    for timer, due_us in state.timers:
        turn.owe(DisarmTimer(timer=timer, due_us=due_us))
    for incident in state.incidents:
        turn.end_incident(incident.incident_id)
    turn.apply(RunClosed(turn.now_us, status, output, failure))
    turn.later.clear()
    turn.closed.clear()
    if state.parent is not None and not state.parent.detached:
        told = failure if status != "cancelled" else None  # the parent sees CHILD_CANCELLED
        turn.owe(TellParent(parent=state.parent, status=status, output=output, failure=told))


def close_cancelled(turn: Turn) -> None:
    """The failure says who cancelled it and why; the last error, if there was one, is its cause."""
    cancel, last = turn.state.cancel, turn.state.failure
    assert cancel is not None
    message = f"cancelled by {cancel.source}" + (f": {cancel.reason}" if cancel.reason else "")
    cause = "" if last is None else f"{last.code}: {last.message}"
    close_run(turn, "cancelled", failure=Failure("CANCELLED", message, retryable=False, cause=cause))


def drop_open(turn: Turn, reason: str, undo: bool = False) -> None:
    """Take back whatever is open; the caller leaves the state or, with `undo`, closes the run.

    A compensation that has begun is not interrupted by anything but the end of the run.
    """
    state = turn.state
    if state.node_path.startswith("undo!") and not undo:
        return
    if state.node is not None and state.node.phase != "done":
        stopping.drop(turn, state.node_path, state.node, reason)


def terminate(turn: Turn, command: Terminate) -> None:
    """At once: no exit actions, no compensation."""
    reason = command.reason or "terminated"
    drop_open(turn, reason, undo=True)
    close_run(turn, "terminated", failure=Failure("TERMINATED", f"{reason} (by {command.source})", retryable=False))


def fail(turn: Turn, command: Fail) -> None:
    """An operator ends the run as failed; exit actions and compensation run."""
    if turn.state.cancel is not None:
        raise Rejection("RUN_CANCELLING", "the run is being cancelled; terminate it to end it at once")
    fail_run(turn, Failure(command.code or "FAILED", command.reason, retryable=False), "fail")


def fail_run(turn: Turn, failure: Failure, on: str) -> None:
    """Leave for the end, whatever the run stands at."""
    held = turn.state.held
    turn.apply(FailRequested(turn.now_us, failure))
    drop_open(turn, failure.message)
    leave_by(turn, fail_move(turn, failure), on)
    if held:
        _go_on_undoing(turn)


def _go_on_undoing(turn: Turn) -> None:
    """The pause is over without an Unpause: a compensation that it withheld goes on, once the run is leaving."""
    state = turn.state
    if state.node is not None and state.node_path.startswith("undo!"):
        pausing.release(turn, state.node_path, state.node)


def leave_by(turn: Turn, move: Move, on: str) -> None:
    """Leave although the body has not ended by itself."""
    _give_up_parked_undo(turn)
    for incident in turn.state.incidents:
        turn.end_incident(incident.incident_id)
    turn.later.clear()
    turn.closed.clear()
    turn.apply(Leaving(turn.now_us, move, on))


def cancel(turn: Turn, command: Cancel) -> None:
    """Ask the run to end: nothing new begins, running tasks are told to stop and get the grace time to do so."""
    state = turn.state
    if state.cancel is not None:
        return
    _give_up_parked_undo(turn)
    state = turn.state
    for incident in state.incidents:
        turn.end_incident(incident.incident_id)
    for timer, due_us in state.timers:
        turn.owe(DisarmTimer(timer=timer, due_us=due_us))
    undoing = state.node_path.startswith("undo!") and state.node is not None
    grace: Timers = ()
    if state.node is not None and not undoing and _may_run(state.node):
        grace = (("run:grace", turn.now_us + turn.definition.cancel_grace_us),)
        turn.owe(ArmTimer(timer="run:grace", due_us=grace[0][1]))
    turn.apply(CancelRequested(turn.now_us, command.source, command.reason, grace))
    if state.node is not None and not undoing:
        stopped = _halt(turn, state.node_path, state.node, f"cancelled: {command.reason}")
        if stopped:
            turn.apply(NodesStopped(turn.now_us, tuple(stopped), "cancelled"))


def _may_run(node: Node) -> bool:
    """True if some task may be with a worker now."""
    return node.phase == "leased" or (node.phase == "joining" and tree.active(node))


def _give_up_parked_undo(turn: Turn) -> None:
    """A compensation that stands on an incident cannot go on by itself: it counts as failed, the others follow."""
    state = turn.state
    if state.node_path.startswith("undo!") and state.node is not None and state.incidents:
        drop_open(turn, "left on an incident", undo=True)
        turn.apply(undone(turn, state.failure))


def undone(turn: Turn, failure: Failure | None) -> Undone:
    """The event that ends the compensation under way."""
    index = tree.undo_index(turn.state.node_path)
    return Undone(turn.now_us, index, failure, turn.state.undo[index].state)


def _halt(turn: Turn, path: str, node: Node, reason: str) -> list[str]:
    """Stop all but leased tasks, which are told to stop. Gives the paths of what ended."""
    if node.phase in ("done", "ready"):
        return []
    if node.phase not in ("leased", "joining"):
        stopping.drop(turn, path, node, reason)
        return [path]
    if node.timers:
        turn.disarm(node.timers)
        turn.apply(NodeChanged(turn.now_us, path, msgspec.structs.replace(node, timers=()), "cancelling"))
    if node.phase == "leased":
        stopping.stop_task(turn, path, node, reason)
        return []
    stopped = []
    for name, child in node.children.items():
        stopped += _halt(turn, tree.child_path(path, name), child, reason)
    if stopping.has_open_items(node):
        for item_path, item in list(turn.items.under(path)):
            stopped += _halt(turn, item_path, item, reason)
    return stopped


def step_of_cancel(turn: Turn) -> bool:
    """Once the last task has stopped: exit actions and compensation, shielded, with a deadline of their own."""
    state = turn.state
    undoing = state.node is not None and state.node_path.startswith("undo!")
    if state.node is not None and tree.active(state.node) and not undoing:
        return False
    for timer, due_us in state.timers:
        turn.owe(DisarmTimer(timer=timer, due_us=due_us))
    move = Move("cancel", undo="" if "cancel" in turn.definition.compensate_on else None)
    here = turn.definition.states[state.state] if state.state else None
    quiet = not undoing and compensation.next_undo(turn.definition, state, move) is None
    if here is None or (not here.exit and quiet):
        turn.apply(RunTimersSet(turn.now_us, (), "stopped"))
        close_cancelled(turn)
        return True
    due_us = turn.now_us + SHIELD_US
    turn.owe(ArmTimer(timer="run:shield", due_us=due_us))
    turn.apply(RunTimersSet(turn.now_us, (("run:shield", due_us),), "shielded"))
    leave_by(turn, move, "cancel")
    _go_on_undoing(turn)
    return True


def grace_over(turn: Turn) -> None:
    """Tasks that did not stop in time lose their lease."""
    state = turn.state
    turn.apply(RunTimersSet(turn.now_us, (), "grace over"))
    if state.node is not None and tree.active(state.node):
        stopping.drop(turn, state.node_path, state.node, "the grace time is over")
        turn.apply(NodesStopped(turn.now_us, (state.node_path,), "grace over"))


def shield_over(turn: Turn) -> None:
    drop_open(turn, "the time for exit actions and compensation is over", undo=True)
    close_cancelled(turn)
