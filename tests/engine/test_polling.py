"""What a poll's answer carried, and that never arrived: nothing stays with a worker that does not have it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from tests.engine.documents import one_task
from tests.engine.served import Served, refused, seconds, serving
from windlass.engine import tasks
from windlass.storage.memory import Faults, MemoryWorld
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        await engine.register(one_task(task={"runtime": "python", "handler": "steady"}, timeouts={"heartbeat": "1h"}))
        yield engine


async def register(served: Served, resume: str = "", held: Iterable[bytes] = ()) -> pb.RegisterWorkerResponse:
    request = pb.RegisterWorkerRequest(worker_id="u", slots=2, resume_session_id=resume, held_task_tokens=list(held))
    request.runtimes.add(name="javascript", version="1")
    request.handlers.add(handler="steady")
    reply: pb.RegisterWorkerResponse = await served.workers.RegisterWorker(request)
    return reply


async def poll(served: Served, session: str, number: int = 0, most: int = 1, wait: float = 20) -> pb.PollTasksResponse:
    request = pb.PollTasksRequest(session_id=session, max_tasks=most, wait_timeout=seconds(wait), number=number)
    reply: pb.PollTasksResponse = await served.workers.PollTasks(request)
    return reply


async def finish(served: Served, task: pb.Task) -> None:
    results = [pb.TaskResult(task_token=task.task_token, output=b"1")]
    reply = await served.workers.CompleteTasks(pb.CompleteTasksRequest(results=results))
    assert list(reply.accepted_task_tokens) == [task.task_token]


async def test_a_poll_repeated_under_its_number_gets_the_same_tasks(served: Served) -> None:
    session = (await register(served)).session_id
    run_id = await served.start("task")
    (lost,) = (await poll(served, session, 1)).tasks
    (task,) = (await poll(served, session, 1)).tasks
    assert (task.task_token, task.attempt) == (lost.task_token, 1)
    await finish(served, task)
    await served.closed(run_id)
    assert not (await poll(served, session, 1, wait=0.01)).tasks  # its lease has ended
    await served.start("task")
    (second,) = (await poll(served, session, 2)).tasks
    assert not (await poll(served, session, 3, wait=0.01)).tasks  # the next number says that the last answer came
    assert second.run_id != run_id


async def test_a_repeated_poll_is_given_no_more_than_it_asks_for(served: Served) -> None:
    session = (await register(served)).session_id
    for _ in range(4):
        await served.start("task")
    first = {task.task_token for task in (await poll(served, session, 1, most=2)).tasks}
    again = {task.task_token for task in (await poll(served, session, 1, most=2)).tasks}
    assert first <= again
    assert len(again) <= 2


async def test_a_cancel_in_a_lost_answer_is_told_again(served: Served) -> None:
    session = (await register(served)).session_id
    run_id = await served.start("task")
    (task,) = (await poll(served, session, 1)).tasks
    await served.runs.CancelRun(run_pb.CancelRunRequest(run_id=run_id))
    for _ in range(2):
        (cancel,) = (await poll(served, session, 2)).cancels
        assert cancel.task_token == task.task_token


async def test_the_newest_poll_gets_the_task(served: Served) -> None:
    session = (await register(served)).session_id
    older = asyncio.ensure_future(poll(served, session, 1))
    while not served.engine.dispatch.connected[session].credits:
        await served.engine.storage.read(lambda tr: tr.get(b"x"))
    newer = asyncio.ensure_future(poll(served, session, 1))
    assert not (await older).tasks  # ended by the newer one, long before its time
    run_id = await served.start("task")
    assert [task.run_id for task in (await newer).tasks] == [run_id]


async def test_a_resumed_session_gives_back_what_never_arrived(served: Served) -> None:
    session = (await register(served)).session_id
    kept = await served.start("task")
    (held,) = (await poll(served, session)).tasks
    lost = await served.start("task")
    assert (await poll(served, session)).tasks  # and say this answer is lost on the way
    reply = await register(served, resume=session, held=[held.task_token])
    assert (reply.resumed, reply.session_id, list(reply.lost_task_tokens)) == (True, session, [])
    (again,) = (await poll(served, session)).tasks
    assert (again.run_id, again.attempt) == (lost, 1)
    for task in (held, again):
        await finish(served, task)
    for run_id in (kept, lost):
        await served.closed(run_id)


async def test_a_store_that_fails_in_a_poll_loses_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two tasks fits into no message, and the store is away when that is to be recorded."""
    monkeypatch.setattr(tasks, "TASK_BYTES_MAX", 300_000)  # both carry the context, one of them its input too
    faults = Faults()
    async with serving(MemoryWorld(faults=faults).open(shared=False)) as served:
        branch = {"task": {"runtime": "javascript", "code": "input"}}
        branches = {"big": {**branch, "input": {"key": "big"}}, "small": {**branch, "input": {"key": "small"}}}
        state = {"parallel": {"branches": branches}, "next": "end"}
        await served.register({"workflow": "two", "initial": "a", "states": {"a": state, "end": {}}})
        session = (await register(served)).session_id
        waiting = asyncio.ensure_future(poll(served, session, most=2))
        while not served.engine.dispatch.connected[session].credits:
            await served.engine.storage.read(lambda tr: tr.get(b"x"))

        def store_fails() -> None:
            faults.unavailable = 1.0

        served.engine.dispatch.on_held = store_fails
        starting = asyncio.ensure_future(served.start("two", {"big": "x" * 200_000, "small": 1}))
        (small,) = (await waiting).tasks
        assert small.path == "small"
        faults.unavailable = 0.0
        served.engine.dispatch.on_held = served.engine.deadlines.wake
        run_id = await starting
        await poll(served, session, wait=0.01)
        run = await served.closed(run_id)
        assert run.failure.code == "INPUT_TOO_LARGE"


@pytest.mark.parametrize("call", ["PollTasks", "HeartbeatTasks", "HeartbeatWorker", "DrainWorker"])
async def test_a_session_that_ends_while_it_is_taken_over_is_told_so(
    call: str, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when it lapses just as its worker turns from another engine to this one."""
    session = (await register(served)).session_id
    dispatch, sessions = served.engine.dispatch, served.engine.sessions
    dispatch.disconnect(session, dispatch.connected[session].outlet)
    adopt = sessions.adopt

    async def adopt_then_lapse(*arguments: Any) -> Any:
        lost = await adopt(*arguments)
        await sessions.end(session, "gone")
        return lost

    monkeypatch.setattr(sessions, "adopt", adopt_then_lapse)
    request = getattr(pb, f"{call}Request")(session_id=session)
    await refused(getattr(served.workers, call)(request), "SESSION_NOT_FOUND")
