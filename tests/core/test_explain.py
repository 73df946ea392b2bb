"""Why does it not move? Each reason in words. And fresh logs, bounded records, clocks that jump."""

from __future__ import annotations

import msgspec

from tests.core.build import QUICK, SECOND, branch, delay, on, state, task, workflow
from tests.core.test_waits import wait
from tests.core.world import NOW, World
from windlass.engine.core import commands as c
from windlass.engine.core import events as e
from windlass.engine.core.clock import time_us
from windlass.engine.core.compaction import compacted
from windlass.engine.core.definition import MapBody, ParallelBody, PollBody, SpawnBody
from windlass.engine.core.evolve import fold
from windlass.engine.core.explain import ITEMS_SHOWN, Reason, explain
from windlass.engine.core.selectors import Key


def reasons(world: World) -> dict[str, Reason]:
    return {reason.kind: reason for reason in explain(world.state, world.items, world.now, world.definition)}


def test_a_queued_task_says_what_it_needs() -> None:
    world = World(workflow(state("s", branch(task("pay", queue="q"))))).start()
    reason = reasons(world)["queued"]
    assert (reason.queue, reason.task_kind, reason.since_us) == ("q", "python:pay", NOW)
    world.lease(worker="w7")
    assert "w7" in reasons(world)["leased"].what


def test_each_kind_of_waiting() -> None:
    body = ParallelBody(
        branches=(
            ("w", wait("a", "b")), ("d", delay(5)), ("c", branch(SpawnBody(workflow="x"))), ("t", branch(task())),
            ("p", branch(PollBody(task=task(), interval_us=30 * SECOND))),
        )
    )  # fmt: skip
    world = World(workflow(state("s", body, timeout_us=60 * SECOND), retry=QUICK)).start()
    world.signal("a", 1)
    world.fail("t", message="no luck")
    world.succeed("p", asks=c.Asks(suspend=b"1"))
    found = reasons(world)
    assert set(found) == {"signal", "timer", "child", "backoff", "poll"}
    assert found["signal"].names == ("b",)
    assert found["timer"].due_us == NOW + 5 * SECOND
    assert "no luck" in found["backoff"].what
    assert found["backoff"].due_us == NOW + SECOND
    assert found["poll"].due_us == NOW + 30 * SECOND
    assert found["child"].child == next(iter(world.children))


def test_what_stops_everything_comes_first() -> None:
    world = World(workflow(state("s", task()))).start(start_us=NOW + SECOND)
    assert reasons(world)["delayed_start"].due_us == NOW + SECOND
    world.pass_time(1)
    world.do(c.Pause(reason="look"))
    assert [reason.kind for reason in explain(world.state, {}, world.now)] == ["paused", "held"]
    world.do(c.RaiseIncident(code="X", message="odd"))
    assert "odd" in reasons(world)["incident"].what
    world.do(c.Terminate())
    assert list(reasons(world)) == ["closed"]


def test_a_large_map_is_summed_up() -> None:
    body = MapBody(items=Key(key="list"), branch=branch(task(), "item"))
    world = World(workflow(state("m", body))).start({"list": list(range(100))})
    world.succeed("#0")
    found = explain(world.state, world.items, world.now, world.definition)
    assert found[0].what.startswith("1 of 100 items done (0 failed), 99 open")
    assert len(found) == 1 + ITEMS_SHOWN


def test_a_fresh_log_carries_everything() -> None:
    body = MapBody(items=Key(key="list"), branch=branch(task(), "item"))
    world = World(workflow(state("m", body))).start({"list": [1, 2]})
    world.signal("later", 1)
    world.succeed("#0", result=1)
    after, event = compacted(world.state, world.items, world.now)
    stored = e.decode_events(e.encode_events([event]))
    state_again, items = fold(stored)
    assert state_again == after
    assert items == world.items
    assert (after.seq, after.inbox) == (world.state.seq + 1, 1)


def test_a_run_that_loops_keeps_a_record_of_the_same_size() -> None:
    definition = workflow(state("s", branch(task(), output="n"), on("success", "s")))
    world = World(definition, checked=False).start()
    sizes = set()
    for number in range(300):
        world.succeed(result=number % 10)
        if number > 200:
            sizes.add(len(msgspec.msgpack.encode(world.state)))
    assert max(sizes) - min(sizes) <= 2


def test_a_clock_that_runs_backwards_does_not_turn_time_around() -> None:
    world = World(workflow(state("s", task()))).start()
    world.now -= 3600 * SECOND
    world.lease()
    assert world.state.updated_us == NOW


def test_times_and_durations() -> None:
    now = 5_000_000
    for value, expected in {
        "90s": now + 90_000_000,
        "1m30s": now + 90_000_000,
        "PT1M30S": now + 90_000_000,
        "P1DT1S": now + 86_401_000_000,
        "1.5h": now + 5_400_000_000,
        90: now + 90_000_000,
        0.5: now + 500_000,
        1_700_000_000: 1_700_000_000_000_000,
        "2023-11-14T22:13:20Z": 1_700_000_000_000_000,
        "2023-11-14T23:13:20+01:00": 1_700_000_000_000_000,
    }.items():
        assert time_us(value, now) == expected, value
    for value in (True, None, "soon", "2023-11-14T22:13:20", [], float("nan"), ""):
        assert time_us(value, now) is None, value


def test_what_was_started_paused_does_not_wait_for_a_time() -> None:
    world = World(workflow(state("s", task()))).start(paused=True)
    assert list(reasons(world)) == ["paused"]
