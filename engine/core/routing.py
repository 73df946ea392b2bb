"""Choosing where a run goes: transitions in the order written, then catches, then the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from windlass.engine.core import compensation, jsontext
from windlass.engine.core.branches import NOTHING
from windlass.engine.core.commands import Failure
from windlass.engine.core.definition import Body, State, TaskAction, TaskBody, Transition
from windlass.engine.core.events import ContextSet
from windlass.engine.core.selectors import Scope
from windlass.engine.core.state import Move, RunState
from windlass.engine.core.tree import good
from windlass.engine.core.turn import Extra, Problem, Turn, evaluating, fit_context, rendered, run_facts


def choose(turn: Turn) -> tuple[Transition, str] | None:
    """The first transition that takes the outcome, with the `on` under which it did. Raises Problem."""
    state = turn.state
    here = turn.definition.states[state.state]
    if not here.transitions:
        return None
    failure = None if good(state.outcome) else state.failure
    for on in _names(turn, here):
        for transition in here.transitions:
            if transition.on not in (on, "") or (transition.on == "" and on != state.outcome):
                continue
            if transition.codes and (failure is None or failure.code not in transition.codes):
                continue
            if transition.when is None or passes(turn, transition, moment(state, failure)):
                return transition, on
    return None


def _names(turn: Turn, here: State) -> Iterator[str]:
    """The outcome, then what it counts as when nothing takes it by its own name."""
    outcome = turn.state.outcome
    yield outcome
    if outcome == "approved":
        yield "success"
    elif outcome == "rejected" or (outcome == "timeout" and isinstance(ended(turn, here), TaskBody)):
        yield "failure"


def ended(turn: Turn, here: State) -> Body | None:
    """What gave the outcome: the state's body, or the enter action that did not get through to it."""
    if turn.state.cursor < len(here.enter):
        action = here.enter[turn.state.cursor]
        return action.branch.body if isinstance(action, TaskAction) else None
    return here.step.body if here.step is not None else None


def moment(state: RunState, failure: Failure | None) -> Extra:
    """`result` and `error` as guards and mappings see them."""
    return {"result": state.result, "error": None if failure is None else error_facts(failure)}


def error_facts(failure: Failure) -> dict[str, Any]:
    return {
        "code": failure.code,
        "message": failure.message,
        "details": _details(failure.details) if failure.details else None,
    }


def _details(text: bytes) -> Any:
    return evaluating(lambda: jsontext.parse(text))


def passes(turn: Turn, transition: Transition, extra: Extra) -> bool:
    when = transition.when
    if when is None:
        return True
    value = evaluating(lambda: when.evaluate(Scope(turn.state.context, {**_moments(turn), **extra}, turn.spend)))
    if not isinstance(value, bool):
        raise Problem("EXPRESSION_ERROR", f"guard {when.source!r} gave {value!r}; a guard must give true or false")
    return value


def _moments(turn: Turn) -> dict[str, Any]:
    return {"run": run_facts(turn.definition, turn.state), "event": None, "error": None, "result": turn.state.result}


def take(turn: Turn, transition: Transition, extra: Extra = NOTHING) -> Move:
    """Apply the transition's mapping and give the move that it stands for. Raises Problem."""
    return follow(turn, transition, mapped(turn, transition, extra))


def mapped(turn: Turn, transition: Transition, extra: Extra) -> dict[str, bytes]:
    """What the transition's mapping puts into the context. Raises Problem."""
    if not transition.set:
        return {}
    state = turn.state
    failure = None if good(state.outcome) else state.failure
    scope = Scope(state.context, {**_moments(turn), **moment(state, failure), **extra}, turn.spend)
    values = rendered(transition.set, scope)
    turn.spend(sum(map(len, values.values())))
    fit_context(turn, values)
    return values


def follow(turn: Turn, transition: Transition, values: dict[str, bytes]) -> Move:
    """The move that the transition stands for, once its mapping is applied."""
    if values:
        turn.apply(ContextSet(turn.now_us, values, "transition"))
    return Move("complete") if transition.to is None else Move("state", transition.to)


def unhandled(turn: Turn) -> Move | None:
    """Where a catch takes a failure that no transition took; None if there is none."""
    state = turn.state
    failure = state.failure or Failure(state.outcome.upper())
    found = compensation.find_catch(turn.definition, state.state, failure)
    if found is None:
        return None
    catch, scope = found
    return Move("state", catch.to, undo=scope if catch.compensate else None)


def fail_move(turn: Turn, failure: Failure) -> Move:
    return Move("fail", undo="" if "failure" in turn.definition.compensate_on else None, failure=failure)


def event_names(here: State) -> tuple[str, ...]:
    """The signals that move the run out of this state."""
    names = dict.fromkeys(t.on[6:] for t in here.transitions if t.on.startswith("event:"))
    return tuple(names)
