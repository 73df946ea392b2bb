"""Attempts of a task: leases and epochs, retries, time limits, crashes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.core.build import ONCE, QUICK, SECOND, branch, limits, number_schema, on, state, task, workflow
from tests.core.world import World
from windlass.engine.core import commands as c
from windlass.engine.core.definition import Limits, RetryPolicy
from windlass.engine.core.events import AttemptEnded
from windlass.engine.core.limits import CONTEXT_BYTES_MAX, CRASHES_MAX, START_TO_CLOSE_US, UNABLE_US
from windlass.engine.core.retry import delay_us, retryable


def one(**given: Any) -> World:
    return World(workflow(state("s", branch(task(), **given)), retry=QUICK)).start()


def test_a_stale_epoch_is_refused_and_changes_nothing() -> None:
    world = one()
    world.lease()
    stale: dict[str, Any] = {"path": "", "visit": 1, "epoch": 1}
    world.do(c.TaskReturned(**stale, crashed=False))
    world.lease()
    for command in (
        c.TaskSucceeded(**stale, output=b"1"),
        c.TaskFailed(**stale, failure=c.Failure("X")),
        c.TaskHeartbeat(**stale, checkpoint=b"1"),
        c.TaskExtended(**stale, lease_us=10**18),
        c.TaskReturned(**stale, crashed=True),
        c.TaskTimedOut(**stale, kind="heartbeat"),
        c.TaskSucceeded(path="", visit=2, epoch=2, output=b"1"),
        c.TaskSucceeded(path="other", visit=1, epoch=2, output=b"1"),
    ):
        assert world.refused(command) == "LEASE_LOST"
    world.report(result=2)
    assert world.output() == 2


def test_the_same_result_twice_is_told_apart_from_a_lost_lease() -> None:
    world = World(workflow(state("s", task(), on("success", "t")), state("t", task()), retry=QUICK)).start()
    world.succeed()
    again = c.TaskSucceeded(path="", visit=1, epoch=1, output=b"1")
    assert world.refused(again) == "ALREADY_RECORDED"
    world.fail()
    assert world.refused(c.TaskFailed(path="", visit=2, epoch=1, failure=c.Failure("X"))) == "ALREADY_RECORDED"
    world.pass_time(1)
    world.succeed()
    assert world.state.status == "completed"
    assert world.refused(c.TaskSucceeded(path="", visit=2, epoch=2, output=b"1")) == "ALREADY_RECORDED"
    assert world.refused(again) == "RUN_CLOSED"


def test_retries_back_off_and_then_fail_the_run() -> None:
    world = one()
    world.fail(message="first")
    assert (world.state.status, world.node().phase) == ("waiting", "backoff")
    assert world.state.failure is not None
    assert world.state.failure.message == "first"
    world.pass_time(1)
    assert world.node().attempt == 2
    world.fail()
    world.pass_time(1)
    assert world.node().phase == "backoff"
    world.pass_time(1)
    activation = world.lease()
    assert (activation.attempt, activation.epoch, activation.idempotency_key) == (3, 3, "r1:1:")
    failure = c.Failure("BOOM", "last")
    world.do(c.TaskFailed(path="", visit=1, epoch=3, failure=failure))
    assert world.state.status == "failed"
    assert world.state.failure == failure


def test_retry_arithmetic() -> None:
    policy = RetryPolicy(initial_delay_us=1000, multiplier=2.0, max_delay_us=5000, jitter=0.2)
    assert [delay_us(policy, n, 0.5) for n in (1, 2, 3, 4, 1000)] == [1000, 2000, 4000, 5000, 5000]
    assert (delay_us(policy, 1, 0.0), delay_us(policy, 1, 1.0)) == (800, 1200)
    assert retryable(policy, c.Failure("X"), 2)
    assert not retryable(policy, c.Failure("X"), 3)
    assert not retryable(policy, c.Failure("SCHEMA_MISMATCH"), 1)
    assert not retryable(policy, c.Failure("X", retryable=False), 1)
    unlimited = RetryPolicy(max_attempts=0, non_retryable=("NEVER",), retryable=("OUT_OF_MEMORY",))
    assert retryable(unlimited, c.Failure("X"), 10_000)
    assert not retryable(unlimited, c.Failure("NEVER", retryable=True), 1)
    assert retryable(unlimited, c.Failure("OUT_OF_MEMORY"), 1)


def test_a_failure_may_say_when_to_try_again() -> None:
    world = one()
    world.fail(next_delay_us=7 * SECOND)
    assert [due - world.now for _, due in world.timers] == [7 * SECOND]


def test_attempt_time_limit_is_retried_and_ends_as_timeout() -> None:
    world = World(
        workflow(
            state("s", branch(task(), retry=ONCE), on("timeout", "late"), on("failure", "bad")),
            state("late"),
            state("bad"),
        )
    ).start()
    assert world.lease().timeouts.start_to_close_us == START_TO_CLOSE_US
    world.do(c.TaskTimedOut(path="", visit=1, epoch=1, kind="start_to_close"))
    assert world.state.state == "late"
    assert world.state.failure is not None
    assert world.state.failure.code == "START_TO_CLOSE_TIMEOUT"


def test_a_task_timeout_counts_as_failure_when_no_one_takes_it_by_name() -> None:
    world = World(workflow(state("s", branch(task(), retry=ONCE), on("failure", "bad")), state("bad"))).start()
    world.lease()
    world.do(c.TaskTimedOut(path="", visit=1, epoch=1, kind="heartbeat"))
    assert world.state.state == "bad"


def test_schedule_to_start_is_never_retried() -> None:
    world = one(timeouts=limits(schedule_to_start=5))
    world.pass_time(5)
    assert world.state.status == "failed"
    assert world.state.failure is not None
    assert world.state.failure.code == "SCHEDULE_TO_START_TIMEOUT"
    assert not world.queue
    world = one(timeouts=limits(schedule_to_start=5))
    world.lease()
    assert not world.timers


def test_schedule_to_close_bounds_all_attempts() -> None:
    world = one(timeouts=limits(schedule_to_close=1.5))
    world.fail()
    world.pass_time(1)
    world.lease()
    world.pass_time(0.5)
    assert world.state.status == "failed"
    assert world.state.failure is not None
    assert world.state.failure.code == "SCHEDULE_TO_CLOSE_TIMEOUT"
    assert [stop.path for stop in world.stops] == [""]
    world = one(timeouts=limits(schedule_to_close=0.5))
    world.fail()
    assert world.state.failure is not None
    assert world.state.failure.code == "BOOM", "no back-off beyond the limit"
    assert world.state.status == "failed"


def test_drained_attempts_do_not_count_and_crashes_do_up_to_their_cap() -> None:
    world = World(workflow(state("s", branch(task())), retry=msgspec.structs.replace(QUICK, max_attempts=0))).start()
    for _ in range(10):
        world.lease()
        world.do(c.TaskReturned(path="", visit=1, epoch=world.node().epoch, crashed=False))
    assert world.node().attempt == 1
    for number in range(CRASHES_MAX):
        assert world.state.status != "incident"
        world.pass_time(100)
        world.crash()
        assert world.node().crashes == number + 1
    (incident,) = world.state.incidents
    assert (incident.code, world.state.status, world.node().attempt) == ("CRASH_LOOP", "incident", CRASHES_MAX)
    assert f"crashed its worker {CRASHES_MAX} times, and that is as often as it may" in incident.message
    world.do(c.ResolveIncident(incident_id=incident.incident_id))
    assert world.node().crashes == 0
    world.succeed()
    assert world.state.status == "completed"


def test_a_crash_uses_up_an_attempt_and_the_last_one_parks_the_run() -> None:
    world = World(workflow(state("s", branch(task())), retry=msgspec.structs.replace(QUICK, max_attempts=2))).start()
    world.crash()
    assert (world.node().attempt, world.node().crashes) == (2, 1)
    world.crash()
    (incident,) = world.state.incidents
    assert incident.code == "CRASH_LOOP"
    assert "crashed its worker 2 times, and its last attempt is used up (max_attempts: 2)" in incident.message


def test_the_history_says_of_every_crash_what_died() -> None:
    world = World(workflow(state("s", branch(task())), retry=QUICK)).start()
    for _ in range(2):
        world.crash()
        world.pass_time(100)
    told = [event.failure for event in world.events if isinstance(event, AttemptEnded) and event.failure]
    assert [(failure.code, failure.message) for failure in told] == [
        ("CRASHED", "the worker or its slot died: killed")
    ] * 2


def test_one_crash_of_a_task_that_is_never_tried_again_says_that_its_attempts_are_used_up() -> None:
    world = World(workflow(state("s", branch(task())), retry=msgspec.structs.replace(QUICK, max_attempts=1))).start()
    world.crash()
    (incident,) = world.state.incidents
    assert "crashed its worker once, and its last attempt is used up (max_attempts: 1)" in incident.message


def test_a_value_that_replaces_a_large_one_is_counted_once() -> None:
    large = b'"' + b"x" * (CONTEXT_BYTES_MAX * 6 // 10) + b'"'
    world = World(workflow(state("s", branch(task(), output="n")))).start()
    world.do(c.SetVariables(values={"n": large}))
    world.lease()
    world.do(c.TaskSucceeded(path="", visit=1, epoch=1, output=large))
    assert world.state.status == "completed"


def test_at_most_once_never_runs_twice() -> None:
    world = World(workflow(state("s", branch(task(at_most_once=True))), retry=QUICK)).start()
    world.crash()
    assert world.state.incidents[0].code == "LEASE_LOST"
    world.do(c.ResolveIncident(incident_id=world.state.incidents[0].incident_id, action="skip", output=b"5"))
    assert (world.state.status, world.output()) == ("completed", 5)
    world = World(workflow(state("s", branch(task(at_most_once=True))), retry=QUICK)).start()
    world.fail()
    assert world.state.status == "failed"


def test_an_at_most_once_task_that_its_worker_stopped_is_not_run_again_and_another_is() -> None:
    for once, phase in ((True, "incident"), (False, "queued")):
        world = World(workflow(state("s", branch(task(at_most_once=once))), retry=QUICK)).start()
        world.lease()
        world.do(c.TaskReturned(path="", visit=1, epoch=1, crashed=False, interrupted=True))
        assert (world.node("").phase, world.node("").crashes) == (phase, int(once))


def test_checkpoints_reach_the_next_attempt() -> None:
    world = one()
    world.lease()
    world.do(c.TaskHeartbeat(path="", visit=1, epoch=1, checkpoint=b'{"line":7}'))
    assert world.decision.events == ()
    world.do(c.TaskReturned(path="", visit=1, epoch=1, crashed=True))
    assert world.lease().checkpoint == b'{"line":7}'


def test_a_deadline_moves_away_and_never_nearer() -> None:
    world = one()
    world.lease()
    due = world.node("").lease_us
    for asked, kept, events in ((due + 5, due + 5, 1), (due + 3, due + 5, 0), (due + 9, due + 9, 1)):
        world.do(c.TaskExtended(path="", visit=1, epoch=1, lease_us=asked))
        assert (world.node("").lease_us, len(world.decision.events)) == (kept, events)


def test_an_attempt_without_a_deadline_gets_none() -> None:
    world = one()
    world.leases[1, ""] = 1
    del world.queue[1, ""]
    world.do(c.TaskLeased(path="", visit=1, session="s", worker="w", lease_us=0))
    world.do(c.TaskExtended(path="", visit=1, epoch=1, lease_us=world.now + SECOND))
    assert (world.node("").lease_us, world.decision.events) == (0, ())


def test_what_a_failed_attempt_set_is_kept_for_the_next() -> None:
    world = one()
    world.lease()
    asks = c.Asks(set={"seen": b"1"}, emit=(("tried", b"{}"),))
    world.do(c.TaskFailed(path="", visit=1, epoch=1, failure=c.Failure("X"), asks=asks))
    assert world.outbox == [("tried", b"{}")]
    world.pass_time(1)
    assert world.lease().context == {"seen": b"1"}
    world.report(asks=c.Asks(set={"more": b"2"}))
    assert world.context() == {"seen": 1, "more": 2}


@pytest.mark.parametrize(
    ("output", "asks", "code"),
    [
        (b'"' + b"x" * CONTEXT_BYTES_MAX + b'"', None, "OUTPUT_TOO_LARGE"),
        (b"1", c.Asks(set={"big": b'"' + b"x" * CONTEXT_BYTES_MAX + b'"'}), "CONTEXT_TOO_LARGE"),
        (b"{nonsense", None, "BAD_OUTPUT"),
        (b"1", c.Asks(set={"k" * CONTEXT_BYTES_MAX: b"1"}), "CONTEXT_TOO_LARGE"),
        (b"1", c.Asks(set={"a": b"nonsense"}), "INVALID_ASK"),
        (b"1", c.Asks(spawn=(c.Spawn(workflow="w" * 201),)), "INVALID_ASK"),
        (b"1", c.Asks(spawn=(c.Spawn(workflow="w", workflow_id="i" * 201),)), "INVALID_ASK"),
        (b"1", c.Asks(spawn=(c.Spawn(workflow="w", workflow_id="\0"),)), "INVALID_ASK"),
        (b"1", c.Asks(wait_for=("s" * 201,)), "INVALID_ASK"),
        (b"1", c.Asks(wait_for=tuple(map(str, range(101)))), "INVALID_ASK"),
        (b'"\xff"', None, "BAD_OUTPUT"),
        (b"[" * 5000 + b"]" * 5000, None, "BAD_OUTPUT"),
        (b"1", c.Asks(suspend=b"{"), "INVALID_ASK"),
        (b"1", c.Asks(suspend=b'"' + b"x" * 200_000 + b'"'), "INVALID_ASK"),
        (b"1", c.Asks(emit=(("e", b"1"),) * 101), "INVALID_ASK"),
        (b"1", c.Asks(spawn=(c.Spawn(workflow="w", input=b"nonsense"),)), "INVALID_ASK"),
        (b"1", c.Asks(spawn=(c.Spawn(workflow="w", close_policy="?"),)), "INVALID_ASK"),
        (b"1", c.Asks(route="x", wait_for=("y",)), "INVALID_ASK"),
    ],
)
def test_results_that_cannot_be_recorded_are_terminal(output: bytes, asks: c.Asks | None, code: str) -> None:
    world = one(output="kept")
    world.lease()
    world.report(output=output, asks=asks)
    assert world.state.status == "failed"
    assert world.state.failure is not None
    assert world.state.failure.code == code
    assert world.context() == {}


def test_output_schema_and_size_of_one_task() -> None:
    world = one(output_schema=number_schema())
    world.succeed(result="text")
    assert world.state.failure is not None
    assert world.state.failure.code == "SCHEMA_MISMATCH"
    world = World(workflow(state("s", branch(task(limits=Limits(output_bytes=10)))))).start()
    world.succeed(result="x" * 20)
    assert world.state.failure is not None
    assert world.state.failure.code == "OUTPUT_TOO_LARGE"


def test_a_task_cannot_be_leased_twice() -> None:
    world = one()
    world.lease()
    lease = c.TaskLeased(path="", visit=1, session="s", worker="w")
    assert world.refused(lease) == "TASK_NOT_QUEUED"


def test_a_timeout_that_the_worker_judged_is_a_timeout_too() -> None:
    world = World(workflow(state("s", branch(task(), retry=ONCE), on("timeout", "late")), state("late"))).start()
    world.fail(code="TIMEOUT")
    assert world.state.state == "late"


def test_a_worker_that_cannot_run_it_is_avoided_for_a_while_and_no_attempt_is_used() -> None:
    world = World(workflow(state("s", task()), retry=ONCE)).start()
    world.lease()
    given_back = c.TaskReturned(path="", visit=1, epoch=1, crashed=False, unable=True, reason="no such module")
    world.do(given_back)
    queued = world.queue[1, ""]
    assert (queued.avoid, queued.avoid_us, queued.attempt) == (("s",), UNABLE_US, 1)
    assert world.events[-1].why == "unable"
    assert world.state.failure is not None
    assert "no such module" in world.state.failure.message
    world.lease()
    world.do(msgspec.structs.replace(given_back, epoch=2))
    assert world.node().unable == ("s",), "the same worker is remembered once"
    world.do(c.Cancel(source="user"))
    assert world.state.status == "cancelled"


def test_the_nearest_retry_policy_counts() -> None:
    """Step, definition, namespace (given at the start), built in."""
    twice, often = RetryPolicy(max_attempts=2), RetryPolicy(max_attempts=9)
    for step, whole, tenant, most in (
        (ONCE, often, often, 1), (None, twice, often, 2), (None, None, twice, 2), (None, None, None, 3),
    ):  # fmt: skip
        world = World(workflow(state("s", branch(task(), retry=step)), retry=whole)).start(retry=tenant)
        for _ in range(most - 1):
            world.fail()
            assert world.node().phase == "backoff"
            world.pass_time(60)
        world.fail()
        assert world.state.status == "failed"
