"""The worker's half of the protocol, step by step, with a clock of the test's."""

from __future__ import annotations

import pytest
from google.rpc import code_pb2

from tests.worker.fake_engine import seconds, status
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.actions import Action, Cancel, Reconnect, Refused, Start, Stop
from windlass.worker.session import Session


def registered(
    session: Session, *, now_s: float = 0.0, session_id: str = "s1", resumed: bool = False, **more: object
) -> list[Action]:
    session.opened(now_s)
    reply = wire.RegisterWorkerResponse(
        session_id=session_id,
        lease_duration=seconds(10),
        heartbeat_interval=seconds(2),
        resumed=resumed,
        **more,  # type: ignore[arg-type]
    )
    return session.received(wire.StreamTasksResponse(registered=reply), now_s)


def given(session: Session, *tokens: bytes, now_s: float = 0.0) -> list[Action]:
    tasks = [wire.Task(task_token=token, run_id=token.decode()) for token in tokens]
    return session.received(wire.StreamTasksResponse(tasks=tasks), now_s)


def result(token: bytes) -> wire.TaskResult:
    return wire.TaskResult(task_token=token, output=b"1")


def ready(*, capacity: int = 4) -> Session:
    session = Session(wire.RegisterWorkerRequest(worker_id="w"), capacity)
    registered(session)
    first = session.outgoing()
    assert first is not None
    assert first.credits == capacity
    return session


def test_what_was_stopped_while_the_engine_thought_is_not_left_with_it() -> None:
    """The engine took the register message late, and took over leases that nobody works on any more."""
    session = ready()
    given(session, b"a", b"b")
    session.lost()
    assert set(session.opened(1.0).register.held_task_tokens) == {b"a", b"b"}
    stopped = session.tick(11.0)
    assert [type(action) for action in stopped] == [Stop, Stop]
    reply = wire.RegisterWorkerResponse(session_id="s1", lease_duration=seconds(10), resumed=True)
    session.received(wire.StreamTasksResponse(registered=reply), 11.5)
    said = session.outgoing()
    assert said is not None
    assert {release.task_token for release in said.releases} == {b"a", b"b"}


def test_nothing_is_said_before_the_engine_has_answered() -> None:
    session = Session(wire.RegisterWorkerRequest(worker_id="w"), 2)
    opening = session.opened(0.0)
    assert opening.register.worker_id == "w"
    assert session.outgoing() is None


def test_a_result_and_the_credit_it_frees_travel_together() -> None:
    session = ready()
    assert [type(action) for action in given(session, b"a", b"b")] == [Start, Start]
    assert session.outgoing() is None  # two of four credits are used, two are still granted
    assert session.answered(result(b"a"))
    assert session.answered(result(b"b"))
    message = session.outgoing()
    assert message is not None
    assert [each.task_token for each in message.results] == [b"a", b"b"]
    assert message.credits == 2


def test_capacity_may_grow_and_shrink() -> None:
    session = ready(capacity=2)
    session.capacity = 5
    grown = session.outgoing()
    assert grown is not None
    assert grown.credits == 3
    session.capacity = 1
    given(session, b"a", b"b")
    session.answered(result(b"a"))
    message = session.outgoing()
    assert message is not None
    assert message.credits == -3  # of five credits two are used; the other three are taken back
    given(session, b"crossed")  # sent before the engine heard of it
    assert session.outgoing() is None


def test_an_acknowledged_result_leaves_the_book() -> None:
    session = ready()
    given(session, b"a")
    session.answered(result(b"a"))
    session.outgoing()
    assert session.held == 1
    session.received(wire.StreamTasksResponse(accepted_task_tokens=[b"a"]), 1.0)
    assert session.held == 0


def test_a_task_delivered_twice_starts_once() -> None:
    session = ready()
    assert len(given(session, b"a")) == 1
    assert given(session, b"a") == []
    assert session.working == 1


