"""Slots are counted by the engine exactly as by the worker that granted them, whatever happens in between."""

from __future__ import annotations

import pytest

from tests.engine.cluster import TestWorker, register, running_engine, start, wait
from tests.engine.documents import one_task
from windlass.engine.connected import Assignment, Connected
from windlass.engine.dispatch import Dispatch
from windlass.engine.errors import EngineError
from windlass.engine.records import SessionRecord
from windlass.engine.unit import Unit
from windlass.engine.work import After, TaskKey
from windlass.v1 import worker_service_pb2 as pb
from windlass.worker.session import Session


class Stream:
    """A worker's stream that counts its tasks."""

    def __init__(self) -> None:
        self.tasks = 0

    def send_tasks(self, assignments: list[Assignment]) -> None:
        self.tasks += len(assignments)

    def send_stop(self, task: TaskKey, reason: str) -> None: ...
    def send_drain(self) -> None: ...
    def lapsed(self) -> None: ...
    def hang_up(self) -> list[TaskKey]:
        return []

    def replaced(self) -> list[TaskKey]:
        return []


@pytest.fixture
def dispatch() -> Dispatch:
    return Dispatch()


def connect(dispatch: Dispatch, credits: int) -> Connected:
    record = SessionRecord("s", "w", "default", ("default",), ("javascript",), 2, 0)
    session = dispatch.connect(record, Stream())
    dispatch.backlog.clear()
    dispatch.grant("s", credits)
    return session


def reserve(dispatch: Dispatch) -> Connected | None:
    return dispatch.reserve("default", "default", "javascript")


def deliver(dispatch: Dispatch, session: Connected) -> None:
    after = After()
    task = ("default", "r", 1, "", 1)
    after.assigned.append(Assignment(session, task, None, None, 0, 0, 0, 0))  # type: ignore[arg-type]
    dispatch.deliver(after)


def test_what_an_older_connection_paid_for_is_not_given_back_to_the_next(dispatch: Dispatch) -> None:
    old = connect(dispatch, 1)
    assert reserve(dispatch) is old
    new = connect(dispatch, 2)
    assert reserve(dispatch) is new  # the new connection, too, has a transaction under way
    dispatch.release(old)
    assert (new.credits, new.reserved) == (1, 1)
    dispatch.release(new)
    assert (new.credits, new.reserved) == (2, 0)


def test_a_task_is_not_delivered_to_a_connection_that_did_not_pay(dispatch: Dispatch) -> None:
    undelivered: list[str] = []
    dispatch.on_undelivered = undelivered.append
    old = connect(dispatch, 1)
    assert reserve(dispatch) is old
    new = connect(dispatch, 2)
    deliver(dispatch, old)
    assert undelivered == ["s"]
    assert (new.credits, new.held, new.outlet.tasks) == (2, {}, 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize("commits", [True, False])
def test_credits_taken_back_while_a_transaction_holds_them(dispatch: Dispatch, commits: bool) -> None:
    session = connect(dispatch, 1)
    assert reserve(dispatch) is session
    dispatch.grant("s", -1)  # the worker has not heard of the task yet, and takes back what it thinks unused
    if commits:
        deliver(dispatch, session)
    else:
        dispatch.release(session)
    assert (session.credits, session.reserved) == (0, 0)
    assert reserve(dispatch) is None
    dispatch.grant("s", 1)
    assert reserve(dispatch) is session


def test_a_poll_that_is_over_takes_no_task_that_a_failed_transaction_gives_back(dispatch: Dispatch) -> None:
    session = connect(dispatch, 1)
    assert reserve(dispatch) is session
    session.forfeit()
    dispatch.release(session)
    assert reserve(dispatch) is None
    dispatch.grant("s", 1)
    assert reserve(dispatch) is session


async def test_a_task_leased_while_its_worker_reconnects_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_engine() as engine:
        await register(engine, one_task())
        first = await TestWorker(engine, lambda task: 1, name="w", credits=1).connect()
        engine.dispatch.backlog.clear()
        real = Unit.write
        again: list[TestWorker] = []

        async def write(unit: Unit) -> None:
            """The worker connects anew when the task is leased to its old stream and the commit is still to come."""
            if unit.after.assigned and not again:
                worker = TestWorker(engine, lambda task: 1, name="w", credits=1)
                again.append(worker)
                assert first.link.session is not None
                await worker.connect(resume=first.link.session.record.session)
            await real(unit)

        monkeypatch.setattr(Unit, "write", write)
        run_id = await start(engine, "task", {})
        await wait(engine, run_id)
        (worker,) = again
        assert [task.run_id for task in worker.seen] == [run_id]
        assert first.seen == []
        assert first._task is not None
        with pytest.raises(EngineError, match="another stream"):
            await first._task
        connected = engine.dispatch.connected[worker.session_id]
        assert (connected.credits, connected.reserved) == (1, 0)


def say(worker: Session, dispatch: Dispatch, credits: int) -> None:
    """The worker says so many credits, and the engine hears it."""
    message = worker.outgoing()
    assert message is not None
    assert message.credits == credits
    dispatch.grant("s", message.credits)


def arrives(worker: Session, token: bytes) -> None:
    worker.received(pb.StreamTasksResponse(tasks=[pb.Task(task_token=token)]), 0)


def test_a_credit_too_many_is_gone_with_the_first_task_that_it_brings(dispatch: Dispatch) -> None:
    """What crosses a task that is on its way cannot be counted exactly: neither side knows what the other one knew."""
    engine, worker = connect(dispatch, 0), Session(pb.RegisterWorkerRequest(), capacity=2)
    worker.received(pb.StreamTasksResponse(registered=pb.RegisterWorkerResponse(session_id="s")), 0)
    say(worker, dispatch, 2)
    assert reserve(dispatch)
    deliver(dispatch, engine)  # and is on its way
    worker.capacity = 0
    say(worker, dispatch, -2)
    worker.capacity = 1
    say(worker, dispatch, 1)
    arrives(worker, b"a")
    assert (worker._credit, engine.credits) == (0, 1)
    assert reserve(dispatch)
    deliver(dispatch, engine)
    arrives(worker, b"b")
    assert (worker._credit, engine.credits) == (0, 0)
    worker.capacity = 4
    say(worker, dispatch, 2)
    assert (worker._credit, engine.credits) == (2, 2)
