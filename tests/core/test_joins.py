"""Parallel and map: joins, windows, tolerance."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from tests.core.build import ONCE, branch, delay, on, state, task, template, workflow
from tests.core.world import World
from windlass.engine.core import commands as c
from windlass.engine.core import opening
from windlass.engine.core.definition import Join, MapBody, ParallelBody
from windlass.engine.core.limits import MAP_OPEN_MAX
from windlass.engine.core.selectors import Key, TemplateSelector


def parallel(*names: str, join: Join = Join.ALL, quorum: int = 0) -> ParallelBody:
    branches = tuple((name, branch(task(name), output=name)) for name in names)
    return ParallelBody(branches=branches, join=join, quorum=quorum)


def test_all_waits_for_the_last_and_merges_in_the_order_written() -> None:
    world = World(workflow(state("p", branch(parallel("a", "b"), output="both")))).start()
    world.succeed("b", result=2, asks=c.Asks(set={"who": b'"b"'}))
    assert world.context() == {}
    world.succeed("a", result=1, asks=c.Asks(set={"who": b'"a"'}))
    assert world.context() == {"a": 1, "b": 2, "both": {"a": 1, "b": 2}, "who": "b"}
    assert world.output() == {"a": 1, "b": 2}


def test_all_fails_with_the_first_failure_and_stops_the_rest() -> None:
    definition = workflow(state("p", parallel("a", "b", "c"), on("failure", "end")), state("end"), retry=ONCE)
    world = World(definition).start()
    world.succeed("a", result=1)
    world.lease("c")
    world.fail("b", code="NO")
    assert world.state.state == "end"
    assert world.state.failure is not None
    assert world.state.failure.code == "NO"
    assert [stop.path for stop in world.stops] == ["c"]
    assert world.context() == {"a": 1}, "what succeeded before has landed"
    assert world.refused(c.TaskSucceeded(path="c", visit=1, epoch=1, output=b"1")) == "RUN_CLOSED"


@pytest.mark.parametrize(
    ("join", "quorum", "outcomes", "status"),
    [
        (Join.ANY, 0, ["+"], "completed"),
        (Join.ANY, 0, ["-"], "failed"),
        (Join.FIRST_SUCCESS, 0, ["-", "-", "+"], "completed"),
        (Join.FIRST_SUCCESS, 0, ["-", "-", "-"], "failed"),
        (Join.QUORUM, 2, ["-", "+", "+"], "completed"),
        (Join.QUORUM, 2, ["-", "+", "-"], "failed"),
        (Join.QUORUM, 2, ["-", "-"], "failed"),
    ],
)
def test_joins(join: Join, quorum: int, outcomes: list[str], status: str) -> None:
    world = World(workflow(state("p", parallel("a", "b", "c", join=join, quorum=quorum)), retry=ONCE)).start()
    for name, outcome in zip("abc", outcomes, strict=False):
        assert world.state.status == "running"
        if outcome == "+":
            world.succeed(name)
        else:
            world.fail(name)
    assert world.state.status == status
    assert not world.queue


def test_nested_parallels_with_instant_branches() -> None:
    inner = ParallelBody(branches=(("x", delay(0)), ("y", branch(task()))))
    outer = ParallelBody(branches=(("in", branch(inner)), ("out", delay(0))))
    world = World(workflow(state("p", outer))).start()
    world.succeed("in/y", result=5)
    assert world.output() == {"in": {"x": None, "y": 5}, "out": None}


def over(count: int, world_of: MapBody | None = None, **given: Any) -> World:
    body = MapBody(items=Key(key="list"), branch=branch(task(), "item", output=""), **given)
    return World(workflow(state("m", branch(body, output="out")), retry=ONCE)).start({"list": list(range(count))})


def test_map_runs_every_item_and_keeps_their_order() -> None:
    world = over(3)
    assert sorted(path for _, path in world.queue) == ["#0", "#1", "#2"]
    for number in (2, 0, 1):
        assert world.succeed(f"#{number}", result=number * 10).input == str(number).encode()
    assert world.output() == [0, 10, 20]
    assert world.items == {}


def test_map_keeps_to_its_concurrency() -> None:
    world = over(5, concurrency=2)
    order = []
    while world.queue:
        assert len(world.queue) <= 2
        path = min(path for _, path in world.queue)
        order.append(path)
        world.succeed(path, result=path)
    assert order == ["#0", "#1", "#2", "#3", "#4"]
    assert world.output() == order


def test_an_empty_map_is_done_and_a_map_over_no_list_is_an_incident() -> None:
    assert over(0).output() == []
    body = MapBody(items=Key(key="list"), branch=branch(task(), "item"))
    world = World(workflow(state("m", body))).start({"list": "text"})
    assert world.state.incidents[0].code == "MAP_ITEMS_NOT_A_LIST"
    world.do(c.ResolveIncident(incident_id=world.state.incidents[0].incident_id, set={"list": b"[1]"}))
    world.succeed("#0", result=1)
    assert world.output() == [1]


def test_tolerated_failures_leave_a_null() -> None:
    world = over(4, tolerated_failures=1)
    world.fail("#1")
    for number in (0, 2, 3):
        world.succeed(f"#{number}", result=number)
    assert world.output() == [0, None, 2, 3]
    world = over(4, tolerated_percent=50.0)
    for number in (0, 1):
        world.fail(f"#{number}")
    assert world.state.status == "running"


def test_a_share_of_the_items_is_counted_as_it_is_written() -> None:
    world = over(375, tolerated_percent=18.4)
    for number in range(69):
        world.fail(f"#{number}")
    assert world.state.status == "running"


def test_too_many_failures_stop_the_map() -> None:
    world = over(4, tolerated_failures=1)
    world.lease("#3")
    world.fail("#1")
    world.fail("#0", code="BAD")
    assert world.state.status == "failed"
    assert world.state.failure is not None
    assert world.state.failure.code == "BAD"
    assert [stop.path for stop in world.stops] == ["#3"]
    assert not world.queue
    assert not world.items


def test_items_see_their_item_and_index_and_can_nest() -> None:
    inner = MapBody(
        items=Key(key="item"),
        branch=branch(task(), TemplateSelector(template=template({"v": "${item}", "i": "${index}", "all": "${name}"}))),
    )
    body = MapBody(items=Key(key="rows"), branch=branch(inner))
    world = World(workflow(state("m", body))).start({"rows": [[1, 2], [3]], "name": "n"})
    assert world.succeed("#0/#1", result="b").input == b'{"v":2,"i":1,"all":"n"}'
    assert world.succeed("#0/#0", result="a").input == b'{"v":1,"i":0,"all":"n"}'
    assert world.succeed("#1/#0", result="c").input == b'{"v":3,"i":0,"all":"n"}'
    assert world.output() == [["a", "b"], ["c"]]


def test_a_parallel_inside_each_item() -> None:
    body = MapBody(items=Key(key="list"), branch=branch(parallel("a", "b")), concurrency=1)
    world = World(workflow(state("m", body))).start({"list": [1, 2]})
    for path in ("#0/a", "#0/b", "#1/b", "#1/a"):
        world.succeed(path, result=path)
    assert world.output() == [{"a": "#0/a", "b": "#0/b"}, {"a": "#1/a", "b": "#1/b"}]


def test_results_of_items_of_a_decided_map_are_refused() -> None:
    inner = MapBody(items=Key(key="list"), branch=branch(task(), "item"))
    both = ParallelBody(branches=(("m", branch(inner)), ("t", branch(task()))), join=Join.ANY)
    definition = workflow(state("p", both, on("success", "next")), state("next", task()))
    world = World(definition).start({"list": [1, 2]})
    world.lease("m/#0")
    world.succeed("t")
    assert world.refused(c.TaskSucceeded(path="m/#0", visit=1, epoch=1, output=b"1")) == "LEASE_LOST"
    assert list(world.queue) == [(2, "")]


def test_a_large_map_opens_in_chunks() -> None:
    count = 2 * MAP_OPEN_MAX + 500
    body = MapBody(items=Key(key="list"), branch=branch(delay(0).body))
    world = World(workflow(state("m", body)), checked=False).start({"list": list(range(count))})
    rounds = 0
    while world.deferred:
        rounds += 1
        world.catch_up()
    assert world.state.status == "completed"
    assert len(world.output()) == count


def test_items_that_end_at_once_do_not_each_read_the_whole_list() -> None:
    body = MapBody(items=Key(key="list"), branch=branch(delay(0).body))
    with patch.object(opening, "_items", wraps=opening._items) as read:
        world = World(workflow(state("m", body)), checked=False).start({"list": list(range(1000))})
        world.catch_up()
    assert world.state.status == "completed"
    assert read.call_count <= 10


def test_ten_thousand_items_do_not_make_one_big_record() -> None:
    import msgspec

    world = over(10_000, concurrency=50)
    world.checked = False
    for number in range(1200):
        world.succeed(f"#{number}", result=number)
    record = msgspec.msgpack.encode(msgspec.structs.replace(world.state, context={}))
    assert len(record) < 1000


def test_a_list_that_is_edited_away_while_the_map_is_open_is_an_incident() -> None:
    body = MapBody(items=Key(key="list"), branch=branch(task(), "item"), concurrency=2)
    with patch.object(opening, "MAP_CHUNK", 2):
        world = World(workflow(state("m", body))).start({"list": [0, 1, 2, 3]})
        world.do(c.SetVariables(values={"list": b"7"}))
        world.succeed("#0", 0)
        world.succeed("#1", 1)
        (incident,) = world.state.incidents
        assert (incident.kind, incident.code) == ("items", "MAP_ITEMS_NOT_A_LIST")
        world.do(c.ResolveIncident(incident_id=incident.incident_id, set={"list": b"[9,9,2]"}))
        world.succeed("#2", 2)
        assert world.lease("#3").input == b"null", "an edited list that is too short gives null"
        world.report("#3", 3)
    assert world.output() == [0, 1, 2, 3]
