"""Each mistake gives its message, with the path in the document and the line in the file: see mistakes.txt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from windlass.definition.compile import compile_document
from windlass.definition.problems import DefinitionError, Problem
from windlass.definition.source import loads

CASES = Path(__file__).with_name("mistakes.txt")
EXPECTED = re.compile(r"#([!~]) ([^:]*?): (.*)$")


def cases() -> list[tuple[str, str]]:
    chapters = re.split(r"^=== (.*)\n", CASES.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return list(zip(chapters[1::2], chapters[2::2], strict=True))


def expectations(text: str) -> list[tuple[int, bool, str, str]]:
    """(line, is a warning, path, words); an expectation on a line of its own belongs to the line above."""
    found = []
    line = 0
    for number, content in enumerate(text.split("\n"), start=1):
        line = number if content.partition("#!")[0].partition("#~")[0].strip() else line
        expected = EXPECTED.search(content)
        if expected:
            found.append((line, expected[1] == "~", expected[2], expected[3].strip()))
    return found


def problems_of(text: str) -> tuple[Problem, ...]:
    try:
        return compile_document(loads(text, "case.yaml")).warnings
    except DefinitionError as error:
        return error.problems


@pytest.mark.parametrize(("name", "text"), cases(), ids=[name for name, _ in cases()])
def test_mistake_is_told_with_its_place(name: str, text: str) -> None:
    problems = list(problems_of(text))
    for line, warning, path, words in expectations(text):
        matching = [p for p in problems if p.warning == warning and p.path == path and words in p.message]
        assert matching, f"not told: {path}: {words}\n" + "\n".join(map(str, problems))
        assert matching[0].line == line, f"told on the wrong line: {matching[0]}"
        problems.remove(matching[0])
    assert not problems, "told and not expected:\n" + "\n".join(map(str, problems))


def test_problems_come_in_the_order_of_the_text() -> None:
    text = dict(cases())["tasks"]
    lines = [problem.line for problem in problems_of(text)]
    assert lines == sorted(lines)
    assert len(lines) > 5


def test_rendering_quotes_the_line_with_a_caret() -> None:
    text = 'workflow: w\ninitial: a\nstates:\n  a:\n    transitions:\n      - {when: "x >", to: a}\n'
    with pytest.raises(DefinitionError) as refused:
        compile_document(loads(text, "orders.yaml"))
    assert refused.value.render() == (
        "orders.yaml:6:20: states.a.transitions[0].when: not a CEL expression: the expression ends too early\n"
        '    6 |       - {when: "x >", to: a}\n'
        "      |                    ^"
    )


def test_a_document_with_thousands_of_mistakes_tells_two_hundred() -> None:
    states = "".join(f"  s{number}: {{next: nowhere{number}}}\n" for number in range(1500))
    problems = problems_of(f"workflow: w\ninitial: s0\nstates:\n{states}")
    assert len(problems) == 200
