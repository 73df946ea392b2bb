"""An engine stops in bounded time, whatever the store does, and says goodbye to every kind of worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.engine.documents import one_task
from tests.engine.served import seconds, serving
from windlass.definition.compile import compile_canonical
from windlass.engine.engine import Engine
from windlass.engine.service import server
from windlass.storage.memory import Faults, MemoryWorld
from windlass.v1 import worker_service_pb2 as pb


async def test_a_result_that_the_store_does_not_take_does_not_keep_the_server_from_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.05)
    faults = Faults()
    async with asyncio.timeout(20), serving(MemoryWorld(faults=faults).open(shared=False)) as served:
        await served.register(one_task())
        await served.start("task")

        async def said() -> AsyncIterator[pb.StreamTasksRequest]:
            register = pb.RegisterWorkerRequest(worker_id="w", slots=1)
            register.runtimes.add(name="javascript", version="1")
            yield pb.StreamTasksRequest(register=register, credits=1)
            await asyncio.Event().wait()  # the stream stays open

        call = served.workers.StreamTasks(said())
        async for message in call:
            if message.tasks:
                break
        faults.unavailable = 1.0
        result = pb.TaskResult(task_token=message.tasks[0].task_token, output=b"1")
        (link,) = served.engine.workers.links
        link.receive(pb.StreamTasksRequest(results=[result]))
        # leaving `serving` stops the server, and must end


async def test_an_engine_that_cannot_take_back_its_record_still_stops() -> None:
    faults = Faults()
    store = MemoryWorld(faults=faults).open()
    engine = Engine(store, compile_canonical)
    await engine.start()
    faults.unavailable = 1.0
    async with asyncio.timeout(20):
        await engine.stop()
    await store.close()


async def test_a_worker_that_polls_is_told_to_go_elsewhere() -> None:
    async with asyncio.timeout(20), serving() as served:
        request = pb.RegisterWorkerRequest(worker_id="u", slots=1)
        request.runtimes.add(name="javascript", version="1")
        session = (await served.workers.RegisterWorker(request)).session_id
        poll = pb.PollTasksRequest(session_id=session, max_tasks=1, wait_timeout=seconds(15))
        waiting = asyncio.ensure_future(served.workers.PollTasks(poll))
        while not served.engine.dispatch.connected[session].credits:
            await served.engine.storage.read(lambda tr: tr.get(b"x"))
        served.engine.drain()
        assert (await waiting).drain
