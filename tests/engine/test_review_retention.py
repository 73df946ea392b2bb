"""Expired runs are found however many closed late before them."""

from __future__ import annotations

import pytest

from tests.engine.documents import waiting
from tests.engine.served import payload, refused, seconds, serving
from windlass.engine import sweeping
from windlass.v1 import admin_service_pb2 as admin_pb
from windlass.v1 import workflow_service_pb2 as pb


async def test_an_expired_run_behind_recently_closed_ones_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "BATCH", 2)
    async with serving() as served:
        namespace = admin_pb.Namespace(name="short", retention=seconds(3600))
        await served.admin.CreateNamespace(admin_pb.CreateNamespaceRequest(namespace=namespace))
        await served.register(waiting(), ns="short")
        runs = [await served.start("wait", namespace="short") for _ in range(6)]

        async def end(run_id: str) -> None:
            go = pb.SignalRunRequest(namespace="short", run_id=run_id, name="go", payload=payload(1))
            await served.runs.SignalRun(go)

        await end(runs[-1])
        served.advance(3000)
        for run_id in runs[:-1]:
            await end(run_id)
        served.advance(700)
        while await served.engine.sweeper.turn() == 0.05:
            pass
        await refused(served.run(runs[-1], "short"), "RUN_NOT_FOUND")
        for run_id in runs[:-1]:
            assert (await served.run(run_id, "short")).HasField("close_time")
