"""Compensation: undoing completed states in reverse order, and catches that take a failure by its code."""

from __future__ import annotations

from windlass.engine.core.branches import NOTHING
from windlass.engine.core.commands import Failure
from windlass.engine.core.definition import Branch, Catch, Definition
from windlass.engine.core.events import NodeOpened
from windlass.engine.core.limits import UNDO_MAX
from windlass.engine.core.opening import open_branch
from windlass.engine.core.state import Move, RunState, Undo
from windlass.engine.core.turn import Problem, Turn


def undo_entry(turn: Turn, output: bytes) -> Undo | None:
    """What to keep so that the current state, now completed, can be undone."""
    state = turn.state
    if turn.definition.states[state.state].compensate is None:
        return None
    return Undo(state.state, state.visit, output)


def too_many(state: RunState) -> Problem | None:
    if len(state.undo) <= UNDO_MAX:
        return None
    return Problem("TOO_MANY_COMPENSATIONS", f"more than {UNDO_MAX} completed states wait to be undone")


def scopes_around(definition: Definition, name: str) -> list[str]:
    """The scopes of a state, the innermost first."""
    found = []
    scope = definition.states[name].scope
    while scope and scope not in found:
        found.append(scope)
        scope = definition.scopes[scope].parent if scope in definition.scopes else ""
    return found


def find_catch(definition: Definition, name: str, failure: Failure) -> tuple[Catch, str] | None:
    """The nearest catch for a failure of this state, and the scope it belongs to ("" = the run)."""
    for scope in scopes_around(definition, name):
        for catch in definition.scopes[scope].catches:
            if not catch.codes or failure.code in catch.codes:
                return catch, scope
    for catch in definition.catches:
        if not catch.codes or failure.code in catch.codes:
            return catch, ""
    return None


def next_undo(definition: Definition, state: RunState, move: Move) -> int | None:
    """Place of the next state to undo for this move: the last one completed within its scope."""
    if move.undo is None:
        return None
    for index in range(len(state.undo) - 1, -1, -1):
        if move.undo == "" or move.undo in scopes_around(definition, state.undo[index].state):
            return index
    return None


def undo_path(index: int, entry: Undo) -> str:
    """Of one compensation and no other: the place in the list is given again to another state when this one is gone."""
    return f"undo!{index}.{entry.visit}"


def open_undo(turn: Turn, index: int) -> None:
    entry = turn.state.undo[index]
    branch: Branch | None = turn.definition.states[entry.state].compensate
    assert branch is not None
    path = undo_path(index, entry)
    node = open_branch(turn, path, branch, {**NOTHING, "result": entry.result})
    turn.apply(NodeOpened(turn.now_us, path, node))
