"""Error codes: what a definition can name in `codes` is what task code can fail with."""

from __future__ import annotations

import pytest

from windlass.definition.fields import CODE
from windlass.engine import failure_codes
from windlass.runtimes.failures import AUTHOR_CODE, refuse_author_code

GOOD = ["CARD_DECLINED", "card.declined", "_x", "http:404", "not-found", "A" * 100]
BAD = ["", "4XX", ".x", "-x", "card declined", "über", "A" * 101, "CARD\n", "a/b"]


def test_definitions_and_runtimes_have_one_alphabet() -> None:
    assert CODE.pattern == AUTHOR_CODE.pattern + r"\Z" == failure_codes.CODE.pattern + r"\Z"


@pytest.mark.parametrize("code", [*GOOD, *BAD])
def test_a_code_is_good_for_both_or_for_neither(code: str) -> None:
    assert (CODE.match(code) is not None) == (refuse_author_code(code) == "") == (code in GOOD)
