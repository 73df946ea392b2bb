"""Random definitions under random commands: replay equals live, and the invariants hold, after every step.

`World` does the checking: after each decision it folds the stored events from the beginning (a restart after every
step) and compares state, items, and all that is kept outside the record.
"""

from __future__ import annotations

import random
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.build import SECOND, delay, expression, limits, on, state, task, template, workflow
from tests.core.standing import check_standing
from tests.core.world import World
from windlass.engine.core import commands as c
from windlass.engine.core import events as e
from windlass.engine.core import flow, opening
from windlass.engine.core.decide import Rejection
from windlass.engine.core.definition import (
    Branch,
    Catch,
    ClosePolicy,
    Definition,
    EmitAction,
    EscalateBody,
    Join,
    MapBody,
    ParallelBody,
    PollBody,
    RetryPolicy,
    Scope,
    SetAction,
    SpawnBody,
    State,
    TaskAction,
    WaitBody,
)
from windlass.engine.core.invariants import live
from windlass.engine.core.selectors import NO_INPUT, Full, Key, Selector
from windlass.engine.core.state import CLOSED

NAMES = ("a", "b")
INPUTS: list[Selector] = [NO_INPUT, NO_INPUT, Full(), Key(key="n"), Key(key="missing")]
ACCEPTED = {
    "LEASE_LOST", "ALREADY_RECORDED", "RUN_CLOSED", "RUN_CANCELLING", "WAIT_NOT_OPEN", "ESCALATION_CLOSED",
    "INCIDENT_RESOLVED", "INVALID_FIELD", "TASK_NOT_QUEUED", "RUN_NOT_PAUSED",
}  # fmt: skip


