"""Schemas: what they find, that they fetch nothing, and that no schema can keep the engine busy."""

from __future__ import annotations

from typing import Any

import pytest

from windlass.definition.schemas import SchemaError, compile_schema, with_defaults

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
    with pytest.raises(SchemaError, match="with its references written out it has more than 20,000 parts"):
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


def test_patterns_run_in_linear_time() -> None:
    assert compile_schema({"pattern": "^(a+)+$"}).check("a" * 50_000 + "b")


def test_defaults_fill_what_is_not_given() -> None:
    schema = {"properties": {"a": {"default": 1}, "b": {"properties": {"c": {"default": [2]}}}, "d": {}}}
    assert with_defaults(schema, {"b": {}}) == {"a": 1, "b": {"c": [2]}}
    assert with_defaults(schema, {"a": None, "x": 3}) == {"a": None, "x": 3}
    assert with_defaults(True, {"a": 1}) == {"a": 1}
    assert with_defaults(schema, [1]) == [1]
