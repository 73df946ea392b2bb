"""The run's way through its states.

`step` looks at where the run stands and does the next thing; it is called until there is nothing left to do. All that
it needs to know is in the state (stage, cursor, node, move), so it does not matter what stopped it: a pause, an
incident, a restart, or too many states in one decision.

    start ─► enter actions ─► body ─► route ─► exit actions ─► compensation ─► next state, or the end
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from windlass.engine.core import actions, compensation, ending, evolve, incidents, pausing, tree
from windlass.engine.core.branches import NOTHING, branch_at
from windlass.engine.core.commands import Cancel, Failure
from windlass.engine.core.definition import Action, State, TaskAction, WaitBody
from windlass.engine.core.effects import Defer
from windlass.engine.core.events import BodyEnded, Deferred, Leaving, NodeOpened, StateEntered
from windlass.engine.core.joining import winding_down
from windlass.engine.core.limits import CONTEXT_BYTES_MAX, ENTRIES_MAX, SPIN_MAX, WORK_YIELD, context_bytes
from windlass.engine.core.opening import open_branch
from windlass.engine.core.routing import choose, ended, event_names, fail_move, take, unhandled
from windlass.engine.core.state import CLOSED, Move, Node, RunState
from windlass.engine.core.tree import good
from windlass.engine.core.turn import Problem, Turn


def step(turn: Turn) -> bool:
    """Do the next thing; False if the run now waits for something."""
    state = turn.state
    if state.status in CLOSED:
        return False
    if winding_down(state):
        return _guarded(turn, _take) if _succeeded_in_time(state) else ending.step_of_cancel(turn)
    if state.paused_us or (state.deferred and _yielded(state.deferred)):
        return False
    node = state.node
    if state.incidents and incidents.blocking(turn):
        return False
    if node is not None:
        return node.phase == "done" and _guarded(turn, _take)
    match state.stage:
        case "start":
            return _start(turn)
        case "enter":
            return _guarded(turn, _enter_step)
        case "route":
            return _guarded(turn, _route)
        case _:
            return _guarded(turn, _exit_step)


def _succeeded_in_time(state: RunState) -> bool:
    """What got its success in the grace time of a cancel is done: a state can be undone, an exit action is through."""
    node = state.node
    return node is not None and node.phase == "done" and good(node.outcome) and not state.node_path.startswith("undo!")


def _yielded(deferred: tuple[str, ...]) -> bool:
    return any(token.startswith("enter:") for token in deferred)


def _guarded(turn: Turn, action: Callable[[Turn], bool]) -> bool:
    """Run one step; a problem of the definition on this data parks the run where it stands."""
    try:
        return action(turn)
    except Problem as problem:
        kind = "loop" if problem.code == "ENDLESS_LOOP" else "flow"
        incidents.from_problem(turn, "", kind, problem)
        return False


def _start(turn: Turn) -> bool:
    state = turn.state
    if not state.started_us or state.move is None:
        return False
    _enter(turn, state.move.to, "start")
    return True


def perform(turn: Turn, move: Move, on: str) -> None:
    """Exit actions and compensation are through: go."""
    match move.kind:
        case "state":
            _enter(turn, move.to, on)
        case "complete":
            ending.complete(turn)
        case "fail":
            ending.close_run(turn, "failed", failure=move.failure)
        case _:
            ending.close_cancelled(turn)


def _enter(turn: Turn, name: str, on: str) -> None:
    turn.entries += 1
    target = turn.definition.states[name]
    if turn.state.step_until and turn.state.visit + 1 >= turn.state.step_until:
        turn.apply(StateEntered(turn.now_us, name, on, None, turn.state.visit + 1))
        pausing.stop(turn, "one step is done")
    elif turn.entries > ENTRIES_MAX or turn.work > WORK_YIELD:
        turn.apply(StateEntered(turn.now_us, name, on, None, turn.state.visit + 1))
        token = f"enter:{turn.state.visit}"
        turn.apply(Deferred(turn.now_us, token))
        turn.owe(Defer(token=token))
    elif target.enter or target.step is None or turn.state.spin >= SPIN_MAX:
        turn.apply(StateEntered(turn.now_us, name, on, None, turn.state.visit + 1))
    else:
        _enter_with_body(turn, target, on)


def _enter_with_body(turn: Turn, target: State, on: str) -> None:
    """One event for both: the body is opened on the state as it will be."""
    before = turn.state
    turn.items.clear()
    visit = before.visit + 1
    turn.state = evolve.apply(before, turn.items, StateEntered(turn.now_us, target.name, on, None, visit))
    node = _body(turn, target)
    turn.state = before
    turn.apply(StateEntered(turn.now_us, target.name, on, node, visit))


def _body(turn: Turn, target: State) -> Node:
    if target.step is not None:
        node = open_branch(turn, "", target.step, NOTHING)
    else:
        node = Node("waiting", "events", opened_us=turn.now_us)
    if target.timeout_us is not None and node.phase not in ("done", "incident"):
        node = replace(node, timers=(*node.timers, turn.arm("", "body", turn.now_us + target.timeout_us)))
    if turn.state.inbox and event_names(target):
        turn.look_for_event = True
    return node


def _enter_step(turn: Turn) -> bool:
    """The next enter action, or the body."""
    state = turn.state
    if state.spin > SPIN_MAX:
        raise Problem("ENDLESS_LOOP", f"{SPIN_MAX} states entered, or as much written, without ever waiting")
    here = turn.definition.states[state.state]
    if state.cursor < len(here.enter):
        _act(turn, "enter", here.enter[state.cursor])
    elif here.step is not None:
        node = _body(turn, here)
        turn.apply(NodeOpened(turn.now_us, "", node))
    else:
        turn.apply(BodyEnded(turn.now_us, "success", undo=compensation.undo_entry(turn, b"null")))
    return True


def _act(turn: Turn, stage: str, action: Action) -> None:
    if isinstance(action, TaskAction):
        path = f"{stage}!{turn.state.cursor}"
        if stage == "exit":  # it may have been begun before, and left in the middle by something stronger
            turn.epoch = turn.state.seq
        node = open_branch(turn, path, action.branch, NOTHING)
        turn.apply(NodeOpened(turn.now_us, path, node))
    else:
        actions.run(turn, action)


def _take(turn: Turn) -> bool:
    """The open node has its outcome: the run takes it."""
    state, node = turn.state, turn.state.node
    assert node is not None
    path = state.node_path
    if path.startswith("undo!"):
        return _take_undo(turn, node)
    fine = good(node.outcome)
    key = "" if node.kind == "events" else branch_at(turn.definition, state, path).output
    undo = compensation.undo_entry(turn, node.output) if fine and path == "" else None
    event = BodyEnded(turn.now_us, node.outcome, key, undo=undo)
    if not _fits(node, key, state.context):
        failure = Failure(
            "CONTEXT_TOO_LARGE", "what the step's parts put into the context together is too large", retryable=False
        )
        event = BodyEnded(turn.now_us, "failure", "", failure, merge=False)
    if event.outcome in ("failure", "timeout", "rejected", "cancelled") and path != "" and state.stage == "exit":
        turn.apply(event)
        return True
    if not good(event.outcome) and turn.definition.on_unhandled == "incident" and _would_park(turn, event):
        failure = node.failure or Failure(event.outcome.upper(), f"the step ended as {event.outcome}")
        incidents.open_incident(turn, path, "unhandled", failure)
        return False
    turn.apply(event)
    return True


def _fits(node: Node, key: str, context: Mapping[str, bytes]) -> bool:
    if not node.patch and not (key and len(node.output) > 1000):
        return True
    merged = {**context, **node.patch}
    if key:
        merged[key] = node.output
    return context_bytes(merged) <= CONTEXT_BYTES_MAX


def _would_park(turn: Turn, event: BodyEnded) -> bool:
    """Look ahead: would nothing take this failure? The node is kept then, so that it can be tried again."""
    before, items = turn.state, tree.ItemTable()
    try:
        turn.state = evolve.apply(before, items, event)
        return choose(turn) is None and unhandled(turn) is None
    finally:
        turn.state = before


def _take_undo(turn: Turn, node: Node) -> bool:
    failure = None if good(node.outcome) else node.failure
    if failure is not None and turn.definition.on_unhandled == "incident" and turn.state.cancel is None:
        incidents.open_incident(turn, turn.state.node_path, "undo", failure)
        return False
    turn.apply(ending.undone(turn, failure))
    return True


def _route(turn: Turn) -> bool:
    """Choose the transition."""
    state = turn.state
    here = turn.definition.states[state.state]
    if (problem := compensation.too_many(state)) is not None:
        raise problem
    chosen = choose(turn)
    if chosen is not None:
        move, on = take(turn, chosen[0]), chosen[1]
    elif good(state.outcome) and not state.outcome.startswith("route:"):
        if here.step is None and event_names(here) and state.outcome == "success":
            turn.apply(NodeOpened(turn.now_us, "", _body(turn, here)))
            return True
        move, on = _final(turn, here), state.outcome
    else:
        move, on = unhandled(turn) or fail_move(turn, _failure(turn)), state.outcome
        if turn.definition.on_unhandled == "incident" and move.kind == "fail":
            raise Problem(_failure(turn).code, _failure(turn).message)
        if move.kind == "fail" and on == "timeout" and isinstance(ended(turn, here), WaitBody | None):
            reason = f"nothing came in time in state {here.name!r}, and no transition takes its timeout"
            ending.cancel(turn, Cancel(source="timeout", reason=reason))
            return True
    go(turn, move, on)
    return True


def _failure(turn: Turn) -> Failure:
    outcome = turn.state.outcome
    if outcome.startswith("route:"):
        return Failure("ROUTE_UNHANDLED", f"no transition takes {outcome!r}", retryable=False)
    return turn.state.failure or Failure(outcome.upper(), f"the step ended as {outcome}")


def _final(turn: Turn, here: State) -> Move:
    if here.outcome == "success":
        return Move("complete")
    last = turn.state.failure
    cause = "" if last is None else f"{last.code}: {last.message}"
    message = f"the run ended in state {here.name!r}"
    return fail_move(turn, Failure(here.error_code or "FAILED", message, retryable=False, cause=cause))


def go(turn: Turn, move: Move, on: str) -> None:
    """Leave the state by this move; at once, if there is nothing to do before."""
    here = turn.definition.states[turn.state.state]
    if here.exit or compensation.next_undo(turn.definition, turn.state, move) is not None:
        turn.apply(Leaving(turn.now_us, move, on))
    else:
        perform(turn, move, on)


def _exit_step(turn: Turn) -> bool:
    """The next exit action, the next compensation, or the move itself."""
    state = turn.state
    move = state.move
    assert move is not None
    here = turn.definition.states[state.state].exit if state.state else ()
    if state.cursor < len(here):
        _act(turn, "exit", here[state.cursor])
        return True
    index = compensation.next_undo(turn.definition, state, move)
    if index is not None:
        compensation.open_undo(turn, index)
        return True
    perform(turn, move, move.on)
    return True


def abort(turn: Turn, move: Move, on: str, reason: str) -> None:
    """Leave in the middle of the body (a signal, a timeout, an operator): open work is taken back."""
    node = turn.state.node
    if node is not None and node.phase != "done":
        ending.drop_open(turn, reason)
    ending.leave_by(turn, move, on)
