"""The linearizability check itself: what it allows and what it refuses."""

from __future__ import annotations

from msgspec.structs import replace

from tests.simulation.linear import check
from tests.simulation.operations import Operation
from windlass.engine.core.evolve import EMPTY

COMPLETED = replace(EMPTY, status="completed", workflow_id="w")


def op(kind: str, called_s: float, answered_s: float, outcome: str = "ok", value: str = "") -> Operation:
    return Operation(kind, "w", "", called_s, answered_s, outcome, value=value)


def test_a_signal_taken_while_the_run_was_open_is_possible() -> None:
    calls = [op("start", 0, 1), op("signal", 2, 3), op("get", 4, 5, value="completed")]
    assert not list(check(calls, COMPLETED))


def test_a_signal_taken_after_the_end_was_seen_is_not() -> None:
    calls = [op("start", 0, 1), op("get", 2, 3, value="completed"), op("signal", 4, 5)]
    assert list(check(calls, COMPLETED))


def test_calls_that_overlap_may_take_effect_in_either_order() -> None:
    calls = [op("start", 0, 1), op("get", 2, 6, value="completed"), op("signal", 3, 5)]
    assert not list(check(calls, COMPLETED))


def test_a_run_cannot_be_started_twice() -> None:
    assert list(check([op("start", 0, 1), op("start", 2, 3)], COMPLETED))


def test_a_refusal_must_be_true() -> None:
    assert list(
        check(
            [op("start", 0, 1), op("start", 2, 3, "RUN_ALREADY_STARTED"), op("get", 4, 5, "RUN_NOT_FOUND")], COMPLETED
        )
    )


def test_an_unknown_call_may_have_happened_or_not() -> None:
    for outcome in ("ok", "RUN_ALREADY_STARTED"):
        calls = [op("start", 0, float("inf"), "unknown"), op("start", 2, 3, outcome), op("get", 4, 5, value="running")]
        assert not list(check(calls, COMPLETED))


def test_an_accepted_run_that_is_not_there_is_told() -> None:
    assert list(check([op("start", 0, 1)], None))
