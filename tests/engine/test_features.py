"""The table of features names files and tests that exist, and leaves no row out."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "features.md").read_text("utf-8")
ROW = re.compile(r"^\| ([AB]\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)

#: The rows of the workflow model and of the workers.
SPANS = (
    "A1-A62 A64-A75 A80-A149 A155-A168 A173-A187 A233-A234 A238 B1-B5 B7 B11-B15 B23 B25-B26 B28 B32 B38 B44 B62 B66 "
    "B75-B76 B80-B82 B84-B88 B93 B97 B102 B106 B113-B114 B132-B137"
)


def expected() -> list[str]:
    rows = []
    for span in SPANS.split():
        first, _, last = span.partition("-")
        rows += [f"{first[0]}{number}" for number in range(int(first[1:]), int((last or first)[1:]) + 1)]
    return rows


@cache
def defined_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(function.name for function in functions)


def test_every_row_is_there_once() -> None:
    assert [number for number, *_ in ROW.findall(PAGE)] == expected()


@pytest.mark.parametrize(("number", "where", "proof"), [(n, w, p) for n, _, w, p in ROW.findall(PAGE)])
def test_a_row_names_what_exists(number: str, where: str, proof: str) -> None:
    if proof.startswith("*not yet*"):
        return
    files = re.findall(r"`([^`]+)`", where)
    assert files, f"{number} says not where it lives"
    assert [name for name in files if not (ROOT / name).exists()] == []
    (path, _, name) = re.fullmatch(r"`([^`]+)`", proof).group(1).partition("::")  # type: ignore[union-attr]
    assert name in defined_in(path), f"{number}: there is no test {name} in {path}"
