"""Lists held to the comments of their protos: whole, by pages that every client takes, and by filters taken as said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.documents import asking, instant, waiting
from tests.engine.served import DAY, SECOND, Served, refused, seconds, serving
from windlass.v1 import admin_service_pb2 as admin_pb
from windlass.v1 import common_pb2
from windlass.v1 import event_service_pb2 as event_pb
from windlass.v1 import human_task_service_pb2 as people_pb
from windlass.v1 import workflow_service_pb2 as pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        for document in (instant(), waiting(), asking()):
            await engine.register(document)
        yield engine


async def pages(call: Any, request: Any, rows: str) -> list[list[Any]]:
    """All pages of a list."""
    found = []
    while True:
        page = await call(request)
        found.append(list(getattr(page, rows)))
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


async def test_a_page_of_runs_is_no_larger_than_a_client_takes(served: Served) -> None:
    started = [await served.start("instant", metadata={"a": "x" * 500_000}) for _ in range(10)]
    for ascending in (True, False):
        found = await pages(served.runs.ListRuns, pb.ListRunsRequest(ascending=ascending), "runs")
        assert len(found) > 1
        ids = [run.ref.run_id for page in found for run in page]
        assert ids == (started if ascending else started[::-1])


async def test_a_page_of_the_outbox_is_no_larger_than_a_client_takes(served: Served) -> None:
    emit = {"name": "done", "payload": {"template": "${a}"}}
    await served.register({"workflow": "emit", "initial": "end", "states": {"end": {"enter": [{"emit": emit}]}}})
    started = [await served.start("emit", {"a": "x" * 500_000}) for _ in range(10)]
    request, seen = event_pb.ListOutboxRequest(), []
    while page := await served.events.ListOutbox(request):
        if not page.events:
            break
        seen += [event.run.run_id for event in page.events]
        request.page_token = page.next_page_token
    assert seen == started


async def test_escalations_of_others_do_not_end_a_list(served: Served) -> None:
    await served.register(asking("other", to="bob"))
    for name in ("other", "ask", "ask", "other", "ask"):
        await served.start(name, {"order": 1})
    for size in (1, 2, 3):
        request = people_pb.ListEscalationsRequest(to="alice", page_size=size)
        found = await pages(served.people.ListEscalations, request, "escalations")
        assert [each.to for page in found for each in page] == ["alice"] * 3
        assert all(found)


async def test_a_run_that_is_deleted_meanwhile_does_not_end_a_list_of_incidents(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await served.start("ask")  # its question needs an order
    read, reads = served.engine.storage.read, 0

    async def deleting(body: Any) -> Any:
        nonlocal reads
        found = await read(body)
        reads += 1
        if reads == 1:
            await served.runs.TerminateRun(pb.TerminateRunRequest(run_id=run_id))
            await served.runs.DeleteRun(pb.DeleteRunRequest(run_id=run_id))
        return found

    monkeypatch.setattr(served.engine.storage, "read", deleting)
    found = await served.runs.ListIncidents(pb.ListIncidentsRequest())
    assert [each.run.run_id for each in found.incidents] == [run_id]


async def test_the_pages_of_a_history_are_of_one_run(served: Served) -> None:
    """Also where that was found by a workflow id, which another run has by now."""
    first = await served.start("wait", workflow_id="w")
    request = pb.GetHistoryRequest(workflow_id="w", page_size=1)
    request.page_token = (await served.runs.GetHistory(request)).next_page_token
    await served.runs.TerminateRun(pb.TerminateRunRequest(run_id=first))
    second = await served.start("wait", workflow_id="w")
    request.page_size = 100
    last = (await served.runs.GetHistory(request)).events[-1]
    assert last.number == (await served.run(first)).last_event_number
    request.run_id = second
    await refused(served.runs.GetHistory(request), "BAD_PAGE_TOKEN")


async def test_a_page_has_as_many_events_as_was_promised(served: Served) -> None:
    run_id = await served.start("wait")
    for number in range(120):
        await served.runs.SetVariables(pb.SetVariablesRequest(run_id=run_id, values={"a": b"%d" % number}))
    assert len((await served.runs.GetHistory(pb.GetHistoryRequest(run_id=run_id))).events) == 100


async def test_a_filter_by_state_is_taken_as_said(served: Served) -> None:
    await served.start("instant")
    any_state, failed = common_pb2.RUN_STATE_UNSPECIFIED, common_pb2.RUN_STATE_FAILED
    for states, found in (([any_state], 1), ([any_state, failed], 1), ([failed], 0)):
        assert len((await served.runs.ListRuns(pb.ListRunsRequest(states=states))).runs) == found


async def test_values_of_enums_that_nobody_knows_are_not_guessed_at(served: Served) -> None:
    unknown: Any = 99
    await refused(served.runs.ListRuns(pb.ListRunsRequest(states=[unknown])), "INVALID_FIELD")
    run_id = await served.start("wait")
    before = await served.dump()
    for field in ("open_run_policy", "closed_run_policy", "timeout_start"):
        await refused(served.start("wait", **{field: unknown}), "INVALID_FIELD")
    await refused(served.runs.CancelRun(pb.CancelRunRequest(run_id=run_id, source=unknown)), "INVALID_FIELD")
    resolve = pb.ResolveIncidentRequest(run_id=run_id, incident_id="x:1", action=unknown)
    await refused(served.runs.ResolveIncident(resolve), "INVALID_FIELD")
    await refused(served.people.ListEscalations(people_pb.ListEscalationsRequest(state=unknown)), "INVALID_FIELD")
    assert await served.dump() == before


async def test_retention_goes_by_a_virtual_clock_that_is_behind(served: Served) -> None:
    namespace = admin_pb.Namespace(name="v", virtual_time=True, retention=seconds(60))
    namespace.current_time.FromSeconds(1_000_000_000)
    await served.admin.CreateNamespace(admin_pb.CreateNamespaceRequest(namespace=namespace))
    await served.register(instant(), "v")
    await served.start("instant", namespace="v")
    for span, left in ((59, 1), (DAY // SECOND, 0)):
        await served.admin.AdvanceTime(admin_pb.AdvanceTimeRequest(namespace="v", by=seconds(span)))
        await served.engine.sweeper.turn()
        assert (await served.runs.CountRuns(pb.CountRunsRequest(namespace="v"))).total == left


async def test_virtual_time_that_cannot_be_changes_nothing(served: Served) -> None:
    """The request was remembered although it was refused."""
    await served.admin.CreateNamespace(
        admin_pb.CreateNamespaceRequest(namespace=admin_pb.Namespace(name="v", virtual_time=True))
    )
    before = await served.dump()
    request = admin_pb.AdvanceTimeRequest(namespace="v", by=seconds(99 * 366 * DAY // SECOND), request_id="r")
    await refused(served.admin.AdvanceTime(request), "INVALID_FIELD")
    assert await served.dump() == before
