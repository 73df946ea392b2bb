"""Values above FoundationDB's 100 kB pass everywhere without anyone noticing; far above there is a named end."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.engine.cluster import TestWorker, register, running_engine, start, wait
from windlass.engine import keys
from windlass.engine.core.commands import Signal
from windlass.storage.memory import MemoryWorld
from windlass.v1 import common_pb2

BIG = "x" * 250_000


def states(**body: Any) -> dict[str, Any]:
    return {"workflow": "large", "initial": "a", "states": {"a": {**body, "output": "out"}}}


def task() -> dict[str, Any]:
    return {"runtime": "javascript", "code": "input"}


async def test_a_large_result_is_kept_in_the_context() -> None:
    async with running_engine() as engine:
        await register(engine, states(task=task()))
        await TestWorker(engine, lambda task: BIG).connect()
        run = await wait(engine, await start(engine, "large", {}))
        assert msgspec.json.decode(run.context["out"]) == BIG


async def test_map_items_may_be_large_and_leave_nothing_behind() -> None:
    world = MemoryWorld()
    async with running_engine(world.open(shared=False)) as engine:
        await register(engine, states(map={"items": {"key": "items"}, "task": task()}))
        await TestWorker(engine, lambda task: BIG[:200_000]).connect()
        run = await wait(engine, await start(engine, "large", {"items": [1, 2, 3]}))
        assert msgspec.json.decode(run.context["out"]) == [BIG[:200_000]] * 3
        items = keys.integer(2)
        assert [key for key in world.dump() if key.startswith(items)] == []


async def test_a_large_signal_waits_in_the_inbox() -> None:
    async with running_engine() as engine:
        document = {
            "workflow": "large",
            "initial": "a",
            "states": {
                "a": {"task": task(), "transitions": [{"on": "success", "to": "b"}]},
                "b": {"wait": {"signals": ["go"]}, "output": "out", "transitions": [{"on": "success", "to": None}]},
            },
        }
        await register(engine, document)
        worker = await TestWorker(engine, lambda task: TestWorker.HOLD).connect()
        run_id = await start(engine, "large", {})
        await worker.until(lambda: bool(worker.held))
        await engine.transition.give("default", run_id, Signal(name="go", payload=msgspec.json.encode(BIG)))
        worker.finish(worker.held[0], 1)
        run = await wait(engine, run_id)
        assert msgspec.json.decode(run.context["out"]) == {"go": BIG}


async def test_a_result_over_the_limit_fails_the_task_by_name() -> None:
    async with running_engine() as engine:
        await register(engine, states(task=task()))
        await TestWorker(engine, lambda task: "x" * 2_000_000).connect()
        run = await wait(engine, await start(engine, "large", {}))
        assert run.state == common_pb2.RUN_STATE_FAILED
        assert run.failure.code in ("OUTPUT_TOO_LARGE", "CONTEXT_TOO_LARGE")


async def test_large_events_come_out_of_the_outbox_whole() -> None:
    from windlass.engine.service.operators import EventServicer
    from windlass.v1 import event_service_pb2

    async with running_engine() as engine:
        document = states(task=task())
        document["states"]["a"]["exit"] = [{"emit": {"name": "done", "payload": "${out}"}}]
        await register(engine, document)
        await TestWorker(engine, lambda task: BIG).connect()
        for _ in range(2):
            await wait(engine, await start(engine, "large", {}))
        servicer = EventServicer(engine)
        request = event_service_pb2.ListOutboxRequest(page_size=1)
        first = await servicer.ListOutbox(request, None)
        request.page_token = first.next_page_token
        second = await servicer.ListOutbox(request, None)
        assert [msgspec.json.decode(e.payload.data) for e in (*first.events, *second.events)] == [BIG, BIG]
        assert first.events[0].run.run_id != second.events[0].run.run_id
        request.page_token = second.next_page_token
        end = await servicer.ListOutbox(request, None)
        assert (len(end.events), end.next_page_token) == (0, request.page_token)
