"""Checks on the context: names that are read somewhere and set nowhere.

The context is open (task code may set any key), so these are warnings. Without an input schema the run's input may
bring any name; then only names that look like a slip of a known one are told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from windlass.definition.code import Module
from windlass.definition.likeness import closest
from windlass.definition.model import ActionModel, DocumentModel, StateModel
from windlass.definition.model_bodies import StepModel
from windlass.definition.problems import Place, Report

#: Names that exist at certain moments beside the context's keys.
ROOTS = ("result", "error", "event", "run", "item", "index")
_MOMENT_OF_MAP = ("item", "index")
_SET_BY_CODE = re.compile(rb"""ctx\s*\.\s*set\s*\(\s*["'`]([A-Za-z_]\w*)["'`]""")
_LIKENESS = 0.8


def check_names(
    model: DocumentModel, reads: Iterable[tuple[str, Place]], modules: Iterable[Module], report: Report
) -> None:
    """Warn of names that nothing sets, and of keys that can hardly be read."""
    known = set(written(model)) | set(_set_by_code(modules))
    inputs = _input_names(model.input_schema)
    everything = known | (inputs or set()) | set(ROOTS)
    for name, place in dict.fromkeys(reads):
        if name in _MOMENT_OF_MAP and name not in known and "map" not in place:
            report.warn(place, f"{name!r} exists only inside a map")
        elif name not in ROOTS and name not in known and (inputs is None or name not in inputs):
            there = everything if _of_an_item(place) else everything - set(_MOMENT_OF_MAP)
            _tell(name, place, there, closed=inputs is not None, report=report)
    _check_hidden(model, report)


def _of_an_item(place: Place) -> bool:
    """True inside the step of a map; its `items` are read before there is any item."""
    return "map" in place and place[place.index("map") + 1 :][:1] != ("items",)


def _tell(name: str, place: Place, known: set[str], *, closed: bool, report: Report) -> None:
    near = closest(name, known, _LIKENESS)
    if near is not None:
        report.warn(place, f"nothing sets {name!r}; did you mean {near!r}?")
    elif closed:
        report.warn(
            place, f"nothing sets {name!r}: no output, set action or property of the input schema has this name"
        )


def written(model: DocumentModel) -> Iterator[str]:
    """The context keys that the definition itself sets."""
    yield "input"  # a run's input that is no object
    for state in model.states.values():
        yield from _step_keys(state)
        yield from _state_keys(state)
    for update in model.updates.values():
        yield from update.set


def _state_keys(state: StateModel) -> Iterator[str]:
    actions: list[ActionModel] = [*state.enter, *state.exit]
    for action in actions:
        yield from action.set or ()
        if action.output:
            yield action.output
    for transition in state.transitions:
        yield from transition.set
    if state.compensate is not None:
        yield from _step_keys(state.compensate)


def _step_keys(step: StepModel) -> Iterator[str]:
    if step.output:
        yield step.output
    if step.parallel is not None:
        for branch in step.parallel.branches.values():
            yield from _step_keys(branch)
    if step.map is not None:
        yield from _step_keys(step.map)


def _set_by_code(modules: Iterable[Module]) -> Iterator[str]:
    for module in modules:
        if module.runtime == "javascript":
            yield from (found.decode() for found in _SET_BY_CODE.findall(module.content))


def _input_names(schema: Any) -> set[str] | None:
    """The keys that the input can bring; None if it can bring any."""
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        return None
    return set(schema["properties"])


def _check_hidden(model: DocumentModel, report: Report) -> None:
    """A context key named like a moment's name is hidden by it in guards and templates."""
    for name, state in model.states.items():
        if state.output in ROOTS:
            message = (
                f"guards and templates see the moment's own {state.output!r} instead of this key: choose another name"
            )
            report.warn(("states", name, "output"), message)
