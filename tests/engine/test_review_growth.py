"""What an engine keeps in memory goes when its reason has gone: over weeks, whatever stays adds up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.engine.documents import instant
from tests.engine.plain import register
from tests.engine.served import DAY, SECOND, Served, serving
from windlass.definition.compile import compile_canonical, compile_document
from windlass.definition.source import from_value
from windlass.engine.core.definition import Definition
from windlass.engine.quotas import Quotas
from windlass.engine.records import NamespaceRecord
from windlass.engine.revisions import Key, Revisions, patiently
from windlass.storage.memory import MemoryWorld
from windlass.v1 import admin_service_pb2 as admin
from windlass.v1 import worker_service_pb2 as pb

NS = "small"


async def limited(served: Served, **limits: Any) -> Quotas:
    """A namespace with limits, and what the engine knows of it. The loop stands still: the test measures by itself."""
    made = admin.Namespace(name=NS, limits=admin.NamespaceLimits(**limits))
    await served.admin.CreateNamespace(admin.CreateNamespaceRequest(namespace=made))
    await served.register(instant(), ns=NS)
    quotas = served.engine.transition.quotas
    await quotas.stop()
    return quotas


async def test_queues_that_were_asked_for_once_are_not_measured_for_ever() -> None:
    async with serving() as served:
        quotas = await limited(served, queued_tasks=5)
        for number in range(3):
            await served.start("instant", namespace=NS, queue=f"once-{number}")
        await quotas.refresh()
        assert not quotas._meters[NS].queued


async def test_a_queue_may_be_asked_for_the_first_time_while_others_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as served:
        quotas = await limited(served, queued_tasks=5)
        for queue in ("a", "b"):
            quotas.admit(NS, queue, f"run-{queue}")
        read = quotas._read

        async def meanwhile(begin: bytes, end: bytes, limit: int) -> Any:
            quotas.admit(NS, f"new-{begin.hex()}", f"run-{begin.hex()}")
            return await read(begin, end, limit)

        monkeypatch.setattr(quotas, "_read", meanwhile)
        await quotas.refresh()


async def test_settings_read_before_a_change_do_not_take_the_place_of_the_changed_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving() as served:
        quotas = await limited(served, open_runs=5)
        read, begun, go_on = quotas._records, asyncio.Event(), asyncio.Event()

        async def held_up() -> dict[str, NamespaceRecord]:
            found = await read()
            if not begun.is_set():
                begun.set()
                await go_on.wait()
            return found

        monkeypatch.setattr(quotas, "_records", held_up)
        early = asyncio.create_task(quotas.refresh())
        await begun.wait()
        changed = admin.Namespace(name=NS, limits=admin.NamespaceLimits(open_runs=7))
        update = asyncio.ensure_future(served.admin.UpdateNamespace(admin.UpdateNamespaceRequest(namespace=changed)))
        await asyncio.wait((update,), timeout=0.2)  # it may wait for the earlier look, and may not be undone by it
        go_on.set()
        await asyncio.gather(early, update)
        assert quotas._meters[NS].record.open_runs == 7


async def test_a_session_that_ended_elsewhere_before_this_engine_looked_is_forgotten() -> None:
    world = MemoryWorld()
    async with serving(world.open(), lease_us=5 * SECOND) as one, serving(world.open(), lease_us=5 * SECOND) as two:
        await two.engine.sessions.stop()  # it looks now and then; all of this may happen in between
        session = await register(one)
        await two.workers.DrainWorker(pb.DrainWorkerRequest(session_id=session))
        assert session in two.engine.dispatch.connected
        await one.workers.DrainWorker(pb.DrainWorkerRequest(session_id=session, close=True))
        two.clock.at_us += DAY
        await two.engine.sessions.turn()
        assert session not in two.engine.dispatch.connected
        assert not two.engine.dispatch.rings()


async def loaded(kept: Revisions, key: Key, document: bytes) -> Definition:
    return kept.get(key) or kept.load(key, document)


async def test_namespaces_whose_definitions_are_deleted_leave_nothing_among_the_compiled_ones() -> None:
    kept = Revisions(compile_canonical)
    document = compile_document(from_value(instant(description="matches"))).document  # such words are compiled aside
    for ns in ("one", "two"):
        await patiently(lambda ns=ns: loaded(kept, (ns, "instant", "1"), document))  # type: ignore[misc]
        kept.forget(ns, "instant")
    assert not kept._turns
    assert not kept._bytes
