"""Spawn, escalate, poll, and what task code may ask for."""

from __future__ import annotations

from typing import Any

from tests.core.build import QUICK, SECOND, branch, on, state, task, template, workflow
from tests.core.world import World
from windlass.engine.core import commands as c
from windlass.engine.core import effects as f
from windlass.engine.core.definition import (
    ClosePolicy,
    EscalateBody,
    FormField,
    Join,
    ParallelBody,
    PollBody,
    SpawnBody,
    Transition,
)


def child(world: World) -> f.StartChild:
    return list(world.children.values())[-1]


def close(world: World, started: f.StartChild, status: str = "completed", **more: Any) -> None:
    parent = started.parent
    world.do(c.ChildClosed(visit=parent.visit, path=parent.path, child_run_id=started.run_id, status=status, **more))


def test_spawn_waits_for_the_childs_output() -> None:
    body = SpawnBody(workflow="child", workflow_id=template("for-${a}"))
    world = World(workflow(state("s", branch(body, "a", output="x")))).start({"a": 1})
    started = child(world)
    assert (started.workflow, started.workflow_id, started.input) == ("child", "for-1", b"1")
    assert len(started.run_id) == 32
    assert world.state.status == "waiting"
    close(world, started, output=b"[5]")
    assert world.context()["x"] == [5]
    close(world, started, output=b"[6]")
    assert world.decision.events == (), "a second report of the child comes too late"


def test_a_child_that_fails_fails_the_step() -> None:
    definition = workflow(state("s", SpawnBody(workflow="c"), on("failure", "f", codes=("MINE",))), state("f"))
    world = World(definition).start()
    close(world, child(world), "failed", failure=c.Failure("MINE"))
    assert world.state.state == "f"
    world = World(definition).start()
    close(world, child(world), "terminated")
    assert world.state.failure is not None
    assert world.state.failure.code == "CHILD_TERMINATED"


def test_a_detached_child_holds_nothing() -> None:
    world = World(workflow(state("s", SpawnBody(workflow="c", detach=True)))).start()
    assert world.state.status == "completed"
    assert world.output() == {"run_id": child(world).run_id}
    assert child(world).parent.detached


def test_close_policies_when_the_parent_no_longer_waits() -> None:
    for policy, told in (
        (ClosePolicy.TERMINATE, c.Terminate),
        (ClosePolicy.CANCEL, c.Cancel),
        (ClosePolicy.ABANDON, None),
    ):
        world = World(workflow(state("s", SpawnBody(workflow="c", close_policy=policy)))).start()
        world.do(c.Cancel(source="user"))
        assert world.state.status == "cancelled"
        commands = [effect.command for effect in world.told if isinstance(effect, f.TellRun)]
        assert [type(command) for command in commands] == ([told] if told else [])
        assert all(getattr(command, "source", "") == "parent" for command in commands)


def test_wait_for_any_child() -> None:
    both = ParallelBody(
        branches=(("a", branch(SpawnBody(workflow="a"))), ("b", branch(SpawnBody(workflow="b")))), join=Join.ANY
    )
    world = World(workflow(state("s", both))).start()
    close(world, child(world), output=b"1")
    assert world.output() == {"b": 1}
    assert [effect.run_id for effect in world.told if isinstance(effect, f.TellRun)] == [next(iter(world.children))]


def test_a_child_tells_its_parent() -> None:
    parent = c.ParentRef("p", 3, "x/#1")
    world = World(workflow(state("s", task()))).start(parent=parent, root_run_id="p")
    world.succeed(result=1)
    assert world.told == [f.TellParent(parent=parent, status="completed", output=b"1", failure=None)]
    world = World(workflow(state("s", task()))).start(parent=c.ParentRef("p", 3, "", detached=True))
    world.succeed()
    assert world.told == []


FORM = (
    FormField(id="reason", kind="select", options=(("vip", "VIP"), ("other", "Other")), required=True),
    FormField(id="note", kind="comment"),
)


def escalation(**given: Any) -> World:
    body = EscalateBody(to=template("alice"), message=template("ok ${n}?"), fields=FORM)
    transitions = (on("approved", "yes"), on("rejected", "no"), on("timeout", "late"))
    definition = workflow(
        state("e", branch(body, output="decision"), *transitions, timeout_us=60 * SECOND),
        state("yes"), state("no"), state("late"),
    )  # fmt: skip
    return World(definition).start({"n": 5})


def test_escalations_are_approved_rejected_or_too_late() -> None:
    for approved, reached in ((True, "yes"), (False, "no")):
        world = escalation()
        (key,) = world.escalations
        reply = c.ReplyEscalation(escalation_id=key, approved=approved, values=b'{"reason":"vip"}', by="alice")
        world.do(reply)
        assert world.state.state == reached
        assert world.escalations[key] == ("approved" if approved else "rejected")
        assert world.refused(reply) == "RUN_CLOSED"
    world = escalation()
    world.pass_time(60)
    assert (world.state.state, list(world.escalations.values())) == ("late", ["timeout"])
    assert world.outbox[0][0] == "escalation.opened"
    assert b'"ok 5?"' in world.outbox[0][1]


