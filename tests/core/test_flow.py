"""States, actions, transitions, guards: the run's way through a definition."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest

from tests.core.build import (
    ONCE,
    SECOND,
    branch,
    delay,
    expression,
    limits,
    number_schema,
    on,
    state,
    task,
    template,
    workflow,
)
from tests.core.world import NOW, World
from windlass.engine.core import commands as c
from windlass.engine.core import flow
from windlass.engine.core.decide import Rejection
from windlass.engine.core.definition import (
    EmitAction,
    EscalateBody,
    Join,
    LogAction,
    MapBody,
    ParallelBody,
    SetAction,
    SpawnBody,
    State,
    TaskAction,
)
from windlass.engine.core.selectors import Key, Path, TemplateSelector, parse_path


def test_one_step() -> None:
    world = World(workflow(state("only", branch(task(), "a", output="b")))).start({"a": 5})
    assert world.state.status == "running"
    assert world.succeed(result={"x": 1}).input == b"5"
    assert world.state.status == "completed"
    assert world.output() == {"x": 1}
    assert world.context() == {"a": 5, "b": {"x": 1}}
    assert world.kinds() == ["RunStarted", "StateEntered", "AttemptStarted", "TaskCompleted", "RunClosed"]


def test_a_value_that_is_no_object_becomes_input() -> None:
    world = World(workflow(state("only", branch(task(), "input")))).start([1, 2])
    assert world.lease().input == b"[1,2]"


def test_steps_follow_each_other() -> None:
    states = (
        state("one", branch(task(), output="x"), on("success", "two")),
        state("two", branch(task(), "x"), on("success", "end")),
        state("end"),
    )
    world = World(workflow(*states)).start()
    world.succeed(result=1)
    assert (world.state.state, world.state.visit) == ("two", 2)
    assert world.succeed(result=2).input == b"1"
    assert world.state.status == "completed"
    assert world.output() == 2, "a final state without a body keeps the last result"


def test_guards_are_tried_in_order_and_see_result_and_context() -> None:
    definition = workflow(
        state(
            "ask",
            branch(task(), output="total"),
            on("success", "big", when=expression("result.sum > limit")),
            on("success", "small", when=expression("total.sum > 0")),
            on("success", "none"),
        ),
        state("big"),
        state("small"),
        state("none"),
    )
    for total, reached in ((200, "big"), (5, "small"), (0, "none")):
        world = World(definition).start({"limit": 100})
        world.succeed(result={"sum": total})
        assert world.state.state == reached


def test_a_guard_that_cannot_be_evaluated_is_an_incident_and_not_false() -> None:
    definition = workflow(
        state("ask", task(), on("success", "end", when=expression("10 / missing > 1")), on("success", "other")),
        state("end"),
        state("other"),
    )
    world = World(definition).start()
    world.succeed(result=1)
    assert world.state.status == "incident"
    (incident,) = world.state.incidents
    assert incident.code == "EXPRESSION_ERROR"
    world.do(c.ResolveIncident(incident_id=incident.incident_id, set={"missing": b"5"}))
    assert (world.state.status, world.state.state) == ("completed", "end")


def test_a_failure_finds_its_transition_by_code() -> None:
    definition = workflow(
        state("try", task(), on("failure", "a", codes=("X",)), on("failure", "b"), on("success", "c")),
        state("a"),
        state("b"),
        state("c"),
        retry=ONCE,
    )
    for code, reached in (("X", "a"), ("Y", "b")):
        world = World(definition).start()
        world.fail(code=code)
        assert world.state.state == reached
        assert world.state.failure is not None
        assert world.state.failure.code == code


def test_enter_and_exit_actions_run_in_order_also_when_they_are_tasks() -> None:
    first = state(
        "first",
        branch(task("body")),
        on("success", "second"),
        enter=(
            SetAction(values=(("a", template("${start} and more")),)),
            TaskAction(branch=branch(task("prepare"), "a", output="b")),
            LogAction(message=template("b is ${b}")),
        ),
        exit=(TaskAction(branch=branch(task("clean"))), EmitAction(name="left", payload=template({"b": "${b}"}))),
    )
    world = World(workflow(first, state("second"))).start({"start": 1})
    assert world.succeed("enter!1", result=[7]).input == b'"1 and more"'
    assert world.node().phase == "queued"
    world.succeed(result="done")
    assert world.state.stage == "exit"
    world.succeed("exit!0")
    assert world.state.status == "completed"
    assert world.outbox == [("left", b'{"b":[7]}')]
    assert [event.message for event in world.events if hasattr(event, "level")] == ["b is [7]"]
    assert world.output() == "done"


def test_a_missing_key_parks_the_run_until_it_is_there() -> None:
    definition = workflow(state("s", branch(task(), TemplateSelector(template=template({"v": "${gone.x}"})))))
    world = World(definition).start()
    (incident,) = world.state.incidents
    assert incident.code == "MISSING_KEY"
    assert "gone" in incident.message
    world.do(c.ResolveIncident(incident_id=incident.incident_id, set={"gone": b'{"x":3}'}))
    assert world.succeed().input == b'{"v":3}'
    assert world.state.status == "completed"


def test_a_failing_enter_action_takes_the_failure_route() -> None:
    definition = workflow(
        state("s", task(), on("failure", "f"), enter=(TaskAction(branch=branch(task())),)),
        state("f", outcome="failure", error_code="NO_LUCK"),
    )
    world = World(definition).start()
    world.fail("enter!0", retryable=False)
    assert world.state.status == "failed"
    assert world.state.failure is not None
    assert world.state.failure.code == "NO_LUCK"


def test_transition_set_maps_the_context() -> None:
    definition = workflow(
        state("s", task(), on("success", "t", set=(("kept", template("${result.inner}")),))), state("t")
    )
    world = World(definition).start()
    world.succeed(result={"inner": [1]})
    assert world.context() == {"kept": [1]}


def test_routes_by_task_code() -> None:
    definition = workflow(
        state("s", task(), on("route:left", "l"), on("success", "r"), routes=(("left", "to the left"),)),
        state("l"),
        state("r"),
    )
    world = World(definition).start()
    assert world.lease().routes == ("left",)
    world.report(asks=c.Asks(route="left"))
    assert world.state.state == "l"
    world = World(definition).start()
    world.succeed(asks=c.Asks(route="up"))
    assert world.state.failure is not None
    assert world.state.failure.code == "ROUTE_UNKNOWN"


def test_a_loop_of_choices_yields_and_in_the_end_is_an_incident() -> None:
    definition = workflow(state("a", None, on("", "b")), state("b", None, on("", "a")))
    world = World(definition, checked=False).start()
    assert world.deferred
    assert world.state.status == "running"
    for _ in range(120):
        if world.deferred:
            world.do(c.Continue(token=world.deferred.pop(0)))
    assert world.state.status == "incident"
    assert world.state.incidents[0].code == "ENDLESS_LOOP"


@pytest.mark.parametrize(
    "body",
    [
        ParallelBody(
            branches=(("idle", delay(5)), ("done", branch(SpawnBody(workflow="c", detach=True)))), join=Join.ANY
        ),
        MapBody(items=Key(key="none"), branch=branch(task())),
    ],
)
def test_a_loop_of_bodies_that_end_at_once_is_an_incident_too(body: ParallelBody | MapBody) -> None:
    """A join that waits for nothing must not pass for progress: the run would go round for ever."""
    with patch.multiple(flow, ENTRIES_MAX=5, SPIN_MAX=20):
        world = World(workflow(state("a", body, on("", "b")), state("b", None, on("", "a")))).start({"none": []})
        while world.deferred and world.state.visit < 100:
            world.do(c.Continue(token=world.deferred.pop(0)))
    assert world.state.status == "incident"
    assert world.state.incidents[0].code == "ENDLESS_LOOP"


def test_a_loop_that_waits_goes_on_for_as_long_as_it_likes() -> None:
    waiting = ParallelBody(branches=(("one", delay(5)), ("other", delay(7))), join=Join.ANY)
    with patch.multiple(flow, SPIN_MAX=3):
        world = World(workflow(state("a", waiting, on("", "a")))).start()
        for _ in range(20):
            world.pass_time(5)
    assert world.state.status == "waiting"
    assert world.state.visit == 21


def test_a_loop_whose_join_runs_out_of_time_goes_on() -> None:
    waiting = branch(ParallelBody(branches=(("one", delay(90)),), join=Join.ALL), timeouts=limits(schedule_to_close=5))
    with patch.multiple(flow, SPIN_MAX=3):
        world = World(workflow(state("a", waiting, on("timeout", "a"), on("failure", "a")))).start()
        for _ in range(20):
            world.pass_time(5)
    assert world.state.status == "waiting"
    assert world.state.visit == 21


def test_delayed_start_is_pending() -> None:
    world = World(workflow(state("s", task()))).start(start_us=NOW + 10 * SECOND)
    assert world.state.status == "pending"
    assert not world.queue
    world.pass_time(10)
    assert world.state.status == "running"


def test_delay_waits_for_its_timer_and_no_longer() -> None:
    world = World(workflow(state("d", delay(5), on("success", "t")), state("t", task()))).start()
    assert world.state.status == "waiting"
    world.pass_time(4.9)
    assert world.state.status == "waiting"
    world.pass_time(0.1)
    world.succeed()
    assert world.state.status == "completed"


def test_a_late_or_foreign_timer_changes_nothing() -> None:
    world = World(workflow(state("d", delay(5)))).start()
    ((timer, due),) = world.timers
    for wrong in ((timer, due + 1), ("1::other", due), ("7::delay", due), ("run:timeout", due)):
        world.do(c.TimerFired(timer=wrong[0], due_us=wrong[1]))
        assert world.decision.events == ()


@pytest.mark.parametrize("given", [b'{"a": 1', b"nonsense", b'{"a": NaN}'])
def test_input_that_is_not_json_is_refused(given: bytes) -> None:
    world = World(workflow(state("s", task())))
    assert world.refused(c.Start(run_id="r", namespace="d", workflow_id="w", input=given)) == "INVALID_JSON"


def test_schemas_of_input_and_output() -> None:
    world = World(workflow(state("s", task()), input_schema=number_schema(), output_schema=number_schema()))
    command = c.Start(run_id="r", namespace="d", workflow_id="w", input=b'"x"')
    assert world.refused(command) == "INPUT_SCHEMA_MISMATCH"
    world.start(5)
    world.succeed(result="not a number")
    assert world.state.incidents[0].code == "OUTPUT_SCHEMA_MISMATCH"


def test_the_output_selector() -> None:
    world = World(workflow(state("s", branch(task(), output="x")), output=Path(segments=parse_path("x.y[0]")))).start()
    world.succeed(result={"y": [42]})
    assert world.output() == 42


@pytest.mark.parametrize(
    "more",
    [
        {"step": branch(ParallelBody(branches=(("a", branch(task(), config_schema=number_schema())),)))},
        {"step": branch(MapBody(items=Key(key="x"), branch=branch(task(), config_schema=number_schema())))},
        {"compensate": branch(task(), config_schema=number_schema())},
        {"enter": (TaskAction(branch=branch(task(), config_schema=number_schema())),)},
    ],
)
def test_a_runs_config_must_fit_every_step_there_is(more: dict[str, Any]) -> None:
    world = World(workflow(State(name="s", **more)))
    with pytest.raises(Rejection, match="config of state s"):
        world.start(config=b'{"c":3}')


def test_config_is_merged_from_definition_step_and_run() -> None:
    definition = workflow(state("s", branch(task(), config=b'{"b":2,"c":2}')), config=b'{"a":1,"b":1}')
    world = World(definition).start(config=b'{"c":3}')
    assert world.lease().config == b'{"a":1,"b":2,"c":3}'


def test_run_timeout_cancels_or_takes_its_route() -> None:
    world = World(workflow(state("s", task()), timeout_us=10 * SECOND)).start()
    world.pass_time(10)
    assert world.state.status == "cancelled"
    assert world.state.cancel is not None
    assert world.state.cancel.source == "timeout"
    definition = workflow(state("s", task()), state("late"), timeout_us=10 * SECOND, timeout_route="late")
    world = World(definition).start()
    world.lease()
    world.pass_time(10)
    assert (world.state.status, world.state.state) == ("completed", "late")


def test_run_timeout_from_the_first_task() -> None:
    world = World(workflow(state("s", task(), on("failure", "t")), state("t", task()))).start(
        timeout_us=10 * SECOND, timeout_from="first_task"
    )
    world.pass_time(100)
    assert not world.timers
    world.lease()
    assert world.timers == {("run:timeout", world.now + 10 * SECOND)}


def test_approved_counts_as_success_and_rejected_as_failure_where_nothing_takes_them_by_name() -> None:
    body = EscalateBody(to=template("a"), message=template("m"))
    definition = workflow(
        state("e", body, on("success", "yes"), on("failure", "no", codes=("REJECTED",))), state("yes"), state("no")
    )
    for approved, reached in ((True, "yes"), (False, "no")):
        world = World(definition).start()
        world.do(c.ReplyEscalation(escalation_id="r1:1:", approved=approved, values=b"{}"))
        assert world.state.state == reached


def test_any_outcome() -> None:
    for outcome in ("good", "bad"):
        world = World(workflow(state("s", task(), on("", "t")), state("t"), retry=ONCE)).start()
        if outcome == "good":
            world.succeed()
        else:
            world.fail()
        assert world.state.state == "t"


def test_an_exit_task_that_fails_does_not_hold_the_run() -> None:
    exits = (TaskAction(branch=branch(task())), EmitAction(name="left"))
    world = World(workflow(state("s", task(), on("success", "t"), exit=exits), state("t"), retry=ONCE)).start()
    world.succeed()
    world.fail("exit!0", code="CLEANUP")
    assert world.state.status == "completed"
    assert world.outbox == [("left", b"null")]
    assert world.state.failure is not None
    assert world.state.failure.code == "CLEANUP"


def test_a_context_that_only_the_join_makes_too_large_fails_the_body() -> None:
    large = b'"' + b"x" * 600_000 + b'"'
    branches = tuple((name, branch(task(), output=name)) for name in "ab")
    world = World(workflow(state("p", ParallelBody(branches=branches), on("failure", "t")), state("t"))).start()
    for name in "ab":
        world.lease(name)
        world.report(name, output=large)
    assert world.state.state == "t"
    assert world.state.failure is not None
    assert world.state.failure.code == "CONTEXT_TOO_LARGE"
    assert world.context() == {}