class Author:
    """Writes a definition by chance."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def definition(self) -> Definition:
        names = [f"s{number}" for number in range(self.chance.randint(1, 4))]
        scope = Scope(name="z", catches=(Catch(codes=("BOOM",), to=names[-1], compensate=self.maybe()),))
        return workflow(
            *(self.state(name, names) for name in names),
            scopes={"z": scope},
            retry=RetryPolicy(max_attempts=self.chance.randint(1, 3), initial_delay_us=SECOND),
            on_unhandled=self.chance.choice(["fail", "incident"]),
            timeout_us=self.chance.choice([None, 20 * SECOND]),
            timeout_route=self.chance.choice(["", names[0]]),
            unread_signals=self.chance.choice(["allow", "refuse"]),
            compensate_on=self.chance.choice([("failure", "cancel"), ("failure", "cancel"), ("failure",), ()]),
        )

    def maybe(self) -> bool:
        return self.chance.random() < 0.5

    def state(self, name: str, names: list[str]) -> State:
        target = self.chance.choice
        outcomes = ["success", "failure", "timeout", "approved", "rejected", "event:a", "route:r", ""]
        transitions = [
            on(
                self.chance.choice(outcomes),
                target([*names, None]),
                when=self.chance.choice([None, None, expression("n > 1"), expression("missing")]),
                set=(("n", template(2)),) if self.maybe() else (),
            )
            for _ in range(self.chance.randint(0, 3))
        ]
        return state(
            name,
            self.branch(self.chance.choice([2, 2, 3])) if self.chance.random() < 0.85 else None,
            *transitions,
            enter=self.actions(),
            exit=self.actions(),
            timeout_us=self.chance.choice([None, None, 5 * SECOND]),
            routes=(("r", "a route"),),
            outcome=self.chance.choice(["success", "success", "failure"]),
            scope=self.chance.choice(["", "z"]),
            compensate=self.compensation() if self.maybe() else None,
        )

    def compensation(self) -> Branch:
        return Branch(body=task("undo"), input=Key(key="result")) if self.maybe() else self.branch(1)

    def actions(self) -> tuple[Any, ...]:
        kinds = [
            SetAction(values=(("n", template(1)),)),
            SetAction(values=(("m", template("${missing}")),)),
            EmitAction(name="e"),
            TaskAction(branch=self.branch(0)),
        ]
        weights = [4, 1, 3, 2]
        return tuple(self.chance.choices(kinds, weights)[0] for _ in range(self.chance.choice([0, 0, 0, 1, 2])))

    def branch(self, depth: int) -> Branch:
        body = self.chance.choice([self.leaf, self.parallel, self.map] if depth else [self.leaf])(depth)
        return Branch(
            body=body,
            input=self.chance.choice(INPUTS),
            output=self.chance.choice(["", "x", "n"]),
            timeouts=limits(**self.chance.choice([{}, {"schedule_to_start": 3}, {"schedule_to_close": 7}])),
        )

    def leaf(self, _: int) -> Any:
        one = self.chance.choice
        return one(
            [
                task(),
                task(),
                task(at_most_once=True),
                delay(one([0, 2])).body,
                WaitBody(names=one([("a",), ("a", "b")]), any=self.maybe(), until=one([None, expression("'4s'")])),
                PollBody(task=task(), interval_us=SECOND, max_checks=one([0, 2]), max_wait_us=one([None, 3 * SECOND])),
                SpawnBody(workflow="c", detach=self.maybe(), close_policy=one(list(ClosePolicy))),
                EscalateBody(to=template("t"), message=template("m")),
            ]
        )

    def parallel(self, depth: int) -> ParallelBody:
        names = ("p", "q", "r")[: self.chance.randint(1, 3)]
        join = self.chance.choice(list(Join))
        quorum = self.chance.randint(1, len(names))
        return ParallelBody(branches=tuple((name, self.branch(depth - 1)) for name in names), join=join, quorum=quorum)

    def map(self, depth: int) -> MapBody:
        return MapBody(
            items=Key(key="list"),
            branch=self.branch(depth - 1),
            concurrency=self.chance.randint(0, 2),
            tolerated_failures=self.chance.randint(0, 1),
        )


class Driver:
    """Does to a run what could happen to it next, by chance."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world, self.chance = world, chance

    def step(self) -> None:
        world = self.world
        moves = [self.signal, self.tick, self.control, self.stale]
        moves += [self.lease] * 6 * bool(world.queue)
        moves += [self.report] * 6 * bool(world.leases)
        moves += [self.tick] * 2 * bool(world.timers)
        moves += [self.child] * 2 * bool(world.children)
        moves += [self.reply] * 2 * ("pending" in world.escalations.values())
        moves += [self.resolve] * 4 * bool(world.incidents)
        moves += [self.go_on] * 4 * bool(world.deferred)
        self.chance.choice(moves)()

    def try_to(self, command: c.Command) -> None:
        before = self.world.state
        try:
            self.world.do(command)
        except Rejection as rejection:
            if rejection.reason not in ACCEPTED or self.world.state is not before:
                raise

    def lease(self) -> None:
        visit, path = self.chance.choice(sorted(self.world.queue))
        assert visit == self.world.state.visit
        self.world.lease(path)

    def report(self) -> None:
        world = self.world
        (visit, path), epoch = self.chance.choice(sorted(world.leases.items()))
        key: dict[str, Any] = {"path": path, "visit": visit, "epoch": epoch}
        result = self.chance.choice([b"1", b"[1,2]", b'"x"', b"nonsense"])
        failure = c.Failure(self.chance.choice(["BOOM", "OTHER"]), retryable=self.chance.choice([None, None, False]))
        world.do(
            self.chance.choice(
                [
                    c.TaskSucceeded(**key, output=result),
                    c.TaskSucceeded(**key, output=b"2", asks=self.asks()),
                    c.TaskFailed(
                        **key, failure=failure, asks=c.Asks(set={"seen": b"1"}) if self.chance.random() < 0.2 else None
                    ),
                    c.TaskReturned(**key, crashed=self.chance.random() < 0.5),
                    c.TaskReturned(**key, crashed=False, unable=True),
                    c.TaskTimedOut(**key, kind=self.chance.choice(["heartbeat", "start_to_close"])),
                    c.TaskHeartbeat(**key, checkpoint=b"7"),
                    c.TaskExtended(**key, lease_us=world.now + self.chance.randint(0, 100) * SECOND),
                ]
            )
        )

    def asks(self) -> c.Asks:
        spawns = tuple(
            c.Spawn(workflow="k", detach=self.chance.random() < 0.3) for _ in range(self.chance.randint(1, 2))
        )
        return self.chance.choice(
            [
                c.Asks(set={"n": b"3"}),
                c.Asks(wait_for=("a", "b"), wait_timeout_us=self.chance.choice([None, SECOND])),
                c.Asks(suspend=b"1", emit=(("e", b"1"),)),
                c.Asks(spawn=spawns),
                c.Asks(escalate=b'{"to":"x"}'),
                c.Asks(route="r"),
            ]
        )

    def tick(self) -> None:
        self.world.pass_time(self.chance.choice([0.5, 1, 3, 10]))

    def signal(self) -> None:
        self.try_to(c.Signal(name=self.chance.choice(NAMES), payload=b"1"))

    def child(self) -> None:
        started = self.chance.choice(sorted(self.world.children.values(), key=lambda child: child.run_id))
        if not started.parent.detached:
            status = self.chance.choice(["completed", "failed", "cancelled"])
            parent = started.parent
            self.world.do(
                c.ChildClosed(visit=parent.visit, path=parent.path, child_run_id=started.run_id, status=status)
            )

    def reply(self) -> None:
        key = self.chance.choice([key for key, status in self.world.escalations.items() if status == "pending"])
        self.try_to(c.ReplyEscalation(escalation_id=key, approved=self.chance.random() < 0.6, values=b"{}"))

    def resolve(self) -> None:
        key = self.chance.choice(sorted(self.world.incidents))
        action = self.chance.choice(["retry", "retry", "skip", "fail"])
        edit = {"missing": b"1", "n": b"2", "list": self.chance.choice([b"[1,2]", b"[]", b"7"])}
        edit = edit if self.chance.random() < 0.7 else {}
        self.try_to(c.ResolveIncident(incident_id=key, action=action, set=edit, output=b"4"))

    def go_on(self) -> None:
        self.world.do(c.Continue(token=self.world.deferred.pop(0)))

    def control(self) -> None:
        commands = [
            c.Pause(keep_timeout=self.chance.random() < 0.3),
            c.Unpause(),
            c.Unpause(),
            c.Step(),
            c.Step(),
            c.SetVariables(values={"v": b"1", "list": self.chance.choice([b"[1,2,3]", b"7"])}),
        ]
        if self.chance.random() < 0.15:
            commands = [
                c.Cancel(source="user"),
                c.Terminate(),
                c.Fail(code="OP", reason="r"),
                c.RaiseIncident(code="S", message="m"),
            ]
        self.try_to(self.chance.choice(commands))

    def stale(self) -> None:
        nodes = [(path, node) for path, node in live(self.world.state, self.world.items) if node.epoch]
        if nodes:
            path, node = self.chance.choice(nodes)
            visit, epoch = self.world.state.visit, node.epoch - 1
            self.try_to(c.TaskSucceeded(path=path, visit=visit, epoch=epoch, output=b"0"))


