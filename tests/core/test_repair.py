"""Incidents, catches, compensation, updates."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.build import ONCE, QUICK, branch, expression, number_schema, on, state, task, template, workflow
from tests.core.world import World
from windlass.engine.core import commands as c
from windlass.engine.core.definition import (
    Catch,
    Definition,
    MapBody,
    ParallelBody,
    Scope,
    SetAction,
    Transition,
    Update,
)
from windlass.engine.core.selectors import Key


def resolve(world: World, action: str = "retry", **more: Any) -> None:
    (incident,) = world.state.incidents
    world.do(c.ResolveIncident(incident_id=incident.incident_id, action=action, **more))


def parked(*transitions: Transition) -> World:
    definition = workflow(
        state("s", branch(task(), "x"), *transitions), state("t"), retry=ONCE, on_unhandled="incident"
    )
    world = World(definition).start({"x": 1})
    world.fail()
    return world


def test_out_of_retries_parks_the_run_and_retry_goes_on_at_the_same_point() -> None:
    world = parked(on("success", "t"))
    assert (world.state.status, world.state.incidents[0].code, world.state.visit) == ("incident", "BOOM", 1)
    assert world.outbox[0][0] == "incident.opened"
    resolve(world, set={"x": b"2"}, by="op")
    activation = world.succeed()
    assert (activation.input, activation.epoch, activation.attempt, activation.visit) == (b"2", 2, 1, 1)
    assert world.state.status == "completed"


def test_skip_takes_another_result_and_fail_gives_up() -> None:
    world = parked(on("success", "t"))
    resolve(world, "skip", output=b"[9]")
    assert (world.state.status, world.output()) == ("completed", [9])
    world = parked()
    resolve(world, "fail")
    assert (world.state.status, world.state.failure.code) == ("failed", "BOOM")  # type: ignore[union-attr]


def test_a_failure_that_a_transition_takes_is_no_incident() -> None:
    assert parked(on("failure", "t")).state.status == "completed"


def test_incidents_are_resolved_once_and_by_known_actions() -> None:
    world = parked()
    key = world.state.incidents[0].incident_id
    assert world.refused(c.ResolveIncident(incident_id="r1:99")) == "INCIDENT_RESOLVED"
    assert world.refused(c.ResolveIncident(incident_id=key, action="pray")) == "INVALID_FIELD"
    bad = c.ResolveIncident(incident_id=key, set={"x": b"nonsense"})
    assert world.refused(bad) == "INVALID_JSON"


def test_a_failed_join_is_retried_where_it_failed() -> None:
    both = ParallelBody(branches=(("a", branch(task())), ("b", branch(task())), ("c", branch(task()))))
    world = World(workflow(state("p", both), retry=ONCE, on_unhandled="incident")).start()
    world.succeed("a", result=1)
    world.lease("c")
    world.fail("b")
    assert world.state.status == "incident"
    resolve(world)
    assert sorted(path for _, path in world.queue) == ["b", "c"]
    assert world.refused(c.TaskSucceeded(path="c", visit=1, epoch=1, output=b"1")) == "LEASE_LOST"
    world.succeed("b", result=2)
    world.succeed("c", result=3)
    assert world.output() == {"a": 1, "b": 2, "c": 3}


def test_a_failed_map_is_retried_where_it_failed() -> None:
    each = MapBody(items=Key(key="list"), branch=branch(task(), "item"), concurrency=2)
    world = World(workflow(state("m", each), retry=ONCE, on_unhandled="incident")).start({"list": [0, 1, 2, 3]})
    world.succeed("#0", result=0)
    world.lease("#2")
    world.fail("#1")
    resolve(world)
    assert sorted(path for _, path in world.queue) == ["#1", "#2"]
    for path in ("#1", "#2", "#3"):
        world.succeed(path, path)
    assert world.output() == [0, "#1", "#2", "#3"]


def test_an_incident_in_one_branch_does_not_stop_the_others() -> None:
    both = ParallelBody(branches=(("a", branch(task(at_most_once=True))), ("b", branch(task()))))
    world = World(workflow(state("p", both, on("success", "t")), state("t"))).start()
    world.crash("a")
    world.succeed("b", result=2)
    assert (world.state.status, world.state.state) == ("incident", "p")
    resolve(world, "skip", output=b"1")
    assert world.output() == {"a": 1, "b": 2}


def test_an_incident_vanishes_with_its_branch() -> None:
    both = ParallelBody(branches=(("a", branch(task(at_most_once=True))), ("b", branch(task()))))
    world = World(workflow(state("p", both, on("failure", "t")), state("t", task()), retry=ONCE)).start()
    world.crash("a")
    world.fail("b")
    assert (world.state.status, world.incidents) == ("running", {})


def test_incidents_of_enter_actions_can_be_retried_and_skipped() -> None:
    enter = (SetAction(values=(("a", template("${gone}")),)),)
    for action, then in (("retry", {"gone": 1, "a": 1}), ("skip", {"gone": 1})):
        world = World(workflow(state("s", task(), enter=enter))).start()
        resolve(world, action, set={"gone": b"1"})
        assert world.context() == then
        world.succeed()
        assert world.state.status == "completed"


def test_the_shell_can_park_a_run() -> None:
    world = World(workflow(state("s", task(), on("success", "t")), state("t"))).start()
    world.lease()
    world.do(c.RaiseIncident(code="TOO_LARGE", message="the record"))
    world.do(c.RaiseIncident(code="TOO_LARGE", message="the record"))
    assert len(world.state.incidents) == 1
    world.report()
    assert (world.state.state, world.state.status) == ("s", "incident")
    resolve(world)
    assert world.state.status == "completed"


def saga(**given: Any) -> Definition:
    scopes = {
        "outer": Scope(name="outer", catches=(Catch(codes=("OUT",), to="after"),)),
        "inner": Scope(name="inner", parent="outer", catches=(Catch(codes=("IN",), to="after"),)),
    }
    undo = branch(task("undo"), Key(key="result"))
    return workflow(
        state("book", task(), on("success", "pay"), compensate=undo, scope="outer"),
        state("pay", task(), on("success", "ship"), compensate=undo, scope="inner"),
        state("ship", task(), on("success", "end"), scope="inner"),
        state("end"),
        state("after", task()),
        scopes=scopes,
        retry=ONCE,
        **given,
    )


def shipping(definition: Definition) -> World:
    world = World(definition).start()
    world.succeed(result="booked")
    world.succeed(result="paid")
    return world


def undone(world: World) -> list[bytes]:
    inputs = []
    while world.state.node_path.startswith("undo!") and world.state.node is not None:
        inputs.append(world.succeed(world.state.node_path).input)
    return inputs


@pytest.mark.parametrize(
    ("code", "inputs", "status"),
    [
        ("IN", [b'"paid"'], "running"),
        ("OUT", [b'"paid"', b'"booked"'], "running"),
        ("OTHER", [b'"paid"', b'"booked"'], "failed"),
    ],
)
def test_compensation_runs_in_reverse_order_within_the_scope(code: str, inputs: list[bytes], status: str) -> None:
    world = shipping(saga())
    world.fail(code=code)
    assert undone(world) == inputs
    assert world.state.status == status
    if status == "running":
        assert world.state.state == "after"


def test_compensation_runs_on_cancel_but_not_on_terminate() -> None:
    world = shipping(saga())
    world.do(c.Cancel(source="user"))
    assert world.state.status == "cancelling"
    assert undone(world) == [b'"paid"', b'"booked"']
    assert world.state.status == "cancelled"
    world = shipping(saga(compensate_on=("failure",)))
    world.do(c.Cancel(source="user"))
    assert world.state.status == "cancelled"
    world = shipping(saga())
    world.do(c.Terminate())
    assert world.state.status == "terminated"


def test_cancel_during_compensation_finishes_it() -> None:
    world = shipping(saga())
    world.fail(code="OTHER")
    world.lease("undo!1.2")
    world.do(c.Cancel(source="user"))
    world.report("undo!1.2")
    assert undone(world) == [b'"booked"']
    assert world.state.status == "cancelled"


def test_a_failing_compensation_is_recorded_and_the_rest_goes_on_or_parks() -> None:
    world = shipping(saga())
    world.fail(code="OTHER")
    world.fail("undo!1.2", code="UNDO_FAILED")
    assert undone(world) == [b'"booked"']
    assert world.state.status == "failed"
    world = shipping(saga(on_unhandled="incident"))
    world.fail(code="OUT")
    world.fail("undo!1.2")
    assert world.state.incidents[0].kind == "undo"
    resolve(world)
    assert undone(world) == [b'"paid"', b'"booked"']
    assert world.state.state == "after"


def test_an_operator_failing_a_run_compensates() -> None:
    world = shipping(saga())
    world.do(c.Fail(code="X", reason="y"))
    assert undone(world) == [b'"paid"', b'"booked"']
    assert world.state.status == "failed"


def updatable() -> World:
    update = Update(
        name="raise",
        when=expression("input > limit"),
        set=(("limit", template("${event.payload}")),),
        reply=template({"limit": "${limit}"}),
        schema=number_schema(),
    )
    return World(workflow(state("s", task()), updates={"raise": update}, retry=QUICK)).start({"limit": 5})


def test_updates_are_validated_applied_and_answered_in_one_step() -> None:
    world = updatable()
    world.do(c.ApplyUpdate(name="raise", input=b"7"))
    assert (world.decision.reply, world.context()) == (b'{"limit":7}', {"limit": 7})
    assert world.refused(c.ApplyUpdate(name="raise", input=b"6")) == "UPDATE_REFUSED"
    assert world.refused(c.ApplyUpdate(name="raise", input=b'"x"')) == "INPUT_SCHEMA_MISMATCH"
    assert world.refused(c.ApplyUpdate(name="other", input=b"6")) == "UPDATE_NOT_DECLARED"


def test_variables_are_set_by_hand() -> None:
    world = updatable()
    world.do(c.SetVariables(values={"a": b"[1]"}, by="op"))
    assert world.context() == {"limit": 5, "a": [1]}
    assert world.refused(c.SetVariables(values={"a": b"["})) == "INVALID_JSON"
    assert world.refused(c.SetVariables(values={"a": b'"' + b"x" * 1_000_000 + b'"'})) == "CONTEXT_TOO_LARGE"


def test_a_fork_starts_at_a_state_with_a_context() -> None:
    world = World(saga()).start(state="ship", context={"a": b"1"}, forked_from="r0")
    assert (world.state.state, world.context(), world.state.forked_from) == ("ship", {"a": 1}, "r0")
    assert World(saga()).refused(
        c.Start(run_id="r", namespace="d", workflow_id="w", input=b"{}", state="nowhere")
    ) == "STATE_NOT_FOUND"  # fmt: skip
