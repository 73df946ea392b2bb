"""The model of many engines: repeatable, and no better than its tightest resource."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.scaling import ENGINES, Inputs, claims, limits, lines


def test_the_same_seed_gives_the_same_table() -> None:
    assert lines(Inputs(), 7) == lines(Inputs(), 7)
    assert [int(line[0]) for line in lines(Inputs(), 7)] == list(ENGINES)


def test_one_engine_has_no_conflicts_and_several_have() -> None:
    assert claims(Inputs(), 1, seed=1, seconds=1).conflicts == 0
    assert claims(Inputs(), 4, seed=1, seconds=1).conflicts > 0


def test_namespaces_spread_the_moving_end() -> None:
    few = Inputs(queued=0)
    many = replace(few, namespaces=8)
    claimed = claims(few, 32, seed=1, seconds=0.5)
    assert limits(few, 32, claimed)[0].name == "moving end of the run table"
    assert limits(many, 32, claimed)[0].steps > limits(few, 32, claimed)[0].steps


def test_without_queued_tasks_the_queue_is_no_limit() -> None:
    names = {limit.name for limit in limits(Inputs(queued=0), 1, claims(Inputs(), 1, seed=1, seconds=0.5))}
    assert "head of one queue" not in names
