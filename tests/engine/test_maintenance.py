"""Maintenance: one call does what the loops do when it is due, and says how much.

The loops are stopped first, so that whatever happens is the call's doing."""

from __future__ import annotations

import pytest

from tests.engine.cluster import TestWorker
from tests.engine.documents import delayed, one_task
from tests.engine.served import Served, refused, seconds, serving
from windlass.engine.errors import EngineError
from windlass.storage.memory import MemoryWorld
from windlass.v1 import admin_service_pb2 as pb
from windlass.v1 import common_pb2
from windlass.v1 import workflow_service_pb2 as wire

SLEEPS = delayed("10s", "sleeps")


async def stopped(served: Served) -> None:
    for loop in (served.engine.timers, served.engine.sessions, served.engine.deadlines, served.engine.claims):
        await loop.stop()
    await served.engine.sweeper.stop()


async def maintain(served: Served) -> dict[str, int]:
    """What was done, without what was not."""
    response: pb.RunMaintenanceResponse = await served.admin.RunMaintenance(pb.RunMaintenanceRequest())
    return {field.name: value for field, value in response.ListFields()}


async def test_what_is_due_is_done_in_one_call_and_counted() -> None:
    async with serving(lease_us=5_000_000) as served:
        await served.register(SLEEPS)
        await served.register(one_task())
        worker = await served.worker(lambda task: TestWorker.HOLD)
        held = await served.start("task")
        await worker.until(lambda: bool(worker.held))
        await stopped(served)
        naps = [await served.start("sleeps") for _ in range(3)]
        assert await maintain(served) == {}
        served.clock.at_us += 11_000_000
        assert await maintain(served) == {"timers_fired": 3, "sessions_lapsed": 1, "leases_returned": 1}
        with pytest.raises(EngineError, match="lapsed"):
            await worker._task  # type: ignore[misc]  # its stream ends
        for run_id in naps:
            assert (await served.run(run_id)).state == common_pb2.RUN_STATE_COMPLETED
        await served.worker(lambda task: 1, name="w2")
        assert await maintain(served) == {"tasks_claimed": 1}
        assert (await served.closed(held)).state == common_pb2.RUN_STATE_COMPLETED
        assert await maintain(served) == {}


async def test_attempts_over_their_time_and_what_has_outlived_its_own() -> None:
    async with serving() as served:
        kept = pb.Namespace(name="brief", retention=seconds(60))
        await served.admin.CreateNamespace(pb.CreateNamespaceRequest(namespace=kept))
        await served.register(SLEEPS, ns="brief")
        await served.register(one_task("slow", timeout="5s"))
        worker = await served.worker(lambda task: TestWorker.HOLD)
        await served.start("slow")
        await worker.until(lambda: bool(worker.held))
        await stopped(served)
        gone = await served.start("sleeps", namespace="brief", request_id="again")
        served.clock.at_us += 11_000_000
        assert await maintain(served) == {"timers_fired": 1, "attempts_timed_out": 1}
        served.clock.at_us += 2 * 86_400_000_000
        done = await maintain(served)
        assert done["runs_removed"] == 1
        assert done["records_removed"] >= 1
        await refused(served.runs.GetRun(wire.GetRunRequest(namespace="brief", run_id=gone)), "RUN_NOT_FOUND")


async def test_more_than_one_call_takes_is_said() -> None:
    async with serving() as served:
        await served.register(SLEEPS)
        await stopped(served)
        for _ in range(3):
            await served.start("sleeps")
        served.engine.timers._most = 1
        served.clock.at_us += 11_000_000
        done, more = await served.engine.timers.maintain(2)
        assert (done["timers_fired"], more) == (2, True)
        assert await maintain(served) == {"timers_fired": 1}


async def test_a_stopping_engine_maintains_nothing() -> None:
    async with serving() as served:
        served.engine.accepting = False
        await refused(served.admin.RunMaintenance(pb.RunMaintenanceRequest()), "ENGINE_DRAINING")


async def test_on_a_shared_store_an_engine_maintains_its_own_shards() -> None:
    async with serving(MemoryWorld().open(shared=True)) as served:
        await served.register(SLEEPS)
        await stopped(served)
        naps = [await served.start("sleeps") for _ in range(20)]
        served.clock.at_us += 11_000_000
        done = await maintain(served)
        assert done["timers_fired"] == len(naps)
        assert not done.get("more")
