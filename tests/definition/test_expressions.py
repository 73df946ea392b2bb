"""Guards: what they give, how they fail, and that no expression can stop the engine."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.definition.cel_tokens import inspect
from windlass.definition.expressions import ExpressionSyntaxError, compile_expression, expression_names
from windlass.engine.core.definition import ExpressionError
from windlass.engine.core.selectors import Scope

SCOPE = {
    "order": {"total": 120, "rate": 1.5, "id": "o-1", "items": [{"price": 5, "sku": "a"}, {"price": 9, "sku": "b"}]},
    "name": "Ann",
    "nothing": None,
    "list": [3, 1, 2],
}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("order.total > 100 && name == 'Ann'", True),
        ("order.total > 100.5", True),
        ("has(order.discount)", False),
        ("has(order.total) && order.total < 10", False),
        ("'total' in order", True),
        ("order['id']", "o-1"),
        ("nothing == null", True),
        ("order.items.exists(i, i.price > 8)", True),
        ("order.items.all(i, i.price < order.total)", True),
        ("order.items.filter(i, i.price > 5).map(i, i.sku)", ["b"]),
        ("list.map(x, x * 2)", [6, 2, 4]),
        ("size(list) + order.items.size()", 5),
        ("double(order.total) * order.rate", 180.0),
        ("{'a': list[0], 'b': [name]}", {"a": 3, "b": ["Ann"]}),
        ("timestamp('2024-01-01T00:00:00+02:00') + duration('90s')", "2023-12-31T22:01:30Z"),
        ("duration('90m')", "5400s"),
        ("name.startsWith('A') ? 'x' : 'y'", "x"),
        ("order.items.map(order, order.sku)", ["a", "b"]),
    ],
)
def test_value(source: str, value: Any) -> None:
    assert compile_expression(source).evaluate(SCOPE) == value


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("order.totl > 1", "there is no key 'totl'"),
        ("unknown > 1", "there is no 'unknown' here"),
        ("order.total / 0 > 1", "division by zero"),
        ("order.total % 0 == 1", "division by zero"),
        ("order.total * order.rate > 1.0", "int and double do not mix: convert with int(x) or double(x)"),
        ("name + 1 == ''", "no such operation for these types (string + int)"),
        ("list[7] == 1", "index out of bounds: 7"),
        ("size(order.total) > 1", "size() does not take such arguments"),
        ("9223372036854775807 + order.total > 1", "overflow"),
        ("order.total", "gives a number where true or false is needed"),
        ("nothing", "gives null where true or false is needed"),
        ("name.matches('(')", "not a valid regex"),
    ],
)
def test_a_condition_that_fails_says_why(source: str, reason: str) -> None:
    with pytest.raises(ExpressionError) as failed:
        compile_expression(source, condition=True).evaluate(SCOPE)
    assert f"`{source}`" in str(failed.value)
    assert reason in str(failed.value)


@pytest.mark.parametrize("source", ["1.0 / 0.0", "b'bytes'", "double('nan')", "[1.0 / 0.0]"])
def test_only_json_values_come_out(source: str) -> None:
    with pytest.raises(ExpressionError):
        compile_expression(source).evaluate({})


@pytest.mark.parametrize(
    ("source", "message", "line", "column"),
    [
        ("a +", "the expression ends too early", 1, 4),
        ("a b", "unexpected 'b'", 1, 3),
        ("(1", "missing ')' at the end", 1, 3),
        ("a == 1 &&\n b == )", "unexpected ')'", 2, 7),
        ("a == 'x", "unexpected character", 1, 6),
        ("é", "unexpected character 'é'", 1, 1),
        ("", "the expression is empty", 1, 1),
        ("now() > 1", "unknown function 'now'", 1, 1),
        ("a == 1 &&\n a.lenght() > 1", "unknown function 'lenght'", 2, 4),
        ("a.maps(x, x)", "did you mean 'map'?", 1, 3),
        ("a.exists(x)", "write list.exists(item, expression of item)", 1, 3),
        ("(" * 40 + "1" + ")" * 40, "nested deeper than 32 levels", 1, 1),
        ("a + " * 2000 + "a", "longer than 4,096 bytes", 1, 1),
    ],
)
def test_not_an_expression(source: str, message: str, line: int, column: int) -> None:
    with pytest.raises(ExpressionSyntaxError) as refused:
        compile_expression(source)
    assert message in str(refused.value)
    assert (refused.value.line, refused.value.column) == (line, column)


def test_names_are_the_free_variables() -> None:
    assert expression_names("order.items.exists(i, i.x == limit) && 'text' == name // comment") == {
        "order",
        "limit",
        "name",
    }
    assert expression_names("items.map(order, order.x)") == {"items"}


def test_only_named_members_are_converted() -> None:
    """The cost of a guard must not depend on what it does not look at."""
    usage = inspect("order.total > 100 && has(order.customer.name)")
    assert usage.reads == {"order": {"total": None, "customer": {"name": None}}}
    assert inspect("order.total > 1 && order == x").reads == {"order": None, "x": None}
    scope = Scope({"order": msgspec.json.encode({"total": 200, "bad": 2**63, "items": list(range(10_000))})})
    assert compile_expression("order.total > 100").evaluate(scope) is True


@pytest.mark.parametrize(
    "source",
    [
        "big.filter(i, i > 1).size() > 1",
        "big.exists(i, big.exists(j, i + j < 0))",
        "big.all(i, holder.big[0] < i + 1)",
        "big.map(i, text).size() > 1",
        "big.map(i, big).map(i, i.map(j, j)).size() > 1",
        "size(" + "+".join(["text"] * 800) + ") > 1",
        "big.exists(i, size(text + text) < i)",
    ],
)
def test_an_expression_that_would_take_long_is_refused_at_once(source: str) -> None:
    scope = {"big": list(range(30_000)), "text": "x" * 200_000, "holder": {"big": list(range(30_000))}}
    expression = compile_expression(source)
    with pytest.raises(ExpressionError, match="too much work"):
        expression.evaluate(scope)


def test_long_lists_are_fine_where_the_work_is_linear() -> None:
    scope = {"items": [{"price": number} for number in range(20_000)]}
    assert compile_expression("items.exists(i, i.price == 19999)", condition=True).evaluate(scope) is True
    assert compile_expression("items.all(i, i.price >= 0) && size(items) > 1").evaluate(scope) is True


words = """order total list name x null true in has( size( string( int( timestamp( matches( .map(x, .exists(x,
    duration('1h') 1 2.5 'a' b'\\xff' 9223372036854775807 . ( ) [ ] { } && || ! - + * / % == < ? : , // " \\ é"""
pieces = st.sampled_from([*words.split(), " ", "\n"])


@given(st.lists(pieces, max_size=14).map("".join) | st.text(max_size=40))
def test_any_text_is_an_expression_or_refused(source: str) -> None:
    try:
        expression = compile_expression(source)
        value = expression.evaluate(SCOPE)
    except (ExpressionSyntaxError, ExpressionError):
        return
    msgspec.json.encode(value)


@pytest.mark.parametrize(
    ("source", "scope"),
    [
        ("list.all(x, x.matches('[[:alpha:]\\\\pL]{100}') || true)", {"list": ["a"] * 5_000}),
        ("name.matches('(?:a?){3000}[^a]')", {"name": "a" * 50_000}),
        ("list.all(x, name.matches('(a?){50}b') || true)", {"list": [1] * 1_000, "name": "a" * 10_000}),
        ("total.all(x, x.matches('(?:a?){1000}[^a]') || true)", {"total": {"a" * 100_000: 1}}),
        ("'a'.matches('(?x)a # [\\n{1000}{1000} # ]')", {}),
        (" || ".join(["name.matches('\\\\pL{100}\\\\pN{50}')"] * 100), {"name": "a"}),
    ],
)
def test_a_pattern_cannot_keep_the_engine_busy(source: str, scope: dict[str, Any]) -> None:
    began = time.process_time()
    with pytest.raises(ExpressionError, match="too much work"):
        compile_expression(source).evaluate(scope)
    assert time.process_time() - began < 1


def test_patterns_are_written_where_they_are_used() -> None:
    with pytest.raises(ExpressionSyntaxError, match="written here as one text"):
        compile_expression("name.matches('(a?)' + name)")


@pytest.mark.parametrize("count", [1, 300])
def test_ordinary_patterns_match(count: int) -> None:
    mails = ["a.b@example.org"] * count
    assert compile_expression(r"list.all(x, x.matches(r'^[\w.+-]+@[a-z0-9-]+\.[a-z]+$'))").evaluate({"list": mails})
    dated = {"name": "2026-11-21 " * 2_000}
    assert compile_expression(r"name.matches('^(\\d{4}-\\d{2}-\\d{2} )+$')").evaluate(dated)
