"""Cancel, terminate, fail, pause: control from outside."""

from __future__ import annotations

from tests.core.build import QUICK, SECOND, branch, delay, on, state, task, template, workflow
from tests.core.test_waits import wait
from tests.core.world import NOW, World
from windlass.engine.core import commands as c
from windlass.engine.core.definition import EmitAction, EscalateBody, MapBody, ParallelBody, TaskAction
from windlass.engine.core.effects import TellParent
from windlass.engine.core.selectors import Key

CANCEL = c.Cancel(source="user", reason="enough")


def test_cancel_without_running_tasks_is_immediate() -> None:
    for step in (branch(task()), wait("a"), delay(5)):
        world = World(workflow(state("s", step))).start()
        world.do(CANCEL)
        assert world.state.status == "cancelled"
        assert world.state.cancel is not None
        assert (world.state.cancel.source, world.state.cancel.reason) == ("user", "enough")


def test_the_record_of_a_cancelled_run_says_who_did_it_and_what_went_wrong_before() -> None:
    world = World(workflow(state("s", task()), retry=QUICK)).start()
    world.do(CANCEL)
    assert world.state.failure == c.Failure("CANCELLED", "cancelled by user: enough", retryable=False)
    world = World(workflow(state("s", task()), retry=QUICK)).start(parent=c.ParentRef("p", 1, ""))
    world.fail(message="no luck")
    world.do(c.Cancel(source="parent"))
    assert world.state.failure == c.Failure("CANCELLED", "cancelled by parent", retryable=False, cause="BOOM: no luck")
    (told,) = [each for each in world.told if isinstance(each, TellParent)]
    assert (told.status, told.failure) == ("cancelled", None), "the parent makes CHILD_CANCELLED of it"


def test_cancel_lets_a_running_task_stop() -> None:
    world = World(workflow(state("s", branch(task(), output="x"), on("success", "t")), state("t", task()))).start()
    world.lease()
    world.do(CANCEL)
    assert world.state.status == "cancelling"
    assert [stop.reason for stop in world.stops] == ["cancelled: enough"]
    world.do(CANCEL)
    assert world.decision.events == (), "a second request changes nothing"
    world.do(c.TaskReturned(path="", visit=1, epoch=1, crashed=False))
    assert world.state.status == "cancelled"


def test_a_result_that_comes_while_cancelling_is_recorded_and_the_run_is_cancelled() -> None:
    world = World(workflow(state("s", branch(task())), retry=QUICK)).start()
    world.lease()
    world.do(CANCEL)
    world.report(result=1, asks=c.Asks(wait_for=("x",)))
    assert world.state.status == "cancelled"
    assert "TaskCompleted" in world.kinds()
    world = World(workflow(state("s", branch(task())), retry=QUICK)).start()
    world.lease()
    world.do(CANCEL)
    world.do(c.TaskFailed(path="", visit=1, epoch=1, failure=c.Failure("X")))
    assert world.state.status == "cancelled"


def test_the_grace_time_ends_the_wait_for_a_task() -> None:
    world = World(workflow(state("s", task()), cancel_grace_us=3 * SECOND)).start()
    world.lease()
    world.do(CANCEL)
    world.pass_time(3)
    assert (world.state.status, world.leases) == ("cancelled", {})
    assert world.refused(c.TaskSucceeded(path="", visit=1, epoch=1, output=b"1")) == "RUN_CLOSED"


def test_cancel_of_everything_at_once() -> None:
    each = MapBody(items=Key(key="list"), branch=branch(task(), "item"), concurrency=2)
    body = ParallelBody(
        branches=(
            ("m", branch(each)), ("w", wait("a")), ("d", delay(9)), ("t", branch(task())),
            ("e", branch(EscalateBody(to=template("a"), message=template("b")))),
        )
    )  # fmt: skip
    world = World(workflow(state("s", body, timeout_us=99 * SECOND), timeout_us=999 * SECOND)).start(
        {"list": [1, 2, 3]}
    )
    world.lease("m/#1")
    world.lease("t")
    world.do(CANCEL)
    assert world.state.status == "cancelling"
    assert list(world.escalations.values()) == ["cancelled"]
    assert not world.queue
    world.report("t")
    assert world.state.status == "cancelling"
    world.report("m/#1")
    assert world.state.status == "cancelled"


def test_exit_actions_run_shielded_after_cancel() -> None:
    clean = (TaskAction(branch=branch(task("clean"))), EmitAction(name="left"))
    world = World(workflow(state("s", task(), exit=clean))).start()
    world.lease()
    world.do(CANCEL)
    world.report()
    assert world.state.status == "cancelling"
    world.succeed("exit!0")
    assert (world.state.status, world.outbox) == ("cancelled", [("left", b"null")])


def test_the_shield_has_a_deadline() -> None:
    world = World(workflow(state("s", task(), exit=(TaskAction(branch=branch(task("clean"))),)))).start()
    world.do(CANCEL)
    world.lease("exit!0")
    world.pass_time(3600)
    assert world.state.status == "cancelled"
    assert not world.leases


def test_cancel_before_the_start() -> None:
    world = World(workflow(state("s", task()))).start(start_us=NOW + SECOND)
    world.do(CANCEL)
    assert world.state.status == "cancelled"
    assert not world.timers