def drive(seed: int, steps: int = 60) -> World:
    """Limits are made small, so that chance reaches them."""
    with patch.multiple(flow, ENTRIES_MAX=5, SPIN_MAX=20), patch.multiple(opening, MAP_CHUNK=2):
        return _drive(seed, steps)


def _drive(seed: int, steps: int) -> World:
    chance = random.Random(seed)
    world = World(Author(chance).definition())
    world.start(
        {"list": [1, 2, 3], "n": 1}, parent=chance.choice([None, c.ParentRef("p", 1, "")]), paused=chance.random() < 0.1
    )
    driver = Driver(world, chance)
    for _ in range(steps):
        if world.state.status in CLOSED:
            break
        driver.step()
        check_standing(world)
    check_undone(world)
    return world


def check_undone(world: World) -> None:
    """A failed or cancelled run has undone what it was to undo, each once."""
    left: list[str] = []
    for event in world.events:
        if isinstance(event, e.BodyEnded | e.TaskCompleted) and event.undo is not None:
            left.append(event.undo.state)
        elif isinstance(event, e.Undone):
            assert left.pop(event.index) == event.undone
    late = any(isinstance(event, e.RunTimersSet) and event.why == "shield over" for event in world.events)
    rule = {"failed": "failure", "cancelled": "cancel"}.get(world.state.status)
    assert not left or late or rule not in world.definition.compensate_on


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(min_value=0, max_value=2**32))
def test_replay_equals_live_and_invariants_hold(seed: int) -> None:
    world = drive(seed)
    if world.state.status not in CLOSED:
        world.do(c.Terminate(reason="end of test"))
    assert world.state.status in CLOSED
    assert not (world.queue)
    assert not (world.leases)
    assert not (world.timers)
    assert not (world.incidents)
    assert not (world.items)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(min_value=0, max_value=2**32))
def test_a_cancelled_run_always_comes_to_its_end(seed: int) -> None:
    world = drive(seed, steps=15)
    if world.state.status in CLOSED:
        return
    with patch.multiple(flow, ENTRIES_MAX=5, SPIN_MAX=20):
        cancel_and_wait(world)
    assert world.state.status in CLOSED


def cancel_and_wait(world: World) -> None:
    world.do(c.Cancel(source="user"))
    for _ in range(5):
        world.pass_time(3600)