def test_a_second_answer_is_not_wanted() -> None:
    session = ready()
    given(session, b"a")
    assert session.answered(result(b"a"))
    assert not session.answered(result(b"a"))
    assert not session.answered(result(b"unknown"))


def test_after_a_reconnect_everything_held_is_listed_and_answers_are_said_again() -> None:
    session = ready()
    given(session, b"a", b"b", b"c")
    session.answered(result(b"a"))
    session.outgoing()  # carried by the stream that breaks
    session.lost()
    session.answered(result(b"b"))  # finished while nobody was there
    opening = session.opened(1.0)
    assert opening.register.resume_session_id == "s1"
    assert set(opening.register.held_task_tokens) == {b"a", b"b", b"c"}
    assert registered(session, now_s=1.0, resumed=True)
    message = session.outgoing()
    assert message is not None
    assert {each.task_token for each in message.results} == {b"a", b"b"}
    assert message.credits == 3  # c still works; nothing granted on the old stream counts


def test_tasks_that_the_engine_lists_as_lost_stop() -> None:
    session = ready()
    given(session, b"a", b"b")
    actions = registered(session, now_s=1.0, resumed=True, lost_task_tokens=[b"a"])
    assert [action.token for action in actions if isinstance(action, Stop)] == [b"a"]
    assert session.works_on(b"b")


def test_a_new_session_means_that_everything_is_lost() -> None:
    session = ready()
    given(session, b"a", b"b")
    session.answered(result(b"b"))
    actions = registered(session, now_s=60.0, session_id="s2")
    assert [action.token for action in actions if isinstance(action, Stop)] == [b"a"]
    assert session.held == 0


def test_running_tasks_stop_before_the_lease_ends_and_finished_ones_are_kept() -> None:
    session = ready()
    given(session, b"a", b"b")
    session.answered(result(b"b"))
    session.lost()
    assert session.due_s() == 8.0  # ten seconds from when the registration was sent, less the margin
    assert session.tick(7.99) == []
    stopped = session.tick(8.0)
    assert [action.token for action in stopped if isinstance(action, Stop)] == [b"a"]
    assert session.working == 0


def test_what_was_stopped_is_named_to_an_engine_that_still_knows_the_lease_since_it_had_begun() -> None:
    session = ready()
    given(session, b"a")
    session.lost()
    session.tick(8.0)
    assert list(session.opened(8.1).register.held_task_tokens) == [b"a"]
    reply = wire.RegisterWorkerResponse(session_id="s1", lease_duration=seconds(10), resumed=True)
    session.received(wire.StreamTasksResponse(registered=reply), 8.2)
    said = session.outgoing()
    assert said is not None
    assert [release.reason for release in said.releases] == [wire.RELEASE_REASON_INTERRUPTED]


def test_who_holds_something_is_in_a_hurry_to_be_heard_while_the_lease_stands() -> None:
    session = ready()
    session.lost()
    assert session.try_within_s(1.0) == float("inf")  # nothing would be lost
    registered(session, now_s=2.0, resumed=True)
    given(session, b"a", now_s=3.0)
    session.lost()
    assert session.try_within_s(11.0) == 2.0
    assert session.try_within_s(12.0) == float("inf")


def test_the_lease_counts_from_when_the_acknowledged_heartbeat_was_sent() -> None:
    session = ready()
    given(session, b"a")
    session.tick(2.0)
    beat = session.outgoing()
    assert beat is not None
    ack = wire.HeartbeatAck(number=beat.heartbeat.number, lease_duration=seconds(10))
    session.received(wire.StreamTasksResponse(heartbeat=ack), 5.0)
    assert session.lease.until_s == 12.0


def test_a_silent_engine_is_left_even_if_the_heartbeat_could_not_be_written() -> None:
    session = ready()
    session.tick(2.0)  # wants to be sent; the stream hangs, `outgoing` is never called
    assert session.tick(5.3) == []
    left = session.tick(5.4)
    assert [type(action) for action in left] == [Reconnect]