def test_a_closed_run_refuses_control() -> None:
    world = World(workflow(state("s", task()))).start()
    world.do(c.Terminate(reason="now"))
    assert world.state.status == "terminated"
    commands = (
        CANCEL, c.Terminate(), c.Fail(code="X", reason=""), c.Pause(), c.Unpause(), c.SetVariables(values={}),
        c.ResolveIncident(incident_id="x"), c.ApplyUpdate(name="x", input=b""),
    )  # fmt: skip
    for command in commands:
        assert world.refused(command) == "RUN_CLOSED"
    world.do(c.TimerFired(timer="1::retry", due_us=1))
    assert world.decision.events == ()


def test_terminate_takes_everything_back_at_once() -> None:
    each = MapBody(items=Key(key="list"), branch=branch(task(), "item"))
    body = ParallelBody(branches=(("m", branch(each)), ("w", wait("a")), ("d", delay(9))))
    exits = (TaskAction(branch=branch(task())),)
    world = World(workflow(state("s", body, exit=exits), timeout_us=SECOND)).start({"list": [1, 2]})
    world.lease("m/#0")
    world.do(c.Terminate(reason="now"))
    assert (world.state.status, world.queue, world.leases, world.timers) == ("terminated", {}, {}, set())


def test_an_operator_fails_a_run() -> None:
    world = World(workflow(state("s", task(), on("failure", "t")), state("t"))).start()
    world.lease()
    world.do(c.Fail(code="GIVEN_UP", reason="no use"))
    assert world.state.status == "failed"
    assert world.state.failure == c.Failure("GIVEN_UP", "no use", retryable=False)
    assert world.refused(c.Fail(code="X", reason="")) == "RUN_CLOSED"


def test_paused_results_are_recorded_and_nothing_begins() -> None:
    world = World(workflow(state("s", task(), on("success", "t")), state("t", task()))).start()
    world.lease()
    world.do(c.Pause(reason="look"))
    assert (world.state.status, world.state.pause_reason) == ("paused", "look")
    world.report(result=1)
    assert (world.state.state, world.node().phase) == ("s", "done")
    world.do(c.Pause())
    assert world.decision.events == ()
    world.do(c.Unpause())
    assert (world.state.status, world.state.state) == ("running", "t")
    world.do(c.Unpause())
    assert world.decision.events == ()


def test_pause_takes_queued_tasks_out_of_the_queue() -> None:
    world = World(workflow(state("s", task()), retry=QUICK)).start()
    world.do(c.Pause())
    assert not world.queue
    assert world.node().phase == "held"
    world.do(c.Unpause())
    world.fail()
    world.do(c.Pause())
    world.pass_time(5)
    assert (world.node().phase, world.node().attempt) == ("held", 2)
    world.do(c.Unpause())
    world.succeed()
    assert world.state.status == "completed"


def test_a_paused_map_opens_no_items_and_then_goes_on() -> None:
    each = MapBody(items=Key(key="list"), branch=branch(task(), "item"), concurrency=2)
    world = World(workflow(state("s", each))).start({"list": [0, 1, 2, 3]})
    world.lease("#0")
    world.do(c.Pause())
    world.report("#0", 0)
    assert not world.queue
    assert world.node("#1").phase == "held"
    world.do(c.Unpause())
    for path in ("#1", "#2", "#3"):
        world.succeed(path, path)
    assert world.output() == [0, "#1", "#2", "#3"]


def test_the_runs_timeout_stops_while_paused_and_absolute_timers_do_not() -> None:
    world = World(
        workflow(state("d", delay(5), on("success", "t")), state("t", task()), timeout_us=10 * SECOND)
    ).start()
    world.pass_time(4)
    world.do(c.Pause())
    world.pass_time(100)
    assert (world.state.status, world.node().phase) == ("paused", "done")
    world.do(c.Unpause())
    assert world.state.state == "t"
    world.pass_time(5.9)
    assert world.state.status == "running"
    world.pass_time(0.1)
    assert world.state.status == "cancelled"


def test_the_runs_timeout_may_go_on_while_paused() -> None:
    for route, end in (("", "cancelled"), ("late", "completed")):
        world = World(workflow(state("s", task()), state("late"), timeout_us=10 * SECOND, timeout_route=route)).start()
        world.do(c.Pause(keep_timeout=True))
        world.pass_time(11)
        if route:
            assert (world.state.status, world.state.state) == ("paused", "s"), "it leaves when it is let go"
            world.do(c.Unpause())
        assert world.state.status == end


def test_signals_are_taken_while_paused() -> None:
    world = World(
        workflow(state("w", wait("a"), on("success", "e")), state("e", None, on("event:go", "end")), state("end"))
    ).start()
    world.do(c.Pause())
    world.signal("a", 1)
    world.signal("go")
    assert (world.state.state, world.state.inbox) == ("w", 1)
    world.do(c.Unpause())
    assert world.state.state == "end"


def test_cancel_ends_a_pause_and_cancelling_runs_cannot_be_paused() -> None:
    world = World(workflow(state("s", task()))).start()
    world.lease()
    world.do(c.Pause())
    world.do(CANCEL)
    assert world.state.status == "cancelling"
    assert world.refused(c.Pause()) == "RUN_CANCELLING"
    assert world.refused(c.Fail(code="X", reason="")) == "RUN_CANCELLING"
    world.report()
    assert world.state.status == "cancelled"
