"""Calls held to the comments of their protos: what a review of the API found not to be so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.engine.documents import instant, waiting
from tests.engine.served import SECOND, Served, payload, refused, refused_stream, seconds, serving
from windlass.storage.memory import MemoryWorld
from windlass.v1 import admin_service_pb2 as admin_pb
from windlass.v1 import common_pb2
from windlass.v1 import definition_service_pb2 as definition_pb
from windlass.v1 import event_service_pb2 as event_pb
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
    again = served.runs.WatchRun(pb.WatchRunRequest(run_id=run_id, resume_token=first.resume_token, from_now=True))
    assert [event.number for event in (await again.read()).events] == [first.events[-1].number + 1]
    again.cancel()


async def test_a_resumed_watch_stays_with_its_run(served: Served) -> None:
    """Also where it was found by a workflow id, which another run has by now."""
    first = await served.start("wait", workflow_id="w")
    watch = served.runs.WatchRun(pb.WatchRunRequest(workflow_id="w"))
    token = (await watch.read()).resume_token
    watch.cancel()
    await served.runs.TerminateRun(pb.TerminateRunRequest(run_id=first))
    second = await served.start("wait", workflow_id="w")
    again = served.runs.WatchRun(pb.WatchRunRequest(workflow_id="w", resume_token=token))
    assert (await again.read()).result.state == common_pb2.RUN_STATE_TERMINATED
    other = served.runs.WatchRun(pb.WatchRunRequest(run_id=second, resume_token=token))
    await refused_stream(other, "BAD_RESUME_TOKEN")


async def test_a_message_reaches_all_waits(served: Served) -> None:
    wait = {"signals": ["paid"], "correlate": "order"}
    await served.register(waiting("pay", wait=wait))
    starts = [pb.StartRunRequest(workflow="pay", input=payload({"order": "o"})) for _ in range(500)]
    for _ in range(3):
        await served.runs.StartRuns(pb.StartRunsRequest(requests=starts))
    message = event_pb.PublishMessageRequest(name="paid", correlation_key="o")
    assert len((await served.events.PublishMessage(message)).runs) == 1500
    await served.engine.maintain()
    counts = (await served.runs.CountRuns(pb.CountRunsRequest(workflow="pay"))).counts
    assert [(each.state, each.count) for each in counts] == [(common_pb2.RUN_STATE_COMPLETED, 1500)]


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


# Repeated calls


async def test_a_start_that_found_an_open_run_finds_it_again(served: Served) -> None:
    """Also by its business key, and after the run has closed: nobody asked for a second one."""
    there = await served.start("wait", workflow_id="w")
    ids = {"request_id": "r", "workflow_id": "w", "open_run_policy": pb.OPEN_RUN_POLICY_USE_EXISTING}
    keyed = {**ids, "request_id": "", "idempotency_key": "k"}
    assert [await served.start("wait", **each) for each in (ids, keyed)] == [there, there]
    await served.runs.TerminateRun(pb.TerminateRunRequest(run_id=there))
    assert [await served.start("wait", **each) for each in (ids, keyed)] == [there, there]


async def test_a_cancel_that_came_too_late_does_not_reach_the_next_run(served: Served) -> None:
    first = await served.start("wait", workflow_id="w")
    await served.runs.TerminateRun(pb.TerminateRunRequest(run_id=first))
    request = pb.CancelRunRequest(workflow_id="w", request_id="r")
    answer = await served.runs.CancelRun(request)
    assert answer.effect == pb.CancelRunResponse.EFFECT_ALREADY_CLOSED
    second = await served.start("wait", workflow_id="w")
    assert await served.runs.CancelRun(request) == answer
    assert (await served.run(second)).state == common_pb2.RUN_STATE_WAITING
    request.reason = "other"
    await refused(served.runs.CancelRun(request), "REQUEST_ID_REUSED")


async def test_a_fork_is_answered_again_when_the_old_run_is_gone(served: Served) -> None:
    old = await served.start("instant")
    request = pb.ForkRunRequest(run_id=old, state="end", request_id="f")
    fork = await served.runs.ForkRun(request)
    await served.runs.DeleteRun(pb.DeleteRunRequest(run_id=old))
    assert await served.runs.ForkRun(request) == fork


async def test_the_id_of_an_open_run_is_no_workflow_id_for_another(served: Served) -> None:
    """Without a workflow id of its own, a run has its run_id for one."""
    first = await served.start("wait")
    refusal = await refused(served.start("wait", workflow_id=first), "RUN_ALREADY_STARTED")
    assert refusal.metadata["run_id"] == first
    named = await served.start("wait", workflow_id="w")
    assert await served.start("wait", workflow_id=named) != named  # that one is called w


# Starts that only look


async def test_a_start_that_is_only_checked_is_not_waited_for(served: Served) -> None:
    start = pb.StartRunRequest(workflow="wait", validate_only=True)
    answer = await served.runs.StartAndWaitRun(pb.StartAndWaitRunRequest(start=start))
    assert (answer.run.workflow, answer.run.run_id, answer.created) == ("wait", "", False)
    stream = served.runs.StreamRuns()
    await stream.write(pb.StreamRunsRequest(starts=[pb.StreamedStart(tag=7, request=start, wait=True)]))
    await stream.done_writing()
    outcomes = [outcome for message in [each async for each in stream] for outcome in message.outcomes]
    assert [(outcome.tag, outcome.WhichOneof("outcome")) for outcome in outcomes] == [(7, "started")]


async def test_a_start_that_is_only_checked_is_refused_for_its_size_too(served: Served) -> None:
    large = {"a": "x" * 1_000_000}
    for only in (True, False):
        await refused(served.start("wait", large, validate_only=only), "CONTEXT_TOO_LARGE")


async def test_the_state_after_a_call_is_that_of_the_run_after_it(served: Served) -> None:
    """A message was kept for the wait that the call lets begin."""
    await served.register(waiting("pay", wait={"signals": ["paid"], "correlate": "order"}))
    await served.events.PublishMessage(
        event_pb.PublishMessageRequest(name="paid", correlation_key="o", ttl=seconds(60))
    )
    run_id = await served.start("pay", {"order": "o"}, paused=True)
    answer = await served.runs.UnpauseRun(pb.UnpauseRunRequest(run_id=run_id))
    assert answer.state == (await served.run(run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def test_of_calls_that_race_only_one_has_made_the_thing() -> None:
    world = MemoryWorld()
    async with serving(world.open()) as one, serving(world.open()) as two:
        two.clock.at_us += SECOND  # else their modules could be of the same microsecond
        task = pb.StartTaskRequest(runtime="python", handler="h", request_id="t")
        starts = await asyncio.gather(*(each.runs.StartTask(task) for each in (one, two) * 10))
        assert len({each.run.run_id for each in starts}) == sum(each.created for each in starts) == 1
        parts = [
            definition_pb.UploadModuleRequest(header=definition_pb.ModuleHeader(runtime="javascript")),
            definition_pb.UploadModuleRequest(chunk=b"x" * 500_000),
        ]
        uploads = await asyncio.gather(*(each.definitions.UploadModule(iter(parts)) for each in (one, two) * 3))
        assert sum(each.created for each in uploads) == 1
