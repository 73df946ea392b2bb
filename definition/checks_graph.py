"""Checks on how the states hang together: every name leads somewhere, every state can be reached and left."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from windlass.definition.fields import NAME
from windlass.definition.likeness import closest, meant
from windlass.definition.model import CatchModel, DocumentModel, StateModel, TransitionModel
from windlass.definition.problems import Place, Report

_OUTCOMES = ("success", "failure", "timeout", "approved", "rejected")
_WITH_CODES = ("", "failure", "timeout", "rejected")
_PERSONS = ("escalate", "task", "poll")  #: task code can escalate too
_OWN_TIMEOUT = ("task", "poll", "wait", "delay")  #: an attempt always has a limit; until and for are no timeouts
_WAYS = ("transitions", "next", "scope")  #: the parts of a state that lead out of it
_FRAME = ("states", "scopes", "catch", "on_timeout")  #: the parts of a document that lead somewhere

Edges = Mapping[str, list[str]]


def check_graph(model: DocumentModel, report: Report) -> None:
    """Report what is wrong with the frame of states, transitions, catches and scopes."""
    _target(model, model.initial, ("initial",), report)
    if model.on_timeout:
        _target(model, model.on_timeout, ("on_timeout",), report)
        if model.timeout is None:
            report.error(("on_timeout",), "there is no 'timeout' for the run, so it is never taken", at_key=True)
    for name, state in model.states.items():
        _check_state(model, name, state, report)
    _check_scopes(model, report)
    _check_catches(model, model.catch, ("catch",), report)
    if model.initial in model.states:
        _check_ways(model, report)


def _check_state(model: DocumentModel, name: str, state: StateModel, report: Report) -> None:
    place: Place = ("states", name)
    for index, transition in enumerate(state.transitions):
        _check_transition(model, state, transition, (*place, "transitions", index), report)
    if state.next is not None:
        _target(model, state.next, (*place, "next"), report)
    _check_order(state, place, report)
    _check_routes(state, place, report)
    if state.scope and state.scope not in model.scopes:
        report.error((*place, "scope"), _unknown("scope", state.scope, model.scopes))
    leaves = bool(state.transitions) or "next" in state.model_fields_set
    if leaves and state.outcome == "failure":
        report.error((*place, "outcome"), "'outcome' is for a state that ends the run; this one has transitions")
    if state.error_code and state.outcome != "failure":
        report.error((*place, "error_code"), "'error_code' goes with 'outcome: failure'")
    if state.compensate is not None and not state.scope and not model.compensate_on and not _compensating(model.catch):
        message = "never run: the state is in no scope, 'compensate_on' is empty and no catch compensates"
        report.error((*place, "compensate"), message, at_key=True)


def _compensating(catches: Iterable[CatchModel]) -> bool:
    return any(catch.compensate for catch in catches)


def _check_transition(
    model: DocumentModel, state: StateModel, transition: TransitionModel, place: Place, report: Report
) -> None:
    if transition.to is not None:
        _target(model, transition.to, (*place, "to"), report)
    if transition.codes and transition.on not in _WITH_CODES:
        report.error((*place, "codes"), f"'codes' are of failures, and this is on {transition.on!r}", at_key=True)
    kind, colon, name = transition.on.partition(":")
    if colon and kind == "route":
        _check_route(state, name, (*place, "on"), report)
    elif colon and kind == "event":
        if not NAME.match(name):
            report.error((*place, "on"), "an event transition needs the event's name: event:payment_received")
    elif transition.on and transition.on not in _OUTCOMES:
        report.error((*place, "on"), _unknown_outcome(transition.on))
    else:
        _check_possible(state, transition.on, (*place, "on"), report)


def _check_route(state: StateModel, name: str, place: Place, report: Report) -> None:
    if not name:
        report.error(place, "a route transition needs the route's name: route:review")
    elif name not in state.routes:
        hint = _unknown("route", name, state.routes)
        report.error(place, f"{hint}; declare it with a description in the state's 'routes'")


def _check_possible(state: StateModel, on: str, place: Place, report: Report) -> None:
    """Outcomes that the state's body never has."""
    bodies = state.bodies()
    if on in ("approved", "rejected") and not any(body in _PERSONS for body in bodies):
        report.warn(place, f"never taken: only an escalation is {on!r}")
    elif on in ("failure", "timeout") and not bodies:
        report.warn(place, f"never taken: a state without a body has no {on!r}")
    elif on == "timeout" and state.timeout is None and bodies and bodies[0] not in _OWN_TIMEOUT:
        report.warn(place, "never taken: the state has no 'timeout'")
    elif on == "timeout" and state.timeout is None and bodies and bodies[0] in ("wait", "delay"):
        report.warn(place, f"never taken: without 'timeout' this {bodies[0]} goes on until it is over")


