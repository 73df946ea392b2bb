"""Reading text: places of every part, nothing executed, and hostile documents that end in a problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.definition.problems import DefinitionError
from windlass.definition.source import from_value, load, loads


def problem(text: str, name: str = "d.yaml") -> str:
    with pytest.raises(DefinitionError) as refused:
        loads(text, name)
    return str(refused.value)


def test_yaml_keys_and_words_stay_what_was_written() -> None:
    lines = "on: off,yes: no,flag: true,none: ~,date: 2024-01-01,zip: 00123,size: 1_000,octal: 0o7,float: 1.50,int: -3"
    assert loads(lines.replace(",", "\n")).value == {
        "on": "off",
        "yes": "no",
        "flag": True,
        "none": None,
        "date": "2024-01-01",
        "zip": "00123",
        "size": "1_000",
        "octal": "0o7",
        "float": 1.5,
        "int": -3,
    }


def test_marks_count_from_one_and_know_keys() -> None:
    marks = loads('a: 1\nstates:\n  charge:\n    - {when: "x"}\n').marks
    assert (marks[("a",)].line, marks[("a",)].column, marks[("a",)].key_column) == (1, 4, 1)
    when = marks[("states", "charge", 0, "when")]
    assert (when.line, when.column, when.key_line, when.key_column, when.style) == (4, 14, 4, 8, '"')


def test_json_with_tabs_and_surrogate_pairs() -> None:
    authored = loads('{\n\t"a": "\\ud83d\\ude00",\n\t"b": [1, 2.5, null]}', "d.json")
    assert authored.value == {"a": "😀", "b": [1, 2.5, None]}
    assert (authored.marks[("b", 1)].line, authored.marks[("b", 1)].column) == (3, 11)


def test_anchors_are_expanded_at_each_use() -> None:
    authored = loads("a: &x {k: [1]}\nb: *x\nc: {d: *x}\n")
    assert authored.value == {"a": {"k": [1]}, "b": {"k": [1]}, "c": {"d": {"k": [1]}}}
    authored.value["b"]["k"].append(2)
    assert authored.value["a"] == {"k": [1]}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "d.yaml:2:1: not YAML: did not find expected node content"),
        ("a:\n\tb: 1", "not YAML: found character that cannot start any token (indent with spaces"),
        ("a: b: c", "d.yaml:1:5: not YAML: mapping values are not allowed"),
        ("", "the document is empty"),
        ("a: 1\n---\nb: 2", "d.yaml:2:1: the file holds more than one document"),
        ("a: *b", "d.yaml:1:4: a: the alias *b has no anchor &b before it"),
        ("a: &a [*a]", "the alias *a stands inside its own anchor"),
        ("<<: {a: 1}", "the merge key << is not supported"),
        ("? [a]\n: b", "a key must be text"),
        (BOMB, "has more than 100,000 values"),
        ("".join(f"%TAG !a{n}! x\n" for n in range(1_000)) + "--- 1", "%TAG stands there too often"),
        ("[" * 5000, "nested deeper than 48 levels"),
        ("a: " * 1, "d.yaml"),
        ("\ud800", "half of a surrogate pair"),
        ("x" * 2_000_001, "the limit is 2,000,000"),
        ("\x00", "not YAML"),
    ],
)
def test_unreadable_yaml(text: str, told: str) -> None:
    if text == "a: ":
        assert loads(text).value == {"a": None}
    else:
        assert told in problem(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": [1,}', "d.json:1:10: expected a JSON value"),
        ('{"a": [1}', "d.json:1:9: expected ',' or ']'"),
        ('{"a"}', "d.json:1:5: expected ':' after the key"),
        ('{"a": tru}', "d.json:1:7: not a JSON value: tru"),
        ('{"a": NaN}', "not a JSON value: NaN"),
        ('{"a": "x', "expected a JSON value"),
        ('{"a": "\\ud800"}', "not a JSON value"),
        ("{a: 1}", "expected a key in double quotes"),
        ("{} {}", "more text after the end"),
        ("", "the text ends in the middle"),
        ('{"a":' * 60, "nested deeper than 48 levels"),
        ("[" * 100_000, "nested deeper than 48 levels"),
    ],
)
def test_unreadable_json(text: str, told: str) -> None:
    assert told in problem(text, "d.json")


def test_tags_and_odd_numbers_are_told_with_everything_else() -> None:
    authored = loads(
        "a: !!python/object/apply:os.system [x]\nb: .inf\nc: 1e999\nd: 99999999999999999999\na: 2\n", "d.yaml"
    )
    assert [(p.line, p.path) for p in authored.problems] == [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "a")]
    assert authored.value["a"] == ["x"]


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "order.yaml"
    file.write_bytes("\ufeffworkflow: é\r\n".encode())
    assert load(file).value == {"workflow": "é"}
    file.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(DefinitionError, match=r"order\.yaml:2:1: not UTF-8"):
        load(file)
    with pytest.raises(DefinitionError, match="cannot read the file: No such file"):
        load(tmp_path / "missing.yaml")
    with pytest.raises(DefinitionError, match="cannot read the file"):
        load(tmp_path)


def test_a_value_from_a_program_must_be_json() -> None:
    assert from_value({"a": (1, 2)}).value == {"a": [1, 2]}
    with pytest.raises(DefinitionError, match="not a JSON value"):
        from_value({"a": object()})
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(DefinitionError, match="not a JSON value"):
        from_value(loop)


texts = st.text(alphabet="ab:-[]{}&*!|>'\"#%@,? \n\t~<1.\\", max_size=60) | st.text(max_size=60)


@given(texts, st.sampled_from(["d.yaml", "d.json"]))
def test_any_text_is_read_or_refused_with_a_rendering(text: str, name: str) -> None:
    try:
        loads(text, name)
    except DefinitionError as error:
        rendered = error.render()
    else:
        return
    assert rendered
