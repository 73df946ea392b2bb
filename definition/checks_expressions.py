"""What is wrong with an expression that compiles, found before any run meets it.

Asked when a definition is registered and not when a stored one is read: a run that has taken a revision needs it as it
is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from windlass.definition.cel_tokens import inspect
from windlass.definition.cel_types import Finding, infer
from windlass.definition.expressions import WORK_MAX, compile_expression, reads_nothing
from windlass.engine.core.definition import ExpressionError
from windlass.engine.core.selectors import Scope

_SCHEMA_KINDS = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "bool",
    "array": "list",
    "object": "map",
}


class Purse:
    """What the expressions of one document that are evaluated here may cost together; then none is any more."""

    def __init__(self) -> None:
        self.left: float = WORK_MAX

    def spend(self, work: float) -> None:
        self.left -= work


def judge(
    source: str, *, condition: bool, kinds: Mapping[str, str] | None = None, purse: Purse | None = None
) -> list[Finding]:
    """What is wrong with a valid expression. `kinds`: types that names have if nothing else sets them.

    An expression that reads nothing is evaluated: it always gives the same. Of others the types are worked out, as far
    as these are known. What rests on `kinds` is doubtful only.
    """
    kind, found, patterns = infer(source, {})
    if reads_nothing(source):
        failure = _failure(source, condition=condition, purse=purse or Purse())
        doubtful = [finding for finding in found if finding.doubtful]
        return [Finding(f"every run that comes here stops: {failure}", 0)] if failure else doubtful
    found += [finding for text, at in patterns for finding in _bad_pattern(text, at)]
    if condition and kind not in ("", "bool"):
        found.append(_not_a_condition(kind))
    if found or not kinds:
        return found
    kind, found, _ = infer(source, kinds)
    if condition and kind not in ("", "bool"):
        found.append(_not_a_condition(kind))
    return [Finding(f"by the input schema: {finding.message}", finding.at, doubtful=True) for finding in found]


def reads_error(source: str) -> bool:
    """Whether a valid expression reads a member of `error`, which fails where there is none."""
    return bool(inspect(source).reads.get("error"))


def kinds_of(input_schema: Any, written: set[str]) -> dict[str, str]:
    """The types of the context keys that only the run's input sets, by the schema."""
    properties = input_schema.get("properties") if isinstance(input_schema, dict) else None
    return dict(_kinds(properties, written)) if isinstance(properties, dict) else {}


def _kinds(properties: Mapping[str, Any], written: set[str]) -> Iterator[tuple[str, str]]:
    for name, schema in properties.items():
        kind = schema.get("type") if isinstance(schema, dict) else None
        if isinstance(kind, str) and kind in _SCHEMA_KINDS and name not in written:
            yield name, _SCHEMA_KINDS[kind]


def _not_a_condition(kind: str) -> Finding:
    given = "something else" if kind == "some" else kind
    return Finding(f"a condition gives true or false, and this gives {given}", 0)


def _failure(source: str, *, condition: bool, purse: Purse) -> str:
    if purse.left <= 0:
        return ""
    try:
        compile_expression(source, condition=condition).evaluate(Scope({}, spend=purse.spend))
    except ExpressionError as error:
        return str(error)
    return ""


def _bad_pattern(text: str, at: int) -> Iterator[Finding]:
    if failure := _failure(f"''.matches({text})", condition=True, purse=Purse()):
        yield Finding(f"the pattern {text} of matches cannot be used: {failure[failure.rfind('not a') :]}", at)
