"""Calls held to the comments of their protos: what a review of the API found not to be so."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engine.documents import instant, waiting
from tests.engine.served import Served, serving
from windlass.v1 import admin_service_pb2 as admin_pb
from windlass.v1 import workflow_service_pb2 as pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        for document in (instant(), waiting()):
            await engine.register(document)
        yield engine


# Lists and streams


async def test_a_resume_token_goes_before_from_now(served: Served) -> None:
    run_id = await served.start("wait")
    watch = served.runs.WatchRun(pb.WatchRunRequest(run_id=run_id))
    first = await watch.read()
    watch.cancel()
    await served.runs.SetVariables(pb.SetVariablesRequest(run_id=run_id, values={"a": b"1"}))
    again = served.runs.WatchRun(
        pb.WatchRunRequest(run_id=run_id, resume_token=first.resume_token, from_now=True)
    )
    assert [event.number for event in (await again.read()).events] == [first.events[-1].number + 1]
    again.cancel()


async def namespaces(served: Served, size: int) -> list[str]:
    found: list[str] = []
    request = admin_pb.ListNamespacesRequest(page_size=size)
    while True:
        page = await served.admin.ListNamespaces(request)
        found += [each.name for each in page.namespaces]
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


@pytest.mark.parametrize("recorded", [False, True])
async def test_namespaces_are_listed_by_name_each_once(served: Served, recorded: bool) -> None:
    for name in ("zz", "a", "b"):
        await served.admin.CreateNamespace(admin_pb.CreateNamespaceRequest(namespace=admin_pb.Namespace(name=name)))
    if recorded:
        request = admin_pb.UpdateNamespaceRequest(namespace=admin_pb.Namespace(name="default", description="x"))
        await served.admin.UpdateNamespace(request)
    for size in (1, 2, 3, 10):
        assert await namespaces(served, size) == ["a", "b", "default", "zz"]
