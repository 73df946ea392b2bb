"""The document's shape: pydantic's findings turned into problems that an author can act on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from windlass.definition.likeness import closest, meant
from windlass.definition.model import DocumentModel
from windlass.definition.problems import Place, Report

_ATTEMPTS = 8  #: leaving something out can leave its parent incomplete, so it takes a few turns
_STAND_INS: dict[str, Any] = {
    "workflow": "unnamed",
    "initial": "",
    "states": {"unnamed": {}},
    "to": None,
    "name": "unnamed",
    "id": "unnamed",
    "type": "text",
    "message": "",
    "runtime": "python",
    "interval": "1s",
    "items": "items",
    "branches": {"unnamed": {}},
}  #: for what is required: without it, its owner would have to be left out too
_KINDS = {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "finite_number": "a finite number",
}


def read_model(value: Any, report: Report) -> DocumentModel | None:
    """The document as its model, or None if not even its frame is there.

    Parts of the wrong shape are reported and left out, so that the rest can be checked in the same go: when the report
    has errors, the model is good for finding more of them and for nothing else.
    """
    if not isinstance(value, dict):
        report.error((), f"a definition is an object with `workflow`, `initial` and `states`, not {_kind(value)}")
        return None
    for attempt in range(_ATTEMPTS):
        try:
            return DocumentModel.model_validate(value)
        except ValidationError as error:
            findings = error.errors(include_url=False)
        value = copy.deepcopy(value)
        for finding in findings if attempt == 0 else ():
            _report(finding, report)
        for finding in findings:
            report.left_out.add(_leave_out(value, finding))
    return None


def _leave_out(value: Any, finding: Mapping[str, Any]) -> Place:
    """Replace what the finding is about by a stand-in, or remove the member of an object that is nearest around it.

    List items keep their places, and the names of states stay known to transitions. Gives the place of the change.
    """
    place, _ = _place_of(finding)
    if len(place) == 2 and place[0] == "states":
        value["states"][place[1]] = {}
        return place
    holder, name, at = _nearest_member(value, place)
    if name in _STAND_INS:
        holder[name] = _STAND_INS[name]
    else:
        holder.pop(name, None)
    return at


def _nearest_member(value: Any, place: Place) -> tuple[dict[str, Any], str, Place]:
    """The innermost object on the way to the place, and the member of it that leads on."""
    found: tuple[dict[str, Any], str, Place] = (value, str(place[0]), place[:1])
    for depth, part in enumerate(place):
        if isinstance(value, dict) and (part in value or depth == len(place) - 1):
            found = (value, str(part), place[: depth + 1])
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            break
    return found


def _report(finding: Mapping[str, Any], report: Report) -> None:
    place, at_key = _place_of(finding)
    kind = str(finding["type"])
    if kind == "extra_forbidden":
        report.error(place, _unknown_key(place), at_key=True)
        return
    if kind == "missing":
        report.error(place[:-1], _message(kind, finding, place), at_key=True)
    else:
        report.error(place, _message(kind, finding, place), at_key=at_key)


def _place_of(finding: Mapping[str, Any]) -> tuple[Place, bool]:
    """Where the finding is, and whether it is about the key there.

    Pydantic then puts "[key]" at the end, which an author may have written as a key just as well.
    """
    place: Place = tuple(finding["loc"])
    at_key = len(place) > 1 and place[-1] == "[key]" and finding["type"] != "extra_forbidden"
    return (place[:-1] if at_key else place), at_key


def _message(kind: str, finding: Mapping[str, Any], place: Place) -> str:
    context: Mapping[str, Any] = finding.get("ctx", {})
    if kind in _WANTED:
        return _wrong_kind(_WANTED[kind], finding["input"])
    simple: dict[str, Callable[[], str]] = {
        "missing": lambda: f"{place[-1]!r} is missing" + _around(place),
        "value_error": lambda: str(context.get("error", finding["msg"])),
        "literal_error": lambda: _not_one_of(str(context["expected"]), finding["input"]),
        "greater_than_equal": lambda: f"must be at least {context['ge']:.15g}, not {finding['input']!r}",
        "less_than_equal": lambda: f"must be at most {context['le']:.15g}, not {finding['input']!r}",
        "too_short": lambda: "must not be empty",
        "too_long": lambda: f"has {context['actual_length']} entries; at most {context['max_length']} are allowed",
    }
    return simple[kind]() if kind in simple else str(finding["msg"])


def _around(place: Place) -> str:
    owner = place[-2] if len(place) > 1 else ""
    if place == ("initial",):
        return ": name the state in which a run starts"
    return f" in {owner!r}" if isinstance(owner, str) and owner else ""


def _wrong_kind(wanted: str, value: Any) -> str:
    hint = ""
    if wanted == "text" and isinstance(value, int | float):
        hint = f'; put it in quotes: "{str(value).lower() if isinstance(value, bool) else value}"'
    return f"must be {wanted}, not {_kind(value)}{hint}"


def _not_one_of(expected: str, value: Any) -> str:
    allowed = [word.strip("' ") for word in expected.replace(" or ", ", ").split(",")]
    shown = repr(value) if isinstance(value, str | int | float) else _kind(value)
    return f"must be {' or '.join(allowed)}, not {shown}{meant(str(value), allowed)}"


def _kind(value: Any) -> str:
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def _unknown_key(place: Place) -> str:
    known = _known_keys(place[:-1])
    name = str(place[-1])
    near = closest(name, known)
    hint = f"; did you mean {near!r}?" if near else f"; known here are {', '.join(known)}" if known else ""
    return f"unknown key {name!r}{hint}"


def _known_keys(place: Place) -> list[str]:
    """The keys of the model at this place, found by walking the document's model along it."""
    annotation: Any = DocumentModel
    for part in place:
        annotation = _inside(annotation, part)
    model = _model_in(annotation)
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _inside(annotation: Any, part: str | int) -> Any:
    model = _model_in(annotation)
    if model is not None and not _is_container(annotation):
        by_key = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        return by_key.get(str(part))
    arguments = get_args(_container_in(annotation))
    return arguments[-1] if arguments else None


def _container_in(annotation: Any) -> Any:
    """The list or dict type inside Annotated and unions."""
    if getattr(annotation, "__origin__", None) in (list, dict):
        return annotation
    return next((found for part in get_args(annotation) if (found := _container_in(part)) is not None), None)


def _is_container(annotation: Any) -> bool:
    return _container_in(annotation) is not None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
