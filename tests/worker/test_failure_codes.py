"""What a person can read about failure codes is what the runtimes say."""

from __future__ import annotations

import re
from pathlib import Path

from windlass.engine.failure_codes import ENGINE_ONLY
from windlass.runtimes import failures

PAGE = Path(__file__).resolve().parents[2] / "docs" / "failures.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| .+ \| (yes|no.*|–) \|$", re.MULTILINE)


def test_every_code_of_the_runtimes_is_explained_and_no_other() -> None:
    assert {code for code, _ in ROW.findall(PAGE.read_text())} == set(failures.MEANINGS)


def test_the_page_says_truly_what_is_tried_again() -> None:
    said_no = {code for code, again in ROW.findall(PAGE.read_text()) if again.startswith("no")}
    assert said_no == failures.NOT_RETRYABLE


def test_every_code_that_only_the_engine_gives_is_explained() -> None:
    assert set(re.findall(r"`([A-Z_]+)`", PAGE.read_text().partition("## From the engine")[2])) >= ENGINE_ONLY