def _unknown_outcome(on: str) -> str:
    known = (*_OUTCOMES, "route:", "event:")
    return f"unknown outcome {on!r}: use {', '.join(_OUTCOMES)}, route:NAME or event:NAME{meant(on, known)}"


def _check_order(state: StateModel, place: Place, report: Report) -> None:
    """A transition after one that takes everything is never looked at."""
    taken: dict[str, int] = {}
    for index, transition in enumerate(state.transitions):
        earlier = taken.get(transition.on, taken.get("") if not transition.on.startswith("event:") else None)
        if earlier is not None:
            message = (
                f"never reached: transitions[{earlier}] has no condition and takes every {transition.on or 'outcome'}"
            )
            report.warn((*place, "transitions", index), message)
        if transition.when is None and not transition.codes:
            taken.setdefault(transition.on, index)
    if "next" in state.model_fields_set and ("success" in taken or "" in taken):
        message = "never reached: a transition takes every success already"
        report.warn((*place, "next"), message, at_key=True)


def _check_routes(state: StateModel, place: Place, report: Report) -> None:
    taken = {transition.on for transition in state.transitions}
    for route in state.routes:
        if f"route:{route}" not in taken and "" not in taken:
            report.warn((*place, "routes", route), f"no transition takes the route {route!r}", at_key=True)
    if state.routes and not any(body in ("task", "poll") for body in state.bodies()):
        report.error((*place, "routes"), "only a task's code can choose a route", at_key=True)


def _check_scopes(model: DocumentModel, report: Report) -> None:
    used = {state.scope for state in model.states.values()} | {scope.parent for scope in model.scopes.values()}
    for name, scope in model.scopes.items():
        place: Place = ("scopes", name)
        _check_catches(model, scope.catch, (*place, "catch"), report)
        if scope.parent and scope.parent not in model.scopes:
            report.error((*place, "parent"), _unknown("scope", scope.parent, model.scopes))
        elif name in _ancestors(model, name):
            report.error((*place, "parent"), f"the scope {name!r} is inside itself")
        if name not in used:
            report.warn(place, f"no state is in the scope {name!r}", at_key=True)


def _ancestors(model: DocumentModel, name: str) -> list[str]:
    found: list[str] = []
    parent = model.scopes[name].parent
    while parent in model.scopes and parent not in found:
        found.append(parent)
        parent = model.scopes[parent].parent
    return found


def _check_catches(model: DocumentModel, catches: list[CatchModel], place: Place, report: Report) -> None:
    for index, catch in enumerate(catches):
        _target(model, catch.to, (*place, index, "to"), report)


def _target(model: DocumentModel, name: str, place: Place, report: Report) -> None:
    left_out = not name and report.failed  # its own problem is told already
    if name not in model.states and not left_out:
        report.error(place, _unknown("state", name, model.states))


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    return f"there is no {what} {name!r}{meant(name, known)}"


