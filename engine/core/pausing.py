"""Pause and unpause: what runs finishes, and nothing new begins.

While paused, results are recorded, waits are fed and timers fire. The run's own timeout stops, unless it is asked to go
on; timers with an absolute time do not.

A *step* is what a debugger calls "step over": the run finishes the state it stands in (what is left of its enter
actions, body, transition and exit actions) and is paused again as it enters the next state, before anything of that
one is done. It ends the pause for as long as it lasts, so it may wait for a signal or stand on an incident like any
run; whatever leads into the next state ends it."""

from __future__ import annotations

from msgspec.structs import replace

from windlass.engine.core import attempts, joining, tree
from windlass.engine.core.branches import branch_at, task_of
from windlass.engine.core.commands import Pause, Step, Unpause
from windlass.engine.core.effects import ArmTimer, DisarmTimer
from windlass.engine.core.events import NodeChanged, RunPaused, RunStepped, RunUnpaused
from windlass.engine.core.refusal import Rejection
from windlass.engine.core.scheduling import withdraw
from windlass.engine.core.state import Node, RunState
from windlass.engine.core.stopping import has_open_items
from windlass.engine.core.turn import Turn

TIMEOUT = "run:timeout"


def pause(turn: Turn, command: Pause) -> None:
    state = turn.state
    if state.cancel is not None:
        raise Rejection("RUN_CANCELLING", "the run is being cancelled and cannot be paused")
    if state.paused_us:
        return
    stop(turn, command.reason, keep_timeout=command.keep_timeout)
    if state.node is not None and tree.active(state.node):
        _hold(turn, state.node_path, state.node)


def stop(turn: Turn, reason: str, *, keep_timeout: bool = False) -> None:
    """Pause a run that has nothing queued."""
    state = turn.state
    if keep_timeout:
        turn.apply(RunPaused(turn.now_us, reason, state.timers, None))
        return
    due = next((due_us for timer, due_us in state.timers if timer == TIMEOUT), None)
    timers = tuple(timer for timer in state.timers if timer[0] != TIMEOUT)
    if due is not None:
        turn.owe(DisarmTimer(timer=TIMEOUT, due_us=due))
    left_us = None if due is None else max(0, due - turn.now_us)
    turn.apply(RunPaused(turn.now_us, reason, timers, left_us))


def _hold(turn: Turn, path: str, node: Node) -> None:
    """Take queued tasks out of their queues."""
    if node.phase == "queued":
        withdraw(turn, path, task_of(branch_at(turn.definition, turn.state, path)), node)
        timers = turn.disarm(node.timers, keep=("s2c", "body", "pollmax"))
        turn.apply(NodeChanged(turn.now_us, path, replace(node, phase="held", timers=timers), "paused"))
    if node.phase != "joining":
        return
    for name, child in node.children.items():
        _hold(turn, tree.child_path(path, name), child)
    if has_open_items(node):
        for item_path, item in list(turn.items.under(path)):
            _hold(turn, item_path, item)


def unpause(turn: Turn, command: Unpause) -> None:
    """Also ends a step that is under way: the run goes on after it."""
    state = turn.state
    if not state.paused_us and not state.step_until:
        return
    turn.apply(RunUnpaused(turn.now_us, _timers_again(turn)))
    _go_on(turn, state)


def step(turn: Turn, command: Step) -> None:
    """See the module. A run that has not begun does its first state in its first step."""
    state = turn.state
    if not state.paused_us:
        what = "a step of it is under way" if state.step_until else f"the run is {state.status}"
        raise Rejection("RUN_NOT_PAUSED", f"{what}; only a paused run can be stepped", run_id=state.run_id)
    until = state.visit + (2 if state.stage == "start" else 1)
    turn.apply(RunStepped(turn.now_us, _timers_again(turn), until))
    _go_on(turn, state)


def _timers_again(turn: Turn) -> tuple[tuple[str, int], ...]:
    """The run's timers with its timeout, which stood still."""
    state = turn.state
    if state.left_us is None:
        return state.timers
    due_us = turn.now_us + state.left_us
    turn.owe(ArmTimer(timer=TIMEOUT, due_us=due_us))
    return (*state.timers, (TIMEOUT, due_us))


def _go_on(turn: Turn, before: RunState) -> None:
    turn.look_for_event = True
    if before.held and before.node is not None:
        release(turn, before.node_path, before.node)


def release(turn: Turn, path: str, node: Node) -> None:
    """Queue what was held, the innermost first, and let joins and maps go on."""
    if node.phase == "held":
        branch = branch_at(turn.definition, turn.state, path)
        ready = attempts.to_start(turn, path, replace(node, since_us=0), branch)
        queued = attempts.queued_again(turn, path, ready, branch)
        turn.apply(NodeChanged(turn.now_us, path, queued, "unpaused"))
    if node.phase != "joining":
        return
    for name, child in node.children.items():
        release(turn, tree.child_path(path, name), child)
    if node.counts:
        for item_path, item in list(turn.items.under(path)):
            release(turn, item_path, item)
    found = turn.node(path)
    if found is not None and found.phase == "joining":
        joining.join(turn, path, found)
