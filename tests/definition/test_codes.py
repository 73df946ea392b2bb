"""What a definition can name is what task code can do: the error codes in `codes`, and what can be granted."""

from __future__ import annotations

import pytest

from windlass.definition.fields import CODE, GRANTS
from windlass.engine import failure_codes
from windlass.engine.core import limits
from windlass.runtimes import asks, port
from windlass.runtimes.failures import AUTHOR_CODE, OF_THE_ENGINE, refuse_author_code

GOOD = ["CARD_DECLINED", "card.declined", "_x", "http:404", "not-found", "A" * 100]
BAD = ["", "4XX", ".x", "-x", "card declined", "über", "A" * 101, "CARD\n", "a/b"]


def test_definitions_and_runtimes_have_one_alphabet() -> None:
    assert CODE.pattern == AUTHOR_CODE.pattern + r"\Z" == failure_codes.CODE.pattern + r"\Z"


def test_what_is_the_engines_alone_is_refused_from_authors() -> None:
    assert failure_codes.ENGINE_ONLY <= OF_THE_ENGINE


@pytest.mark.parametrize("code", [*GOOD, *BAD])
def test_a_code_is_good_for_both_or_for_neither(code: str) -> None:
    assert (CODE.match(code) is not None) == (refuse_author_code(code) == "") == (code in GOOD)


def test_what_a_definition_can_grant_is_what_the_runtimes_know() -> None:
    assert set(GRANTS) == set(port.GRANTS)


def test_the_engine_waits_for_as_many_signals_as_the_runtimes_let_through() -> None:
    assert limits.WAIT_SIGNALS_MAX == asks.MAX_SIGNALS
