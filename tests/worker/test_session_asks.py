"""The worker's half of the protocol: more time for a task, and tasks that come with the answer to a start."""

from __future__ import annotations

from tests.worker.test_session import given, ready, registered, result
from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.actions import Start
from windlass.worker.book import NOTES_EVERY_S
from windlass.worker.session import Session


def extended(session: Session, span_s: float, now_s: float) -> None:
    note = wire.TaskHeartbeat(task_token=b"a", progress=b"1")
    note.extension.FromMicroseconds(int(span_s * 1e6))
    session.noted(note, now_s)


def said_extensions(session: Session) -> list[float]:
    said = session.outgoing()
    return [each.extension.ToMicroseconds() / 1e6 for each in said.task_heartbeats] if said is not None else []


def test_the_furthest_of_several_extensions_is_said() -> None:
    session = ready()
    given(session, b"a")
    extended(session, 60.25, 1.0)
    extended(session, 10, 1.1)
    session.tick(2.0)
    assert said_extensions(session) == [60.15]


def test_an_extension_waits_for_other_notes_only_while_an_earlier_one_lasts() -> None:
    """However little is left of the attempt's time, the engine hears of it before that is over."""
    session = ready()
    given(session, b"a")
    for now_s, due_s in ((1.0, 1.0), (1.3, 1.3 + NOTES_EVERY_S), (2.0, 2.0)):
        extended(session, 1, now_s)
        assert session.due_s() == due_s
        session.tick(due_s)
        assert said_extensions(session)


def test_an_extension_is_said_again_on_the_next_stream_with_what_is_left_of_it() -> None:
    session = ready()
    given(session, b"a", b"b")
    extended(session, 60, 1.0)
    session.tick(2.0)
    assert said_extensions(session) == [60]
    session.lost()
    registered(session, now_s=5.0, resumed=True)
    assert said_extensions(session) == [56]
    session.answered(result(b"a"))
    session.lost()
    registered(session, now_s=6.0, resumed=True)
    assert said_extensions(session) == []


def test_a_task_that_comes_with_an_answer_takes_room_and_no_credit() -> None:
    session = ready(capacity=2)
    task = wire.Task(task_token=b"a")
    assert session.offer() == session.offer() == session.session_id
    assert not session.offer()  # two answers under way fill it
    assert session.offered(None) == []
    assert session.offered(task) == [Start(task)]
    assert session.offer()
    assert session.offered(task) == []  # sent once more, as nothing was heard of it
    taken_back = session.outgoing()
    assert taken_back is not None
    assert taken_back.credits == -1
    given(session, b"b")
    assert not session.offer()
    session.answered(result(b"a"))
    assert session.offer()


def test_no_task_is_asked_for_with_an_answer_that_could_not_be_done() -> None:
    session = ready()
    session.lost()
    assert not session.offer()
    session = ready()
    assert session.offer()
    session.drain()
    assert not session.offer()
    assert session.offered(wire.Task(task_token=b"a")) == []  # asked for before the drain
    said = session.outgoing()
    assert said is not None
    assert [release.task_token for release in said.releases] == [b"a"]


def test_a_task_that_was_asked_for_on_an_earlier_stream_is_asked_about() -> None:
    """The engine may have given it back since: the next stream did not name it."""
    session = ready()
    assert session.offer()
    assert session.offer()
    session.lost()
    registered(session, now_s=1.0, resumed=True)
    session.outgoing()
    assert session.offered(wire.Task(task_token=b"a"))
    said = session.outgoing()
    assert said is not None
    assert [beat.task_token for beat in said.task_heartbeats] == [b"a"]
    session.offered(None)
    assert session.offer()
    assert session.offered(wire.Task(task_token=b"b"))
    said = session.outgoing()
    assert said is None or not said.task_heartbeats


def test_a_task_that_is_sent_again_with_word_that_it_is_done_is_not_begun_anew() -> None:
    session = ready()
    task = wire.Task(task_token=b"a")
    session.offer()
    session.offered(task)
    session.answered(result(b"a"))
    both = wire.StreamTasksResponse(tasks=[task], accepted_task_tokens=[b"a"])
    assert session.received(both, 0.0) == []
    assert not session.held
