"""JSON Schemas: checked when compiled, never fetching anything, with regular expressions that run in linear time.

The library would follow `$ref` to web addresses and to files of this machine; a schema comes from an author, so only
references inside the document are allowed. (References with backtracking patterns are refused too: look-around is not
in the linear engine.)
"""

from __future__ import annotations

import re
from typing import Any

import jsonschema_rs
import msgspec

from windlass.definition.schema_cost import Cost, Measure, cost_of, surely_small
from windlass.engine.core.definition import Schema

FINDINGS_MAX = 20  #: problems of one value that are told
_DRAFTS = re.compile(r"https?://json-schema\.org/(draft-0[467]|draft/2019-09|draft/2020-12)/schema#?\Z")


class SchemaError(ValueError):
    """The value is no usable JSON Schema. `place` leads to the wrong part of it."""

    def __init__(self, message: str, place: tuple[str | int, ...] = ()) -> None:
        super().__init__(message)
        self.place = place


def compile_schema(value: Any) -> Schema:
    """Compile a schema given as a JSON value; drafts 4 to 2020-12, the last by default. Raises SchemaError."""
    draft = value.get("$schema") if isinstance(value, dict) else None
    if draft is not None and not (isinstance(draft, str) and _DRAFTS.match(draft)):
        raise SchemaError(f"unknown $schema {draft!r}: use https://json-schema.org/draft/2020-12/schema", ("$schema",))
    try:
        cost = cost_of(value)
        jsonschema_rs.meta.validate(value)
        validator = jsonschema_rs.validator_for(
            value, retriever=_refuse, pattern_options=jsonschema_rs.RegexOptions(size_limit=1_000_000)
        )
    except jsonschema_rs.ValidationError as error:
        raise SchemaError(f"not a JSON Schema: {error.message}", tuple(error.instance_path)) from error
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise SchemaError(f"not a JSON Schema: {str(error).partition(chr(10))[0]}") from error

    def check(instance: Any) -> list[str]:
        if not surely_small(instance, cost) and (reason := _beyond(instance, cost)):
            return [reason]
        if validator.is_valid(instance):
            return []
        size = Measure(instance, cost.told)
        if size.depth > cost.told:
            return ["does not fit the schema, which refers to itself too often to say where in a value as deep as this"]
        if cost.too_much_to_tell(size):
            return ["does not fit the schema, which is too large to say where in a value as large as this"]
        findings = []
        for error in validator.iter_errors(instance):
            findings.append(_told(error))
            if len(findings) == FINDINGS_MAX:
                break
        return findings

    return Schema(document=msgspec.json.encode(value), check=check)


def with_defaults(schema: Any, value: Any) -> Any:
    """The value with the defaults that the schema's properties give, where it has nothing itself."""
    if not isinstance(schema, dict) or not isinstance(value, dict):
        return value
    filled = dict(value)
    properties = schema.get("properties")
    for name, inner in properties.items() if isinstance(properties, dict) else ():
        if name in filled:
            filled[name] = with_defaults(inner, filled[name])
        elif isinstance(inner, dict) and "default" in inner:
            filled[name] = inner["default"]
    return filled


def _beyond(instance: Any, cost: Cost) -> str:
    """Why the value cannot be checked; "" if it can."""
    size = Measure(instance, cost.checked)
    if size.depth > cost.checked:
        return f"nested deeper than {cost.checked} levels, which is as deep as this schema can be checked"
    return "too large to be checked against a schema as large as this" if cost.too_much(size) else ""


def _refuse(uri: str) -> Any:
    raise ValueError(f"references to other documents are not followed ({uri}); put it under $defs")


def _told(error: jsonschema_rs.ValidationError) -> str:
    return f"{_where(error.instance_path)}{_shortened(error.message)}"


def _where(path: list[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return f"{text}: " if text else ""


def _shortened(message: str) -> str:
    """Messages quote the value; a large one would fill a page."""
    return message if len(message) <= 300 else f"{message[:140]} … {message[-140:]}"
