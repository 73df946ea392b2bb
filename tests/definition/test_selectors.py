"""Selectors and templates: values stay JSON text where nothing must look inside, and what is missing is named."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.engine.core.selectors import (
    Full,
    Key,
    Keys,
    NoInput,
    Path,
    PathSyntaxError,
    Scope,
    SelectorError,
    Static,
    TemplateSelector,
    TemplateSyntaxError,
    parse_path,
    parse_template,
    render,
    render_path,
    select,
    selector_names,
    template_names,
)

CONTEXT = {
    "order": b'{"id":"o-1","items":[{"id":7,"qty":2}],"note":null}',
    "total": b"1.50",
    "odd": b'{ "spaced" :  1 }',
}


def path(text: str, default: bytes | None = None) -> Path:
    return Path(segments=parse_path(text), default=default)


def template(value: Any, default: bytes | None = None) -> TemplateSelector:
    return TemplateSelector(template=parse_template(value), default=default)


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (NoInput(), b"null"),
        (Static(value=b'{"a":1}'), b'{"a":1}'),
        (Key(key="odd"), b'{ "spaced" :  1 }'),
        (Keys(keys=("total", "odd")), b'{"total":1.50,"odd":{ "spaced" :  1 }}'),
        (Full(), b'{"order":' + CONTEXT["order"] + b',"total":1.50,"odd":{ "spaced" :  1 }}'),
        (path("order.items[0].id"), b"7"),
        (path("order.items[-1].qty"), b"2"),
        (path("order.note"), b"null"),
        (path("total"), b"1.50"),
        (path("order.nothing", b'"x"'), b'"x"'),
        (Key(key="nothing", default=b"[]"), b"[]"),
        (Keys(keys=("total", "nothing"), default=b"0"), b'{"total":1.50,"nothing":0}'),
        (template({"n": "${order.items[0].qty}", "t": "id ${order.id}: ${order.items}"}),
         b'{"n":2,"t":"id o-1: [{\\"id\\":7,\\"qty\\":2}]"}'),
        (template("${order.nothing ?? {\"a\": 1}}"), b'{"a":1}'),
        (template("${no ?? {\"a\": {\"b\": [{}]}} }, ${no ?? [\"}\"]}"), b'"{\\"a\\":{\\"b\\":[{}]}}, [\\"}\\"]"'),
        (template("${no[\"a??b\"] ?? {\"}\": \"{\"}}"), b'{"}":"{"}'),
        (template(["${nothing}"], b"[]"), b"[]"),
        (template("$${order.id} costs $5"), b'"${order.id} costs $5"'),
    ],
)  # fmt: skip
def test_select(selector: Any, expected: bytes) -> None:
    assert select(selector, CONTEXT) == expected


@pytest.mark.parametrize(
    ("selector", "named", "why"),
    [
        (Key(key="nothing"), "nothing", "the context has no such key"),
        (Keys(keys=("total", "nothing")), "nothing", "no such key"),
        (path("order.items[3].id"), "order.items[3].id", "'order.items' has 1 items"),
        (path("order.id.x"), "order.id.x", "'order.id' is a string, not an object"),
        (path("order.note.x"), "order.note.x", "'order.note' is null, not an object"),
        (path("order[0]"), "order[0]", "'order' is an object, not a list"),
        (template({"a": ["${order.itms}"]}), "order.itms", "'order' has no 'itms'"),
    ],
)
def test_what_is_missing_is_named(selector: Any, named: str, why: str) -> None:
    with pytest.raises(SelectorError, match="is missing") as missing:
        select(selector, CONTEXT)
    assert missing.value.name == named
    assert why in missing.value.reason


def test_extra_names_hide_context_keys_and_may_be_text_or_values() -> None:
    extra = {"result": {"ok": True}, "total": b"3", "index": 0}
    assert select(template("${result.ok}"), CONTEXT, extra) == b"true"
    assert select(Key(key="total"), CONTEXT, extra) == b"3"
    assert select(Key(key="index"), CONTEXT, extra) == b"0"
    assert select(Full(), {"total": b"1"}, extra) == b'{"total":1}'


def test_a_value_is_parsed_only_when_asked_for() -> None:
    scope = Scope({"broken": b"not json", "fine": b"1"})
    assert scope["fine"] == 1
    assert scope.raw("broken") == b"not json"
    with pytest.raises(msgspec.DecodeError):
        scope["broken"]


def test_rendered_literals_are_never_shared() -> None:
    parsed = parse_template({"list": []})
    first = render(parsed, {})
    first["list"].append(1)
    assert render(parsed, {}) == {"list": []}


@pytest.mark.parametrize(
    "text", ["", ".a", "a..b", "a.", "a[", "a[x]", "a b", "a.b[0", '["x"]', 'a["x]', "${a}", "a[1.5]"]
)
def test_not_a_path(text: str) -> None:
    with pytest.raises(PathSyntaxError):
        parse_path(text)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ("${", ""),
        ({"a": ["x", "${a b}"]}, "a[1]"),
        ("${a ?? b}", ""),
        ("${a ?? " + "[" * 9999 + "]" * 9999 + "}", ""),
        ("${}", ""),
        ({"k": {"é": "${a"}}, "k.é"),
    ],
)
def test_not_a_template(value: Any, where: str) -> None:
    with pytest.raises(TemplateSyntaxError) as refused:
        parse_template(value)
    assert refused.value.path == where


def test_names_tell_what_is_needed() -> None:
    parsed = parse_template({"a": "${x.y} ${z ?? 1}", "b": ["${w}"]})
    assert template_names(parsed) == {"x", "w"}
    assert selector_names(path("order.id")) == {"order"}
    assert selector_names(Full()) == set()


segments = st.one_of(st.text(min_size=1).filter(lambda text: text.isprintable()), st.integers(-999, 999))


@given(st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True), st.lists(segments, max_size=6))
def test_a_rendered_path_is_read_back(first: str, rest: list[str | int]) -> None:
    assert parse_path(render_path((first, *rest))) == (first, *rest)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_a_template_without_holes_is_its_own_value(value: Any) -> None:
    escaped = msgspec.json.decode(msgspec.json.encode(value).replace(b"${", b"$${"))
    if b"$${" not in msgspec.json.encode(value):
        assert render(parse_template(escaped), {}) == value


@given(st.recursive(json_values, lambda inner: st.text(alphabet='${}ab.?[]" \\') | st.lists(inner), max_leaves=8))
def test_any_value_is_a_template_or_refused(value: Any) -> None:
    try:
        rendered = render(parse_template(value), Scope({"a": b"1", "b": b'{"a":[1]}'}))
    except (TemplateSyntaxError, SelectorError):
        return
    msgspec.json.encode(rendered)