def test_replies_are_checked_against_the_form() -> None:
    world = escalation()
    (key,) = world.escalations
    for values in (b"{}", b'{"reason":"x"}', b'{"reason":"vip","note":5}', b'{"reason":"vip","z":1}', b"[]"):
        assert world.refused(c.ReplyEscalation(escalation_id=key, approved=True, values=values)) == "REPLY_INVALID"
    wrong = c.ReplyEscalation(escalation_id="r1:9:", approved=True, values=b"{}")
    assert world.refused(wrong) == "ESCALATION_CLOSED"


def test_rejected_without_a_route_fails_the_run() -> None:
    body = EscalateBody(to=template("a"), message=template("m"))
    world = World(workflow(state("e", body))).start()
    world.do(c.ReplyEscalation(escalation_id="r1:1:", approved=False, values=b"{}", by="bob"))
    assert world.state.failure is not None
    assert (world.state.status, world.state.failure.code) == ("failed", "REJECTED")


def test_poll_asks_again_until_ready() -> None:
    body = PollBody(task=task(), interval_us=30 * SECOND)
    world = World(workflow(state("p", branch(body, output="x")))).start()
    assert world.lease().resume == b""
    world.report(asks=c.Asks(suspend=b'{"job":1}'))
    assert world.state.status == "waiting"
    world.pass_time(29)
    assert not world.queue
    world.pass_time(1)
    activation = world.lease()
    assert (activation.resume, activation.checks, activation.epoch) == (b'{"job":1}', 2, 2)
    world.report(asks=c.Asks(suspend=b'{"job":2}', suspend_us=5 * SECOND))
    world.pass_time(5)
    world.succeed(result="ready")
    assert world.context() == {"x": "ready"}


def test_poll_gives_up_after_its_longest_wait_or_its_last_check() -> None:
    for limit in ({"max_wait_us": 45 * SECOND}, {"max_checks": 2}):
        body = PollBody(task=task(), interval_us=30 * SECOND, **limit)
        world = World(workflow(state("p", body, on("timeout", "late")), state("late"))).start()
        world.succeed(asks=c.Asks(suspend=b"1"))
        world.pass_time(30)
        if "max_checks" in limit:
            world.succeed(asks=c.Asks(suspend=b"2"))
        else:
            world.pass_time(15)
        assert world.state.state == "late"


def test_a_check_that_fails_is_retried_with_its_resume_state() -> None:
    world = World(workflow(state("p", PollBody(task=task(), interval_us=SECOND)), retry=QUICK)).start()
    world.succeed(asks=c.Asks(suspend=b'"mark"'))
    world.pass_time(1)
    world.fail()
    world.pass_time(1)
    activation = world.succeed()
    assert (activation.resume, activation.attempt) == (b'"mark"', 2)


def ask(asks: c.Asks, *transitions: Transition) -> World:

    world = World(workflow(state("s", branch(task(), output="x"), *transitions), state("t"))).start()
    world.succeed(result="own", asks=asks)
    return world


def test_task_code_waits_for_signals() -> None:
    world = ask(c.Asks(wait_for=("a", "b"), set={"k": b"1"}))
    assert (world.state.status, world.node().kind) == ("waiting", "ask:wait")
    assert world.refused(c.TaskSucceeded(path="", visit=1, epoch=1, output=b"1")) == "ALREADY_RECORDED"
    world.signal("a", 1)
    world.signal("b", 2)
    assert world.context() == {"k": 1, "x": {"a": 1, "b": 2}}
    world = ask(c.Asks(wait_for=("a",), wait_timeout_us=SECOND), on("timeout", "t"))
    world.pass_time(1)
    assert world.state.state == "t"


def test_task_code_waits_for_the_first_of_several_signals() -> None:
    world = ask(c.Asks(wait_for=("a", "b"), wait_any=True))
    world.signal("b", 2)
    assert world.context() == {"x": {"b": 2}}


def test_task_code_spawns_and_waits_for_children() -> None:
    spawns = (c.Spawn(workflow="a", input=b"1"), c.Spawn(workflow="b"), c.Spawn(workflow="c", detach=True))
    world = ask(c.Asks(spawn=spawns))
    assert world.node().kind == "ask:spawn"
    first, second, _ = world.children.values()
    close(world, second, output=b'"second"')
    close(world, first, output=b'"first"')
    assert world.context()["x"] == ["first", "second"]
    world = ask(c.Asks(spawn=(c.Spawn(workflow="c", detach=True),)))
    assert world.context()["x"] == "own"
    world = ask(c.Asks(spawn=spawns), on("failure", "t"))
    close(world, next(iter(world.children.values())), "failed", failure=c.Failure("X"))
    assert world.state.state == "t"
    assert len([effect for effect in world.told if isinstance(effect, f.TellRun)]) == 1


def test_task_code_escalates() -> None:
    form = b'{"to":"bob","message":"go?","inputs":[{"id":"why","type":"text"}],"timeout":"1m"}'
    world = ask(c.Asks(escalate=form))
    world.do(c.ReplyEscalation(escalation_id="r1:1:", approved=True, values=b'{"why":"yes"}'))
    assert world.context()["x"] == {"why": "yes"}
    world = ask(c.Asks(escalate=form), on("timeout", "t"))
    world.pass_time(60)
    assert (world.state.state, world.escalations) == ("t", {"r1:1:": "timeout"})
    assert ask(c.Asks(escalate=b'{"message":1}')).state.failure.code == "INVALID_ASK"  # type: ignore[union-attr]
