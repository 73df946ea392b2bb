"""Waits, signals, the inbox, event transitions."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from tests.core.build import SECOND, branch, expression, number_schema, on, state, task, template, workflow
from tests.core.world import World
from windlass.engine.core import commands as c
from windlass.engine.core import signals
from windlass.engine.core.definition import Branch, MapBody, ParallelBody, TaskAction, WaitBody
from windlass.engine.core.selectors import Key


def wait(*names: str, **given: Any) -> Branch:
    return Branch(body=WaitBody(names=names, **given), output="got")


def test_a_wait_for_all_of_its_names() -> None:
    world = World(workflow(state("s", wait("a", "b")))).start()
    world.signal("b", 2)
    assert world.state.status == "waiting"
    world.signal("b", 3)
    assert world.state.inbox == 1, "the second b is buffered: the wait has one"
    world.signal("a", 1)
    assert world.output() == {"b": 2, "a": 1}
    assert world.context()["got"] == {"b": 2, "a": 1}


def test_a_wait_for_any_of_its_names() -> None:
    world = World(workflow(state("s", wait("a", "b", any=True)))).start()
    world.signal("b", 2)
    assert world.output() == {"b": 2}


def test_signals_are_buffered_until_a_wait_opens_oldest_first() -> None:
    world = World(workflow(state("s", task(), on("success", "w")), state("w", wait("a")))).start()
    for number in range(3):
        world.signal("a", number)
    world.signal("other")
    assert world.state.inbox == 4
    world.succeed()
    assert (world.state.status, world.output(), world.state.inbox) == ("completed", {"a": 0}, 3)


def test_two_waits_of_one_name_take_one_signal_each() -> None:
    both = ParallelBody(branches=(("x", wait("a")), ("y", wait("a"))))
    world = World(workflow(state("s", task(), on("success", "w")), state("w", both))).start()
    world.signal("a", 1)
    world.signal("a", 2)
    world.succeed()
    world.catch_up()
    assert world.state.status == "completed"
    assert world.output() == {"x": {"a": 1}, "y": {"a": 2}}
    assert world.inbox == []


def test_wait_timeout_takes_its_route_or_cancels_the_run() -> None:
    waiting = state("w", wait("a"), on("success", "yes"), on("timeout", "late"), timeout_us=5 * SECOND)
    world = World(workflow(waiting, state("yes"), state("late"))).start()
    world.pass_time(5)
    assert world.state.state == "late"
    world = World(workflow(state("w", wait("a"), timeout_us=5 * SECOND))).start()
    world.pass_time(5)
    assert world.state.status == "cancelled"
    assert world.state.cancel is not None
    assert world.state.cancel.source == "timeout"
    assert world.state.failure is not None
    assert world.state.failure.code == "CANCELLED"
    assert "no transition takes its timeout" in world.state.failure.message


def test_a_wait_until_a_time_succeeds_with_what_came() -> None:
    soon = expression("'30s'")
    world = World(workflow(state("w", wait("a", "b", until=soon)))).start()
    world.signal("a", 1)
    world.pass_time(30)
    assert (world.state.status, world.output()) == ("completed", {"a": 1})


def test_schemas_refuse_a_signal_or_drop_a_buffered_one() -> None:
    schemas = (("a", number_schema()),)
    world = World(workflow(state("s", task(), on("success", "w")), state("w", wait("a", schemas=schemas)))).start()
    world.signal("a", "bad")
    world.signal("a", 5)
    world.succeed()
    assert "SignalDropped" in world.kinds()
    assert world.refused(c.Signal(name="a", payload=b'"bad"')) == "SIGNAL_SCHEMA_MISMATCH"
    world.catch_up()
    assert world.output() == {"a": 5}


def test_resolve_one_wait_by_its_id() -> None:
    both = ParallelBody(branches=(("x", wait("a")), ("y", wait("a", "b"))))
    world = World(workflow(state("w", both))).start()
    world.do(c.ResolveWait(wait_id="1:y", payload=b'{"a":1,"b":2}'))
    assert world.node("x").phase == "waiting"
    assert world.refused(c.ResolveWait(wait_id="1:y", payload=b"1")) == "WAIT_NOT_OPEN"
    assert world.refused(c.ResolveWait(wait_id="9:x", payload=b"1")) == "WAIT_NOT_OPEN"
    world.do(c.ResolveWait(wait_id="1:x", payload=b"7"))
    assert world.output() == {"x": {"a": 7}, "y": {"a": 1, "b": 2}}


def test_correlation_subscribes_while_the_wait_is_open() -> None:
    world = World(workflow(state("w", wait("paid", correlate=expression("order"))))).start({"order": "o-1"})
    assert world.subscriptions == {("paid", "o-1", "1:")}
    message = c.Signal(name="paid", payload=b"1", wait_id="1:")
    assert world.refused(c.Signal(name="paid", payload=b"1", wait_id="2:")) == "WAIT_NOT_OPEN"
    world.do(message)
    assert world.subscriptions == set()
    assert world.refused(message) == "RUN_CLOSED"
    world = World(workflow(state("w", wait("paid", correlate=expression("order"))))).start({"order": None})
    assert world.state.incidents[0].code == "NOT_A_KEY"


def test_event_transitions_interrupt_a_body() -> None:
    working = state(
        "work",
        task(),
        on(
            "event:stop",
            "stopped",
            when=expression("event.payload.really"),
            set=(("why", template("${event.payload}")),),
        ),
    )
    world = World(workflow(working, state("stopped"))).start()
    world.lease()
    world.signal("stop", {"really": False})
    assert world.state.inbox == 1
    world.signal("stop", {"really": True})
    assert (world.state.status, world.state.state) == ("completed", "stopped")
    assert world.context() == {"why": {"really": True}}
    assert len(world.stops) == 1
    assert not world.leases


def test_a_state_that_only_waits_for_events() -> None:
    idle = state("idle", None, on("event:go", "done"), on("timeout", "late"), timeout_us=9 * SECOND)
    world = World(workflow(idle, state("done"), state("late"))).start()
    assert world.state.status == "waiting"
    world.signal("go")
    assert world.state.state == "done"
    world = World(workflow(idle, state("done"), state("late"))).start()
    world.pass_time(9)
    assert world.state.state == "late"


def test_a_buffered_signal_moves_the_run_when_the_state_is_entered() -> None:
    first, second = state("first", task(), on("success", "second")), state("second", task(), on("event:go", "done"))
    world = World(workflow(first, second, state("done"))).start()
    world.signal("go")
    world.succeed()
    assert (world.state.state, world.state.inbox) == ("done", 0)
    assert not world.queue


def test_completion_with_unread_signals_can_be_refused() -> None:
    for rule, status in (("allow", "completed"), ("refuse", "failed")):
        world = World(workflow(state("s", task()), unread_signals=rule)).start()
        world.signal("x")
        world.succeed()
        assert world.state.status == status


def test_a_closed_run_takes_no_signal() -> None:
    world = World(workflow(state("s", branch(task())))).start()
    world.succeed()
    assert world.refused(c.Signal(name="x", payload=b"1")) == "RUN_CLOSED"


def test_waits_inside_a_map_take_signals_in_item_order() -> None:
    each = MapBody(items=Key(key="list"), branch=wait("a"))
    world = World(workflow(state("m", each))).start({"list": [1, 2, 3]})
    world.signal("a", "first")
    world.do(c.ResolveWait(wait_id="1:#2", payload=b'"third"'))
    world.do(c.Signal(name="a", payload=b'"second"', wait_id="1:#1"))
    assert world.output() == [{"a": "first"}, {"a": "second"}, {"a": "third"}]


def test_an_event_guard_that_cannot_be_evaluated_keeps_the_signal() -> None:
    definition = workflow(state("s", task(), on("event:go", "t", when=expression("missing"))), state("t"))
    world = World(definition).start()
    world.signal("go")
    assert (world.state.status, world.state.inbox) == ("incident", 1)
    (incident,) = world.state.incidents
    world.do(c.ResolveIncident(incident_id=incident.incident_id, set={"missing": b"true"}))
    assert (world.state.state, world.state.inbox) == ("t", 0)


def test_signals_that_come_while_actions_run_wait_for_the_body() -> None:
    enter = (TaskAction(branch=branch(task())),)
    world = World(workflow(state("s", wait("a"), enter=enter))).start()
    world.signal("a", 1)
    assert world.state.inbox == 1
    world.succeed("enter!0")
    assert world.output() == {"a": 1}


def test_the_inbox_has_a_limit_and_a_wait_still_gets_its_signal() -> None:
    world = World(workflow(state("w", wait("a"), on("success", "x")), state("x", wait("b")))).start()
    with patch.object(signals, "INBOX_MAX", 2):
        world.signal("b", 1)
        world.signal("b", 2)
        assert world.refused(c.Signal(name="b", payload=b"3")) == "INBOX_FULL"
        world.signal("a")
        assert world.state.status == "completed", "what is waited for is never refused"