def test_progress_is_gathered_and_goes_before_the_result() -> None:
    session = ready()
    given(session, b"a")
    session.noted(wire.TaskHeartbeat(task_token=b"a", checkpoint=b"1"), 1.0)
    session.noted(wire.TaskHeartbeat(task_token=b"a", progress=b"0.5"), 1.1)
    assert session.outgoing() is None
    session.tick(1.2)
    message = session.outgoing()
    assert message is not None
    assert [(note.checkpoint, note.progress) for note in message.task_heartbeats] == [(b"1", b"0.5")]
    session.noted(wire.TaskHeartbeat(task_token=b"a", checkpoint=b"2"), 1.3)
    session.answered(result(b"a"))
    last = session.outgoing()
    assert last is not None
    assert last.task_heartbeats[0].checkpoint == b"2"
    assert last.results[0].task_token == b"a"


def test_a_cancel_for_a_good_lease_wants_an_answer_and_a_lost_one_does_not() -> None:
    session = ready()
    given(session, b"a", b"b")
    cancels = [
        wire.TaskCancel(task_token=b"a", reason=wire.CANCEL_REASON_CANCELLED),
        wire.TaskCancel(task_token=b"b", reason=wire.CANCEL_REASON_LOST),
        wire.TaskCancel(task_token=b"unknown", reason=wire.CANCEL_REASON_CANCELLED),
    ]
    actions = session.received(wire.StreamTasksResponse(cancels=cancels), 1.0)
    assert [type(action) for action in actions] == [Cancel, Stop]
    assert session.works_on(b"a")
    assert not session.works_on(b"b")


def rejected(session: Session, token: bytes, code: int, reason: str) -> list[Action]:
    refusal = wire.RejectedTask(task_token=token, error=status(code, reason, f"because {reason}"))
    return session.received(wire.StreamTasksResponse(rejected=[refusal]), 1.0)


def test_a_lost_lease_drops_the_result_for_good() -> None:
    session = ready()
    given(session, b"a")
    session.answered(result(b"a"))
    session.outgoing()
    assert [type(action) for action in rejected(session, b"a", code_pb2.ABORTED, "LEASE_LOST")] == [Refused]
    assert session.held == 0
    assert session.outgoing() is None


