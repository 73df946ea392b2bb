"""Two things at once that nobody tries one by one: leaving while leaving, cancelling what has just succeeded, …"""

from __future__ import annotations

import msgspec
import pytest

from tests.core.build import ONCE, branch, expression, limits, on, state, task, template, workflow
from tests.core.world import World
from windlass.engine.core import commands as c
from windlass.engine.core.definition import (
    Branch,
    Catch,
    Definition,
    DelayBody,
    MapBody,
    ParallelBody,
    Scope,
    State,
    TaskAction,
    Transition,
    WaitBody,
)
from windlass.engine.core.selectors import Key


def undoable(name: str, to: str, scope: str = "") -> State:
    return state(name, task(name), on("success", to), scope=scope, compensate=branch(task(f"un{name}")))


def trip() -> Definition:
    """The catch undoes `hotel` alone, which is older than `car`."""
    return workflow(
        undoable("hotel", "car", "z"),
        undoable("car", "pay"),
        state("pay", task("pay"), scope="z"),
        state("caught"),
        scopes={"z": Scope(name="z", catches=(Catch(to="caught"),))},
        retry=ONCE,
    )


def only(world: World) -> str:
    """The path of the one task in the queue."""
    ((_, path),) = world.queue
    return path


def test_two_compensations_of_a_visit_are_never_taken_for_each_other() -> None:
    world = World(trip()).start()
    world.succeed()
    world.succeed()
    world.fail()
    first = world.lease(only(world))
    world.do(c.Cancel(source="user"))
    world.report(first.path)
    again = c.TaskSucceeded(path=first.path, visit=first.visit, epoch=first.epoch, output=b"null")
    second = world.lease(only(world))
    assert (first.handler, second.handler) == ("unhotel", "uncar")
    assert first.idempotency_key != second.idempotency_key
    assert world.refused(again) in ("ALREADY_RECORDED", "LEASE_LOST")


def test_a_run_that_fails_for_unread_signals_undoes_what_it_did() -> None:
    world = World(workflow(undoable("hotel", "end"), state("end"), unread_signals="refuse")).start()
    world.signal("late")
    world.succeed()
    assert world.succeed(only(world)).handler == "unhotel"
    assert (world.state.status, world.state.failure.code) == ("failed", "UNREAD_SIGNALS")  # type: ignore[union-attr]


def test_a_signal_whose_transition_cannot_be_taken_yet_is_kept() -> None:
    go = on("event:go", "end", set=(("v", template("${event.payload.v} of ${all}")),))
    world = World(workflow(state("s", task(), go), state("end"))).start()
    world.signal("go", {"v": 1})
    (incident,) = world.state.incidents
    assert (incident.code, len(world.inbox)) == ("MISSING_KEY", 1)
    world.do(c.ResolveIncident(incident_id=incident.incident_id, set={"all": b"2"}))
    assert (world.state.status, world.context()["v"]) == ("completed", "1 of 2")


@pytest.mark.parametrize("value", [f"{'9' * 400}d", f"PT{'9' * 400}S", -1e308, -(10**30), "0001-01-01T00:00:00Z"])
def test_no_time_of_the_data_is_too_far_away(value: object) -> None:
    for body in (WaitBody(names=("go",), until=expression("t")), DelayBody(until=expression("t"))):
        world = World(workflow(state("s", body))).start({"t": value})
        world.pass_time(200 * 365 * 86_400)
        assert world.state.status == "completed"
    world = World(workflow(state("s", task()))).start()
    ask = c.Asks(escalate=msgspec.json.encode({"to": "x", "timeout": value}))
    world.succeed(asks=ask)
    assert list(world.escalations.values()) == ["pending"]


def test_the_details_of_a_failure_that_cannot_be_read_are_left_out() -> None:
    caught = on("failure", "end", when=expression("error.details == None"))
    world = World(workflow(state("s", task(), caught), state("end"), retry=ONCE)).start()
    world.fail(details=b'{"far": 1e999}')
    assert world.state.status == "completed"


def test_an_enter_action_that_is_too_late_is_a_failure_and_no_wait_that_nothing_ended() -> None:
    def late(*transitions: Transition) -> World:
        audit = TaskAction(branch=branch(task(), timeouts=limits(schedule_to_start=5)))
        world = World(workflow(state("s", WaitBody(names=("go",)), *transitions, enter=(audit,)), state("end"))).start()
        world.pass_time(6)
        return world

    assert (late().state.status, late().state.failure.code) == ("failed", "SCHEDULE_TO_START_TIMEOUT")  # type: ignore[union-attr]
    assert late(on("failure", "end")).state.status == "completed"


