"""Whatever is given, the answer is a definition or a DefinitionError.

What compiles has a canonical form that is a fixed point.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from windlass.definition.compile import Compiled, compile_canonical, compile_document
from windlass.definition.model import DocumentModel, StateModel
from windlass.definition.model_bodies import MapModel, TaskModel, WaitModel
from windlass.definition.problems import DefinitionError
from windlass.definition.source import from_value, load, loads

EVERYTHING = load(Path(__file__).with_name("everything.yaml")).value

MODELS = (DocumentModel, StateModel, MapModel, TaskModel, WaitModel)
keys = st.sampled_from(sorted({key for model in MODELS for key in model.model_fields})) | st.text(max_size=5)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-3, 10)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["a", "b", "5s", "success", "a.b > 1", "${a.b}", "full", "python", "item", "", "sha256:", "latest"]
    )
    | st.text(max_size=8)
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def compiled(value: Any) -> Compiled | None:
    try:
        result = compile_document(from_value(value))
    except DefinitionError as error:
        told = error.problems
    else:
        return result
    assert any(not problem.warning for problem in told)
    return None


def holds(result: Compiled) -> None:
    again = compile_document(from_value(msgspec.json.decode(result.document)))
    assert again.document == result.document
    assert compile_canonical(result.document).revision == result.revision
    assert set(result.definition.states) == set(msgspec.json.decode(result.document)["states"])


@given(values)
def test_any_value(value: Any) -> None:
    compiled(value)


states = st.fixed_dictionaries({}, optional=dict.fromkeys(StateModel.model_fields, values))


@given(st.dictionaries(st.sampled_from("abc"), states | st.just({}), min_size=1, max_size=3))
def test_any_states(states: dict[str, Any]) -> None:
    result = compiled({"workflow": "w", "initial": min(states), "states": states})
    if result is not None:
        holds(result)


def members_of(place: Any) -> list[Any]:
    return list(place) if isinstance(place, dict) else list(range(len(place)))


@given(st.data())
def test_a_full_document_with_a_part_changed(data: st.DataObject) -> None:
    value = copy.deepcopy(EVERYTHING)
    place: Any = value
    for _ in range(data.draw(st.integers(0, 6))):
        deeper = [key for key in members_of(place) if isinstance(place[key], dict | list) and place[key]]
        if not deeper:
            break
        place = place[data.draw(st.sampled_from(deeper))]
    changed = data.draw(st.sampled_from(members_of(place)))
    if data.draw(st.booleans()):
        place[changed] = data.draw(values)
    elif isinstance(place, dict):
        place[data.draw(keys)] = place.pop(changed)
    else:
        place.pop(changed)
    result = compiled(value)
    if result is not None:
        holds(result)


@given(st.text(alphabet="workflinatses: {}[]-\n&*!'\"|>#${}.", max_size=80))
def test_any_text(text: str) -> None:
    try:
        result = compile_document(loads(text))
    except DefinitionError as error:
        assert error.render()  # noqa: PT017 - both ways out are right
    else:
        holds(result)


def test_the_limits_hold_for_large_documents() -> None:
    states: dict[str, Any] = {f"s{n}": {"delay": "1s", "next": f"s{n + 1}"} for n in range(1999)}
    states["s1999"] = {}
    result = compiled({"workflow": "w", "initial": "s0", "states": states})
    assert result is not None
    assert compiled({"workflow": "w", "initial": "s0", "states": {**states, "one": {}, "two": {}}}) is None
