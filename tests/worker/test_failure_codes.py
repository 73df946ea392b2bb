"""What a person can read about failure codes is what the runtimes say."""

from __future__ import annotations

import re
from pathlib import Path

from windlass.engine.failure_codes import ENGINE_ONLY
from windlass.runtimes import failures

PAGE = Path(__file__).resolve().parents[2] / "docs" / "failures.md"
ENGINE_ROW = re.compile(r"^\| (`[A-Z_`, ]+`) \|", re.MULTILINE)
CODE = re.compile("[A-Z_]+")
ROW = re.compile(r"^\| `([A-Z_]+)` \| .+ \| (yes|no.*|–) \|$", re.MULTILINE)


def test_every_code_of_the_runtimes_is_explained_and_no_other() -> None:
    assert {code for code, _ in ROW.findall(PAGE.read_text())} == set(failures.MEANINGS)


def test_every_code_of_the_engine_is_known_and_cannot_be_thrown() -> None:
    _, _, of_the_engine = PAGE.read_text().partition("## From the engine")
    codes = {code for row in ENGINE_ROW.findall(of_the_engine) for code in CODE.findall(row)}
    assert codes == failures.OF_THE_ENGINE
    assert [code for code in codes if not failures.refuse_author_code(code)] == []


def test_the_page_says_truly_what_is_tried_again() -> None:
    said_no = {code for code, again in ROW.findall(PAGE.read_text()) if again.startswith("no")}
    assert said_no == failures.NOT_RETRYABLE


def test_every_code_that_only_the_engine_gives_is_explained() -> None:
    assert set(re.findall(r"`([A-Z_]+)`", PAGE.read_text().partition("## From the engine")[2])) >= ENGINE_ONLY