def test_what_succeeds_in_the_grace_time_of_a_cancel_is_undone() -> None:
    world = World(workflow(undoable("hotel", "end"), state("end"))).start()
    world.lease()
    world.do(c.Cancel(source="user"))
    world.report(result="room 7", asks=c.Asks(set={"seen": b"1"}))
    assert world.context() == {"seen": 1}
    assert world.succeed(only(world)).handler == "unhotel"
    assert world.state.status == "cancelled"


def test_what_wants_to_go_on_in_the_grace_time_of_a_cancel_is_not_undone() -> None:
    world = World(workflow(undoable("hotel", "end"), state("end"))).start()
    world.lease()
    world.do(c.Cancel(source="user"))
    world.report(asks=c.Asks(suspend=b"1"))
    assert world.state.status == "cancelled"


def leaving() -> World:
    """An exit task is with a worker."""
    bye = TaskAction(branch=branch(task("bye"), output="said"))
    world = World(workflow(state("s", task(), on("success", "end"), exit=(bye,)), state("end"))).start()
    world.succeed()
    world.lease("exit!0")
    return world


def test_an_exit_task_that_ends_while_the_run_is_cancelled_is_not_done_again() -> None:
    world = leaving()
    world.do(c.Cancel(source="user"))
    world.report("exit!0", "bye")
    assert (world.state.status, world.context()) == ("cancelled", {"said": "bye"})


def test_an_exit_task_that_is_begun_anew_does_not_take_the_result_of_the_stopped_attempt() -> None:
    world = leaving()
    stale = c.TaskSucceeded(path="exit!0", visit=1, epoch=1, output=b"1")
    world.do(c.Fail(code="OPERATOR", reason="enough"))
    assert world.refused(stale) == "LEASE_LOST"
    world.lease("exit!0")
    assert world.refused(stale) == "LEASE_LOST"
    world.report("exit!0")
    assert world.state.status == "failed"


@pytest.mark.parametrize(
    ("step", "given"),
    [
        (branch(task(), "x"), 1),
        (branch(ParallelBody(branches=(("a", branch(task(), "x")),))), 1),
        (branch(MapBody(items=Key(key="x"), branch=branch(task()))), [1, 2]),
    ],
)
def test_what_is_repaired_while_the_run_is_paused_begins_when_it_goes_on(step: Branch, given: object) -> None:
    world = World(workflow(state("s", step))).start()
    world.do(c.Pause())
    (incident,) = world.state.incidents
    world.do(c.ResolveIncident(incident_id=incident.incident_id, set={"x": msgspec.json.encode(given)}))
    assert not world.queue
    world.do(c.Unpause())
    while world.queue:
        world.succeed(min(world.queue)[1])
    assert world.state.status == "completed"


def test_the_limit_of_waiting_in_the_queue_holds_for_a_task_that_came_back() -> None:
    for crashed in (False, True):
        world = World(workflow(state("s", branch(task(), timeouts=limits(schedule_to_start=5))))).start()
        world.lease()
        world.pass_time(10)
        world.do(c.TaskReturned(path="", visit=1, epoch=1, crashed=crashed))
        world.pass_time(4)
        assert world.state.status == "running"
        world.pass_time(2)
        assert world.state.failure.code == "SCHEDULE_TO_START_TIMEOUT"  # type: ignore[union-attr]


def test_workers_that_cannot_run_a_task_do_not_put_off_the_limit_of_its_waiting() -> None:
    world = World(workflow(state("s", branch(task(), timeouts=limits(schedule_to_start=5))))).start()
    for _ in range(4):
        world.pass_time(1)
        world.lease()
        world.do(c.TaskReturned(path="", visit=1, epoch=world.node().epoch, crashed=False, unable=True))
    world.pass_time(1.5)
    assert (world.state.status, world.state.failure.code) == ("failed", "SCHEDULE_TO_START_TIMEOUT")  # type: ignore[union-attr]


def test_of_signals_that_came_before_the_first_decides() -> None:
    first = WaitBody(names=("paid", "refused"), any=True)
    events = state("e", task(), on("event:paid", "paid"), on("event:refused", "refused"))
    for step, output in ((state("w", first), {"refused": 1}), (events, None)):
        world = World(workflow(state("s", task(), on("success", step.name)), step, state("paid"), state("refused")))
        world.start()
        world.signal("refused", 1)
        world.signal("paid", 2)
        world.succeed()
        assert world.state.status == "completed"
        assert world.state.state == "refused" if output is None else world.output() == output
