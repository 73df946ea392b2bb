"""Two streams for one session: the newer one has it, and the older one is told so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.engine.cluster import TestWorker, result_of
from tests.engine.documents import one_task
from tests.engine.served import Served, refused_by, serving, value
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
