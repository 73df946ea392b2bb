"""What an answer says of itself stays true when the store makes the engine do the work twice."""

from __future__ import annotations

import asyncio

from tests.engine.documents import instant, waiting
from tests.engine.served import payload, serving
from windlass.storage.memory import Faults, MemoryWorld
from windlass.v1 import workflow_service_pb2 as pb


async def test_a_start_that_finds_its_own_commit_has_created_the_run() -> None:
    faults = Faults()
    async with serving(MemoryWorld(faults=faults).open()) as served:
        await served.register(instant())
        faults.forgotten_landed = 1.0
        request = pb.StartRunRequest(workflow="instant", request_id="once")
        assert (await served.runs.StartRun(request)).created
        faults.forgotten_landed = 0.0
        assert not (await served.runs.StartRun(request)).created


async def test_of_two_equal_signals_at_once_one_is_the_duplicate() -> None:
    async with serving(MemoryWorld().open()) as served:
        await served.register(waiting())
        run_id = await served.start("wait")
        request = pb.SignalRunRequest(run_id=run_id, name="other", payload=payload(1), request_id="once")
        replies = await asyncio.gather(*(served.runs.SignalRun(request) for _ in range(4)))
        assert sorted(reply.duplicate for reply in replies) == [False, True, True, True]


async def test_of_two_equal_signals_with_start_at_once_one_has_created_the_run() -> None:
    async with serving(MemoryWorld().open()) as served:
        await served.register(waiting())
        start = pb.StartRunRequest(workflow="wait", workflow_id="w", request_id="once")
        request = pb.SignalWithStartRunRequest(start=start, signal_name="other")
        replies = await asyncio.gather(*(served.runs.SignalWithStartRun(request) for _ in range(4)))
        assert sorted(reply.created for reply in replies) == [False, False, False, True]


async def test_a_signal_whose_answer_was_lost_is_no_duplicate_of_itself() -> None:
    faults = Faults()
    async with serving(MemoryWorld(faults=faults).open()) as served:
        await served.register(waiting())
        run_id = await served.start("wait")
        faults.forgotten_landed = 1.0
        request = pb.SignalRunRequest(run_id=run_id, name="other", payload=payload(1), request_id="once")
        assert not (await served.runs.SignalRun(request)).duplicate
        faults.forgotten_landed = 0.0
