"""An engine stops in bounded time, whatever the store does, and says goodbye to every kind of worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.engine.documents import one_task
from tests.engine.served import serving
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
        results: asyncio.Queue[pb.StreamTasksRequest] = asyncio.Queue()

        async def said() -> AsyncIterator[pb.StreamTasksRequest]:
            register = pb.RegisterWorkerRequest(worker_id="w", slots=1)
            register.runtimes.add(name="javascript", version="1")
            yield pb.StreamTasksRequest(register=register, credits=1)
            while True:
                yield await results.get()

        call = served.workers.StreamTasks(said())
        async for message in call:
            if message.tasks:
                break
        faults.unavailable = 1.0
        result = pb.TaskResult(task_token=message.tasks[0].task_token, output=b"1")
        (link,) = served.engine.workers.links
        await results.put(pb.StreamTasksRequest(results=[result]))
        while not link._recording:  # noqa: SLF001 - that it arrived shows nowhere else while the store is down
            await asyncio.sleep(0)
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