def _check_ways(model: DocumentModel, report: Report) -> None:
    """Unreachable states, states without an end, and circles in which nothing ever happens.

    Other mistakes do not keep this from being told in the same go. A way to a state that does not exist counts as one
    to the state that was probably meant, so that one slip is not told twice.
    """
    edges: Edges = {name: _existing(model, _targets(model, state)) for name, state in model.states.items()}
    roots = [model.initial, *([model.on_timeout] if model.on_timeout else []), *(catch.to for catch in model.catch)]
    reached = _closure(_existing(model, roots), edges)
    for name in model.states if _all_ways_known(reached, report) else ():
        if name not in reached:
            report.error(("states", name), f"unreachable: no way leads to the state {name!r}", at_key=True)
    back: dict[str, list[str]] = {name: [] for name in model.states}
    for name, targets in edges.items():
        for target in targets:
            back[target].append(name)
    lost = {name for name, state in model.states.items() if not model.states.keys() >= set(_targets(model, state))}
    ending = _closure([name for name, state in model.states.items() if name in lost or _can_end(state)], back)
    for name in reached:
        if name not in ending:
            report.warn(("states", name), f"a run that comes to {name!r} can never end", at_key=True)
    _check_circles(model, report)


def _all_ways_known(reached: set[str], report: Report) -> bool:
    """False if a way may be missing: a part that could not be read, and an unknown key, may have been one."""
    for place in report.left_out:
        if len(place) < 2 or place[0] != "states":
            if not place or place[0] in _FRAME or place[0] not in DocumentModel.model_fields:
                return False
        elif place[1] in reached and (len(place) == 2 or place[2] in _WAYS or place[2] not in StateModel.model_fields):
            return False
    return True


def _existing(model: DocumentModel, targets: Iterable[str]) -> list[str]:
    found = (target if target in model.states else closest(target, model.states) for target in targets)
    return [target for target in found if target is not None]


def _targets(model: DocumentModel, state: StateModel) -> Iterator[str]:
    yield from (transition.to for transition in state.transitions if transition.to is not None)
    if state.next is not None:
        yield state.next
    if state.scope in model.scopes:
        for scope in (state.scope, *_ancestors(model, state.scope)):
            yield from (catch.to for catch in model.scopes[scope].catch)


def _closure(roots: Iterable[str], edges: Edges) -> set[str]:
    found: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(edges[name])
    return found


def _can_end(state: StateModel) -> bool:
    """A run can end here: no transitions, one that ends it, or an outcome that no transition is sure to take."""
    if any(transition.to is None for transition in state.transitions):
        return True
    if "next" in state.model_fields_set:
        return state.next is None
    sure = {t.on for t in state.transitions if t.when is None and not t.codes}
    return not (sure & {"", "success"} or {"approved", "rejected"} <= sure)


def _check_circles(model: DocumentModel, report: Report) -> None:
    """A circle of states without work, each with one unconditional way: a run in it would spin for ever."""
    damaged = {place[1] for place in report.left_out if len(place) > 1 and place[0] == "states"}
    only = {name: None if name in damaged else _only_way(state) for name, state in model.states.items()}
    walked: set[str] = set()
    for name in model.states:
        path: dict[str, int] = {}
        here: str | None = name
        while here is not None and here not in walked:
            walked.add(here)
            path[here] = len(path)
            here = only.get(here)  # None also for a state that does not exist
        if here is not None and here in path:
            circle = list(path)[path[here] :]
            way = " → ".join([*circle[:10], *(["…"] if len(circle) > 10 else []), circle[0]])
            report.error(("states", circle[0]), f"an endless circle in which nothing happens: {way}", at_key=True)


def _only_way(state: StateModel) -> str | None:
    """Where a state without work always leads; None if it works, ends, or chooses."""
    if state.bodies() or any(action.task for action in (*state.enter, *state.exit)):
        return None
    for transition in state.transitions:
        if transition.on not in ("", "success"):
            continue
        return transition.to if transition.when is None and not transition.codes else None
    return state.next
