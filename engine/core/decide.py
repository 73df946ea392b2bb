"""`decide`: one command in, one complete outcome out.

    decide(definition, state, view, command, now_us) -> Decision

* `state` is None only for `Start`.
* `view` gives what lives outside the run record; it may raise `NeedItems` or `NeedSignals`, which the shell answers
  by loading and
  calling again: decide is pure, so nothing is lost.
* raises `Rejection`, and then nothing changed.

A command is judged first and recorded by events; then the run goes on as far as it can without anything from outside
(`_go_on`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from windlass.engine.core import (
    accounts,
    attempts,
    continuing,
    ending,
    escalations,
    evolve,
    flow,
    incidents,
    joining,
    pausing,
    repair,
    signals,
    spawns,
    starting,
    timers,
    updates,
)
from windlass.engine.core import commands as c
from windlass.engine.core.definition import Definition
from windlass.engine.core.effects import Effect
from windlass.engine.core.events import AnyEvent
from windlass.engine.core.refusal import NeedItems, NeedSignals, Rejection
from windlass.engine.core.state import CLOSED, Node, RunState
from windlass.engine.core.turn import Problem, Turn, View

__all__ = ["Decision", "NeedItems", "NeedSignals", "Rejection", "View", "decide"]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The complete consequence of a command, committed as one.

    Order of handling: first state, items and events, then the effects in their order."""

    state: RunState
    items: Mapping[str, Node | None]  #: changed item records; None = removed
    events: tuple[AnyEvent, ...]  #: numbered state.seq - len + 1 … state.seq
    effects: tuple[Effect, ...]
    reply: bytes = b""  #: for ApplyUpdate
    items_cleared: bool = False  #: first remove every item record of the run (a range clear), then write `items`


def decide(definition: Definition, state: RunState | None, view: View, command: c.Command, now_us: int) -> Decision:
    """See the module. `now_us` never runs backwards for a run; an earlier time is taken as the last one."""
    if isinstance(command, c.Start):
        turn = _start(definition, state, view, command, now_us)
    elif state is None:
        raise Rejection("RUN_NOT_FOUND", "the run does not exist")
    elif state.status in CLOSED:
        return _on_closed(state, command)
    else:
        turn = Turn(definition, state, view, max(now_us, state.updated_us))
        if isinstance(command, c.TaskLeased):  # every attempt has one, and nothing else of the run can move by it
            attempts.leased(turn, command)
            return _decided(turn)
        _guarded(turn, partial(_JUDGES[type(command)], turn, command))
        if isinstance(command, _ACCOUNTED):
            accounts.enter(turn, command)
    while not _guarded(turn, partial(_go_on, turn)):
        pass
    return _decided(turn)


def _decided(turn: Turn) -> Decision:
    return Decision(
        state=turn.state,
        items=turn.items.changed,
        events=tuple(turn.events),
        effects=tuple(turn.effects),
        reply=turn.reply,
        items_cleared=turn.items.cleared,
    )


def _start(definition: Definition, state: RunState | None, view: View, command: c.Start, now_us: int) -> Turn:
    if state is not None:
        raise Rejection("RUN_ALREADY_STARTED", f"run {command.run_id} exists", run_id=command.run_id)
    event, effects = starting.started(definition, command, now_us)
    turn = Turn(definition, evolve.EMPTY, view, now_us)
    turn.items.cleared = True
    turn.apply(event)
    turn.effects += effects
    if command.paused:
        pausing.stop(turn, "started paused")
    return turn


def _guarded(turn: Turn, act: Callable[[], None]) -> bool:
    """A definition that cannot be evaluated on this run's data parks the run; it never stops the engine."""
    try:
        act()
    except Problem as problem:
        incidents.from_problem(turn, "", "flow", problem)
        return False
    return True


def _go_on(turn: Turn) -> None:
    """Until nothing moves without the outside: what was put off, then joins from the leaves up, then the run."""
    while True:
        turn.run_later()
        if turn.closed:
            joining.settle(turn, turn.closed.pop(0))
        elif turn.look_for_event:
            turn.look_for_event = False
            signals.take_buffered_event(turn)
        elif not flow.step(turn):
            return


_ACCOUNTED = (c.TaskSucceeded, c.TaskFailed)
_LATE = (c.TimerFired, c.ChildClosed, c.Continue, c.RaiseIncident)
_REPORTS = (c.TaskSucceeded, c.TaskFailed, c.TaskReturned, c.TaskHeartbeat, c.TaskExtended, c.TaskTimedOut)


def _on_closed(state: RunState, command: c.Command) -> Decision:
    """What comes too late: facts are dropped, requests are refused."""
    if isinstance(command, _LATE):
        return Decision(state=state, items={}, events=(), effects=())
    if isinstance(command, _REPORTS) and (command.visit, command.path, command.epoch) == state.last:
        raise Rejection("ALREADY_RECORDED", "this attempt's result is recorded already")
    raise Rejection("RUN_CLOSED", f"the run is {state.status}", run_id=state.run_id, state=state.status)


_JUDGES: dict[type, Callable[[Turn, Any], None]] = {
    c.TaskSucceeded: attempts.succeeded,
    c.TaskFailed: attempts.failed,
    c.TaskReturned: attempts.returned,
    c.TaskHeartbeat: attempts.heartbeat,
    c.TaskExtended: attempts.extended,
    c.TaskTimedOut: attempts.timed_out,
    c.TimerFired: timers.fired,
    c.Signal: signals.signal,
    c.ResolveWait: signals.resolve_wait,
    c.ReplyEscalation: escalations.reply,
    c.ChildClosed: spawns.child_closed,
    c.ApplyUpdate: updates.apply_update,
    c.SetVariables: updates.set_variables,
    c.Cancel: ending.cancel,
    c.Terminate: ending.terminate,
    c.Fail: ending.fail,
    c.Pause: pausing.pause,
    c.Unpause: pausing.unpause,
    c.Step: pausing.step,
    c.ResolveIncident: repair.resolve,
    c.RaiseIncident: repair.raise_incident,
    c.Continue: continuing.go_on,
}
