"""Two streams for one session: the newer one has it, and the older one is told so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.engine.cluster import TestWorker, result_of
from tests.engine.documents import one_task
from tests.engine.served import Served, refused_by, serving, value
from windlass.engine.leases import token_of
from windlass.v1 import worker_service_pb2 as pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        await engine.register(one_task())
        yield engine


async def stream(served: Served, resume: str = "", held: tuple[bytes, ...] = ()) -> tuple[Any, str]:
    """A registered stream over the socket, with two credits; its session."""
    call = served.workers.StreamTasks()
    register = pb.RegisterWorkerRequest(worker_id="w1", slots=2, resume_session_id=resume, held_task_tokens=held)
    register.runtimes.add(name="javascript", version="test")
    await call.write(pb.StreamTasksRequest(register=register, credits=2))
    message = await call.read()
    return call, str(message.registered.session_id)


async def test_the_older_stream_of_a_session_is_told_that_it_is_replaced(served: Served) -> None:
    older, session = await stream(served)
    run_id = await served.start("task")
    (task,) = (await older.read()).tasks
    newer, same = await stream(served, session, (task.task_token,))
    assert same == session
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await older.read()
    refused_by(error.value, "SESSION_REPLACED")
    await newer.write(pb.StreamTasksRequest(results=[result_of(task, "of the newer one")]))
    assert value((await served.closed(run_id)).context["done"]) == "of the newer one"
    newer.cancel()


async def test_what_a_replaced_stream_still_says_counts_for_nothing(served: Served) -> None:
    older = await served.worker(lambda task: TestWorker.HOLD)
    await older.until(lambda: bool(older.session_id))
    link = older.link
    newer, session = await stream(served, older.session_id)
    link.receive(pb.StreamTasksRequest(credits=100, drain=True))
    connected = served.engine.dispatch.connected[session]
    assert (connected.credits, connected.record.draining) == (2, False)
    link.session.drain()  # type: ignore[union-attr]  # it had said so before
    await link.close()
    assert session in served.engine.dispatch.connected, "a stream that is no longer the session's cannot end it"
    assert (await served.engine.sessions.find(session)).session == session
    newer.cancel()


async def test_a_worker_that_says_goodbye_is_not_told_that_another_took_its_session(served: Served) -> None:
    """Its goodbye is a call of its own, and its stream ends in good order."""
    call, session = await stream(served)
    await served.start("task")
    assert (await call.read()).tasks
    reply = await served.workers.DrainWorker(pb.DrainWorkerRequest(session_id=session, close=True))
    assert reply.held == 1
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_unary_call_about_a_session_leaves_it_with_its_stream(served: Served) -> None:
    call, session = await stream(served)
    run_id = await served.start("task")
    (task,) = (await call.read()).tasks
    connected = served.engine.dispatch.connected[session]
    alive = pb.HeartbeatWorkerRequest(session_id=session, heartbeat=pb.WorkerHeartbeat(number=3))
    assert (await served.workers.HeartbeatWorker(alive)).heartbeat.number == 3
    beats = [
        pb.TaskHeartbeat(task_token=task.task_token),
        pb.TaskHeartbeat(task_token=token_of(("default", "r", 1, "", 1))),
    ]
    told = await served.workers.HeartbeatTasks(pb.HeartbeatTasksRequest(session_id=session, heartbeats=beats))
    assert [(each.task_token, each.reason) for each in told.cancels] == [(beats[1].task_token, pb.CANCEL_REASON_LOST)]
    await served.workers.DrainWorker(pb.DrainWorkerRequest(session_id=session))
    assert served.engine.dispatch.connected[session] is connected
    assert connected.record.draining
    await call.write(pb.StreamTasksRequest(results=[result_of(task, "by the stream")]))
    assert value((await served.closed(run_id)).context["done"]) == "by the stream"
    call.cancel()
