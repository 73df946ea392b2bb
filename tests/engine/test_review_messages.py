"""A kept message is used up only by a wait that takes it."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.engine.documents import waiting
from tests.engine.served import payload, seconds, serving, value
from windlass.v1 import event_service_pb2 as event_pb


def message(content: Any, key: str = "7") -> event_pb.PublishMessageRequest:
    return event_pb.PublishMessageRequest(name="paid", correlation_key=key, payload=payload(content), ttl=seconds(60))


async def test_a_kept_message_that_does_not_fit_stays_for_a_wait_that_it_fits() -> None:
    wait = {"signals": ["paid"], "correlate": "order"}
    async with asyncio.timeout(20), serving() as served:
        await served.register(waiting("strict", wait={**wait, "schemas": {"paid": {"type": "number"}}}))
        await served.register(waiting("any", wait=wait))
        for content in ("text", 5):
            assert (await served.events.PublishMessage(message(content))).kept
        for workflow, content in (("strict", 5), ("any", "text")):
            run = await served.closed(await served.start(workflow, {"order": "7"}))
            assert value(run.context["got"]) == {"paid": content}


async def test_a_message_goes_to_one_of_many_waits_and_a_wait_finds_it_behind_many() -> None:
    wait = {"signals": ["paid"], "correlate": "order"}
    async with asyncio.timeout(20), serving() as served:
        await served.register(waiting("any", wait=wait))
        for number in range(120):
            await served.events.PublishMessage(message(number))
        seen = [
            value((await served.closed(await served.start("any", {"order": "7"}))).context["got"]) for _ in range(120)
        ]
        assert sorted(each["paid"] for each in seen) == list(range(120))


async def test_a_message_reaches_all_its_waits_however_large_their_runs_are_together() -> None:
    """No transaction holds them all: those that it does not reach at once it reaches soon."""
    wait = {"signals": ["paid"], "correlate": "order"}
    async with asyncio.timeout(20), serving() as served:
        await served.register(waiting("any", wait=wait))
        runs = [await served.start("any", {"order": "7", "rest": "x" * 900_000}) for _ in range(12)]
        told = await served.events.PublishMessage(message(5))
        assert sorted(run.run_id for run in told.runs) == sorted(runs)
        for run_id in runs:
            assert value((await served.closed(run_id)).context["got"]) == {"paid": 5}