def test_an_answer_that_can_never_be_taken_is_followed_by_a_failure_that_says_why() -> None:
    session = ready()
    given(session, b"a")
    session.answered(result(b"a"))
    session.outgoing()
    rejected(session, b"a", code_pb2.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE")
    message = session.outgoing()
    assert message is not None
    assert message.results[0].failure.code == "PAYLOAD_TOO_LARGE"
    rejected(session, b"a", code_pb2.INVALID_ARGUMENT, "INVALID_FIELD")  # the failure is refused as well: give up
    assert session.held == 0


def test_an_engine_that_cannot_just_now_gets_the_same_answer_again_after_a_pause() -> None:
    session = ready()
    given(session, b"a")
    session.answered(result(b"a"))
    session.outgoing()
    rejected(session, b"a", code_pb2.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert session.outgoing() is None
    session.tick(1.5)
    message = session.outgoing()
    assert message is not None
    assert message.results[0].output == b"1"


def test_a_draining_worker_gives_back_what_crosses_its_drain() -> None:
    session = ready()
    given(session, b"a")
    session.drain()
    message = session.outgoing()
    assert message is not None
    assert message.drain
    assert given(session, b"late") == []
    answer = session.outgoing()
    assert answer is not None
    assert [release.task_token for release in answer.releases] == [b"late"]
    assert not answer.credits
    session.answered(result(b"a"))
    session.outgoing()
    session.received(wire.StreamTasksResponse(accepted_task_tokens=[b"a", b"late"]), 2.0)
    assert session.held == 0


def test_a_draining_engine_is_left_when_nothing_is_held() -> None:
    session = ready()
    given(session, b"a")
    assert session.received(wire.StreamTasksResponse(drain=True), 1.0) == []
    session.answered(result(b"a"))
    message = session.outgoing()
    assert message is not None
    assert not message.credits
    left = session.received(wire.StreamTasksResponse(accepted_task_tokens=[b"a"]), 1.1)
    assert left == [Reconnect("the engine drains")]


def test_answers_are_spread_over_messages_that_the_engine_can_take() -> None:
    session = ready(capacity=3)
    registered(session, resumed=True, max_message_bytes=1000)
    given(session, b"a", b"b", b"c")
    for token in (b"a", b"b", b"c"):
        session.answered(wire.TaskResult(task_token=token, output=b"x" * 400))
    sizes = []
    while (message := session.outgoing()) is not None:
        sizes.append(len(message.results))
    assert sizes == [2, 1]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (wire.TaskResult(task_token=b"a", output=b"1", context_patch={"k" * 5_000_000: b"1"}), "OUTPUT_TOO_LARGE"),
        (wire.TaskResult(task_token=b"a", failure=common_pb2.Failure(code="TRAP", stack="n" * 5_000_000)), "TRAP"),
        (wire.TaskRelease(task_token=b"a", message="m" * 5_000_000), ""),
    ],
)
def test_an_answer_that_no_message_can_hold_is_told_in_short(
    answer: wire.TaskResult | wire.TaskRelease, code: str
) -> None:
    """The engine would end every stream that it is sent on."""
    session = ready()
    given(session, b"a", b"b")
    session.answered(answer)
    session.answered(result(b"b"))
    message = session.outgoing()
    assert message is not None
    assert message.ByteSize() < 20_000
    told = [each.failure.code for each in message.results] + ["" for _ in message.releases]
    assert told == ([code, ""] if code else ["", ""])


def test_no_message_is_larger_than_the_engine_takes() -> None:
    session = ready(capacity=100)
    tokens = [b"%d" % number for number in range(100)]
    given(session, *tokens)
    for token in tokens:
        session.noted(wire.TaskHeartbeat(task_token=token, checkpoint=b"1" * 100_000), 0.0)
        session.noted(wire.TaskHeartbeat(task_token=token, checkpoint=b"1" * 5_000_000), 0.0)  # of no use to anybody
    for token in tokens[:50]:
        session.answered(wire.TaskResult(task_token=token, output=b"1" * 1_900_000))
    session.tick(1.0)
    sizes, heard = [], []
    while (message := session.outgoing()) is not None:
        sizes.append(message.ByteSize())
        heard += [note.task_token for note in message.task_heartbeats]
    assert max(sizes) < 4 << 20
    assert sorted(heard) == sorted(tokens)


def test_an_engine_that_acknowledges_nothing_is_not_given_credit_for_ever() -> None:
    session = ready(capacity=1)
    for number in range(200):
        token = str(number).encode()
        given(session, token)
        session.answered(wire.TaskResult(task_token=token, failure=common_pb2.Failure(code="X")))
        message = session.outgoing()
        assert message is not None
        if not message.credits:
            return
    raise AssertionError("the book grows without bound")


def test_a_result_that_is_given_up_with_its_session_is_told() -> None:
    session = ready()
    given(session, b"a", b"b")
    session.answered(result(b"a"))
    session.answered(wire.TaskRelease(task_token=b"b"))  # gone all the same: nothing to tell
    (told,) = session.forgotten("the lease is over")
    assert isinstance(told, Refused)
    assert (told.task.run_id, told.refusal.reason, told.refusal.message) == ("a", "LEASE_LOST", "the lease is over")


def test_a_forgotten_session_stops_everything() -> None:
    session = ready()
    given(session, b"a")
    stopped = session.forgotten("gone")
    assert [type(action) for action in stopped] == [Stop]
    assert session.opened(3.0).register.resume_session_id == ""
