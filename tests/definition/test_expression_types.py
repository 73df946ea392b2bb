"""What is told of an expression that compiles, before any run meets it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.definition.test_expressions import SCOPE, pieces
from windlass.definition.cel_types import infer
from windlass.definition.checks_expressions import Purse, judge
from windlass.definition.compile import compile_canonical, compile_document
from windlass.definition.expressions import ExpressionSyntaxError, compile_expression
from windlass.definition.problems import DefinitionError
from windlass.definition.source import loads
from windlass.engine.core.definition import ExpressionError


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("a", ""),
        ("a.b[0]", ""),
        ("a > 1 || !b", "bool"),
        ("a + 1.5", "double"),
        ("'x' + a", "string"),
        ("a * b", "some"),
        ("0x1F - 2", "int"),
        ("a ? 1 : 2", "int"),
        ("a ? 1 : 'x'", "some"),
        ("a ? b : 1", ""),
        ("a ? true : 1", ""),
        ("[a][0]", ""),
        ("{'k': a ? 1 : 2}", "map"),
        ("a.map(x, x > 1)", "list"),
        ("a.exists(x, x > 1)", "bool"),
        ("a.getHours()", "int"),
        ("timestamp(a) - duration('1h') > timestamp(b)", "bool"),
        ("-size(a)", "int"),
        ("b'x'", "bytes"),
        ("has(a.b)", "bool"),
    ],
)
def test_the_type_of_an_expression(source: str, kind: str) -> None:
    assert infer(source, {}) == (kind, [], [])


@pytest.mark.parametrize(
    ("source", "message", "at"),
    [
        ("a && 5", "&& needs true or false, not int", 2),
        ("!(a + 1)", "! needs true or false, not int", 0),
        ("(a + 1) > 'x'", "there is no int > string", 8),
        ("a == 1 && 1 + 2.0 > b", "there is no int + double; convert with int(x) or double(x)", 12),
        ("a in 'text'", "there is no value in string", 2),
        ("size(a > 1) > 0", "bool has no size", 0),
        ("(a > 1).startsWith('x')", "startsWith is for a string, not for bool", 8),
        ("matches(a, 'x')", "matches is a method: write text.matches(…)", 0),
        ("a == null ? 1 + null > 1 : true", "there is no int + null", 14),
        (
            "a.all(x, x.matches('*'))",
            "the pattern '*' of matches cannot be used: not a valid regex: repetition operator missing",
            19,
        ),
    ],
)
def test_what_cannot_work_is_told_at_its_place(source: str, message: str, at: int) -> None:
    (finding,) = judge(source, condition=True)
    assert message in finding.message
    assert (finding.at, finding.doubtful) == (at, False)


def test_a_mistake_is_told_at_its_column() -> None:
    line = "    transitions: [{when: \"x == 1 && y - 'a' > 2\", to: null}]"
    text = f"workflow: w\ninitial: a\nstates:\n  a:\n{line}\n"
    with pytest.raises(DefinitionError) as refused:
        compile_document(loads(text))
    (problem,) = refused.value.problems
    assert (problem.line, line[problem.column - 1 :][:5]) == (5, "- 'a'")


def test_a_stored_definition_is_read_whatever_a_later_version_says_of_its_conditions() -> None:
    text = '{"workflow": "w", "initial": "a", "states": {"a": {"transitions": [{"when": "WHEN", "to": null}]}}}'
    assert compile_canonical(text.replace("WHEN", "5").encode()).name == "w"
    with pytest.raises(DefinitionError):
        compile_document(loads(text.replace("WHEN", "5")))


@given(st.lists(pieces, max_size=14).map("".join) | st.text(max_size=40))
def test_any_expression_can_be_judged_and_what_works_is_not_called_wrong(source: str) -> None:
    try:
        expression = compile_expression(source)
    except ExpressionSyntaxError:
        return
    judge(source, condition=True, kinds={"order": "map", "name": "string", "list": "list", "total": "number"})
    try:
        value = expression.evaluate(SCOPE)
    except ExpressionError:
        return
    kind, _, _ = infer(source, {})
    assert not isinstance(value, bool) or kind in ("", "bool")


@pytest.mark.parametrize("source", ["a?" * 500 + "b" + ":c" * 500, "!" * 2000 + "a", "a" + "?b:c" * 700])
def test_long_expressions_are_judged_without_a_deep_stack(source: str) -> None:
    infer(source, {})


def test_constants_of_one_document_share_what_evaluating_them_may_cost() -> None:
    """Each was bounded by itself: three hundred of these took half a minute, in which the engine stood still."""
    items = f"[{','.join(['1'] * 400)}]"
    purse, rounds = Purse(), 0
    while purse.left > 0:
        assert judge(f"{items}.all(a, {items}.all(b, b > 0))", condition=True, purse=purse) == []
        rounds += 1
    assert rounds < 20
    assert judge("[1][2] > 1", condition=True)
    assert judge("[1][2] > 1", condition=True, purse=purse) == []
