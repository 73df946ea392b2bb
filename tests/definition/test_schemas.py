"""Schemas: what they find, that they fetch nothing, and that no schema can keep the engine busy."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from windlass.definition.compile import compile_document
from windlass.definition.problems import DefinitionError
from windlass.definition.schemas import SchemaError, compile_schema, with_defaults
from windlass.definition.source import from_value

SELF = {"$ref": "#"}


def test_findings_have_paths() -> None:
    schema = compile_schema(
        {"type": "object", "required": ["id"], "properties": {"list": {"items": {"type": "integer"}}}}
    )
    assert schema.check({"id": 1, "list": [1, 2]}) == []
    assert sorted(schema.check({"list": [1, "x"]})) == [
        '"id" is a required property',
        'list[1]: "x" is not of type "integer"',
    ]
    assert len(compile_schema({"items": {"type": "integer"}}).check(["x"] * 1000)) == 20
    assert len(compile_schema({"type": "integer"}).check("x" * 100_000)[0]) < 400


@pytest.mark.parametrize(
    ("value", "told", "place"),
    [
        (5, "not of types", ()),
        ({"type": "strin"}, "not a JSON Schema", ("type",)),
        ({"properties": {"a": {"minimum": "x"}}}, "not of type", ("properties", "a", "minimum")),
        ({"pattern": "("}, "not a JSON Schema", ("pattern",)),
        ({"$ref": "#/nowhere"}, "does not exist", ()),
        ({"$ref": "file:///etc/hostname"}, "references to other documents are not followed", ()),
        ({"$ref": "http://localhost:1/x"}, "references to other documents are not followed", ()),
        ({"$schema": "http://example.com/x"}, "unknown $schema", ("$schema",)),
        ({"$schema": 7}, "unknown $schema", ("$schema",)),
    ],
)
def test_not_a_schema(value: Any, told: str, place: tuple[str, ...]) -> None:
    with pytest.raises(SchemaError) as refused:
        compile_schema(value)
    assert told in str(refused.value)
    assert refused.value.place == place


def doubling(levels: int) -> dict[str, Any]:
    definitions: dict[str, Any] = {
        f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}, {"$ref": f"#/$defs/a{n + 1}"}]} for n in range(levels)
    }
    return {"$defs": {**definitions, f"a{levels}": {"type": "object"}}, "$ref": "#/$defs/a0"}


def test_references_that_double_are_refused() -> None:
    assert compile_schema(doubling(5)).check({}) == []
    with pytest.raises(SchemaError, match="with its references written out it has more than 200,000 parts"):
        compile_schema(doubling(40))


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def test_a_schema_that_applies_itself_twice_bounds_the_depth_of_values() -> None:
    either = [{"properties": {"a": SELF}, "required": ["x"]}, {"properties": {"a": SELF}, "required": ["y"]}]
    schema = compile_schema({"anyOf": either})
    assert "not valid under any of the schemas" in schema.check(nested(3))[0]
    assert "too often to say where" in schema.check(nested(15))[0]
    assert "nested deeper than 19 levels" in schema.check(nested(60))[0]


def test_an_ordinary_recursive_schema_takes_deep_values() -> None:
    schema = compile_schema({"type": "object", "properties": {"a": SELF}, "additionalProperties": False})
    assert schema.check(nested(150)) == []
    assert "nested deeper than 200 levels" in schema.check(nested(250))[0]


def nesting(levels: int, **more: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"properties": {"a": True}}
    for _ in range(levels):
        schema = {"anyOf": [schema], **more}
    return schema


def by_another_name(how: str) -> dict[str, Any]:
    schema = doubling(26)
    text = json.dumps(schema).replace('"#/$defs/', how)
    return {**json.loads(text), "$id": "http://example.com/s"}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (by_another_name('"#/%24defs/'), "more than 200,000 parts"),
        (by_another_name('"http://example.com/s#/$defs/'), "references to other documents are not followed"),
        ({"dependentSchemas": {"enum": doubling(26)["$defs"]["a0"]}, **doubling(26), "$ref": "#"}, "200,000 parts"),
        ({"patternProperties": {"enum": nesting(20, unevaluatedProperties=False)}}, "200,000 parts"),
        (nesting(20, unevaluatedProperties=False), "200,000 parts"),
        ({"$defs": {"a": {"$id": "b", "$ref": "#"}}, "$ref": "#/$defs/a"}, "cannot have an $id"),
    ],
)
def test_work_that_doubles_is_refused_however_it_is_written(schema: Any, told: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(told)):
        compile_schema(schema)


TWICE = {"$defs": {"b": {"properties": {"a": SELF}, "required": ["x"]}}, "anyOf": [{"$ref": "#/$defs/b"}] * 2}


@pytest.mark.parametrize(
    ("schema", "value", "told"),
    [
        ({"items": {"enum": list(range(60_000))}}, [-1] * 20_000, "too large to be checked"),
        ({"items": {"allOf": [{"minimum": 0}] * 6_000}}, [1] * 500_000, "too large to be checked"),
        ({"pattern": "(?:a?){3000}[^a]"}, "a" * 300_000, "too large to be checked"),
        (
            {"allOf": [{"pattern": f"[ab]*a[ab]{{500}}{n}"} for n in range(40)]},
            "ab" * 50_000,
            "too large to be checked",
        ),
        ({"patternProperties": {"(?:a?){3000}[^a]": True}}, {"a" * 300_000: 1}, "too large to be checked"),
        ({"allOf": [{"type": "integer"}] * 4_000}, "x" * 1_000_000, "too large to say where"),
        ({"items": {"anyOf": [{"type": "integer"}] * 1_000}}, ["x"] * 2_000, "too large to say where"),
        ({"items": {"const": "x" * 1_000_000}}, ["y"] * 5_000, "too large to say where"),
        (TWICE, nested(60), "nested deeper than 19 levels"),
    ],
)
def test_no_value_keeps_the_engine_busy(schema: Any, value: Any, told: str) -> None:
    began = time.process_time()
    (finding,) = compile_schema(schema).check(value)
    assert told in finding
    assert time.process_time() - began < 2


def test_an_ordinary_schema_takes_a_large_value_and_says_what_is_wrong_with_it() -> None:
    fields: dict[str, Any] = {f"f{n}": {"type": "string", "pattern": "^[a-z0-9-]{36}$"} for n in range(10)}
    schema = compile_schema({"properties": {"rows": {"items": {"properties": fields, "required": [*fields]}}}})
    assert schema.check({"rows": [dict.fromkeys(fields, "a" * 36)] * 1_800}) == []
    assert "does not match" in schema.check({"rows": [dict.fromkeys(fields, "A" * 36)] * 400})[0]


def test_patterns_run_in_linear_time() -> None:
    assert compile_schema({"pattern": "^(a+)+$"}).check("a" * 50_000 + "b")


def test_defaults_fill_what_is_not_given() -> None:
    schema = {"properties": {"a": {"default": 1}, "b": {"properties": {"c": {"default": [2]}}}, "d": {}}}
    assert with_defaults(schema, {"b": {}}) == {"a": 1, "b": {"c": [2]}}
    assert with_defaults(schema, {"a": None, "x": 3}) == {"a": None, "x": 3}
    assert with_defaults(True, {"a": 1}) == {"a": 1}
    assert with_defaults(schema, [1]) == [1]


@pytest.mark.parametrize(
    "made",
    [
        lambda n: {"input_schema": {"pattern": rf"\p{{L}}{{40}}{n}"}},
        lambda n: {"transitions": [{"to": "s1", "when": rf"a.matches(r'\pL{{40}}{n}')"}]},
    ],
)
def test_all_patterns_of_a_document_together_are_bounded(made: Any) -> None:
    states = {f"s{n}": {"delay": {"for": "1s"}, **made(n)} for n in range(1_000)}
    began = time.process_time()
    with pytest.raises(DefinitionError, match="too much to compile"):
        compile_document(from_value({"workflow": "many", "initial": "s0", "states": states}))
    assert time.process_time() - began < 5
