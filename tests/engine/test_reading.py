"""Reading over the wire: pages, history, watches, the past, forks, incidents, and why a run does not move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.cluster import TestWorker
from tests.engine.documents import asking, delayed, instant, one_task, waiting
from tests.engine.served import SECOND, Served, payload, refused, refused_stream, serving, value
from windlass.engine.leases import parse_token
from windlass.v1 import common_pb2, worker_service_pb2
from windlass.v1 import definition_service_pb2 as definition_pb
from windlass.v1 import event_service_pb2 as event_pb
from windlass.v1 import human_task_service_pb2 as people_pb
from windlass.v1 import workflow_service_pb2 as pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        for document in (instant(), waiting(), one_task(), delayed("1h"), asking()):
            await engine.register(document)
        yield engine


# Pages


def lists(served: Served) -> dict[str, tuple[Any, Any]]:
    """Every call that answers by pages."""
    return {
        "ListRuns": (served.runs.ListRuns, pb.ListRunsRequest()),
        "GetHistory": (served.runs.GetHistory, pb.GetHistoryRequest(run_id="f" * 32)),
        "ListIncidents": (served.runs.ListIncidents, pb.ListIncidentsRequest()),
        "ListDefinitions": (served.definitions.ListDefinitions, definition_pb.ListDefinitionsRequest()),
        "ListRevisions": (served.definitions.ListRevisions, definition_pb.ListRevisionsRequest(workflow="wait")),
        "ListModules": (served.definitions.ListModules, definition_pb.ListModulesRequest()),
        "ListStepTypes": (served.definitions.ListStepTypes, definition_pb.ListStepTypesRequest()),
        "ListEscalations": (served.people.ListEscalations, people_pb.ListEscalationsRequest()),
        "ListOutbox": (served.events.ListOutbox, event_pb.ListOutboxRequest()),
    }


NAMES = [
    "ListRuns", "GetHistory", "ListIncidents", "ListDefinitions", "ListRevisions", "ListModules", "ListStepTypes",
    "ListEscalations", "ListOutbox",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
async def test_pages_have_rules(served: Served, name: str) -> None:
    stub, request = lists(served)[name]
    request.page_size = -1
    await refused(stub(request), "INVALID_FIELD")
    request.page_size = 1_000_000
    if name == "GetHistory":
        request.run_id = await served.start("wait")
    assert not (await stub(request)).next_page_token
    for forged in ("%%%", "bm90IG9uZSBvZiBvdXJz"):
        request.page_token = forged
        await refused(stub(request), "BAD_PAGE_TOKEN")


@pytest.mark.parametrize("ascending", [False, True])
async def test_runs_are_listed_in_the_order_of_their_start(served: Served, ascending: bool) -> None:
    runs = [await served.start(name) for name in ("wait", "instant", "wait", "task", "instant")]
    seen, token = [], ""
    while True:
        page = await served.runs.ListRuns(pb.ListRunsRequest(page_size=2, page_token=token, ascending=ascending))
        seen += [run.ref.run_id for run in page.runs]
        token = page.next_page_token
        if not token:
            break
    assert seen == (runs if ascending else runs[::-1])


async def test_runs_are_found_by_what_they_are(served: Served) -> None:
    first = await served.start("wait", workflow_id="w1")
    policy = pb.OPEN_RUN_POLICY_TERMINATE_EXISTING
    closed = await served.start("instant", workflow_id="w1", open_run_policy=policy)
    await served.start("wait", workflow_id="w2")

    async def found(**by: Any) -> list[str]:
        return [run.ref.run_id for run in (await served.runs.ListRuns(pb.ListRunsRequest(**by))).runs]

    assert await found(workflow="instant") == [closed]
    assert await found(states=[common_pb2.RUN_STATE_COMPLETED]) == [closed]
    assert await found(workflow_id="w1") == [closed, first]
    assert await found(workflow_id="w1", page_size=1) != []
    assert len(await found(states=[common_pb2.RUN_STATE_WAITING, common_pb2.RUN_STATE_COMPLETED])) == 2
    counts = await served.runs.CountRuns(pb.CountRunsRequest())
    assert {each.state: each.count for each in counts.counts} == {
        common_pb2.RUN_STATE_WAITING: 1,
        common_pb2.RUN_STATE_COMPLETED: 1,
        common_pb2.RUN_STATE_TERMINATED: 1,
    }


async def test_a_child_knows_its_parent_and_is_found_by_it(served: Served) -> None:
    parent = {"spawn": "instant", "input": {"static": {"n": 1}}, "output": "child", "next": "end"}
    await served.register({"workflow": "parent", "initial": "go", "states": {"go": parent, "end": {}}})
    run_id = await served.start("parent")
    await served.closed(run_id)
    (child,) = (await served.runs.ListRuns(pb.ListRunsRequest(parent_run_id=run_id))).runs
    assert (child.parent_run_id, child.root_run_id) == (run_id, run_id)


# History, watches, the past


async def test_history_reads_forward_and_back_in_pages(served: Served) -> None:
    run_id = await served.start("wait")
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_id, name="go"))
    whole = (await served.runs.GetHistory(pb.GetHistoryRequest(run_id=run_id))).events
    assert [event.number for event in whole] == list(range(1, len(whole) + 1))
    for reverse in (False, True):
        seen, token = [], ""
        while True:
            request = pb.GetHistoryRequest(run_id=run_id, page_size=2, page_token=token, reverse=reverse)
            page = await served.runs.GetHistory(request)
            seen += [event.number for event in page.events]
            token = page.next_page_token
            if not token:
                break
        assert seen == sorted(seen, reverse=reverse) == [e.number for e in (whole[::-1] if reverse else whole)]


async def test_the_basic_view_holds_nothing_of_the_users(served: Served) -> None:
    run_id = await served.start("wait", {"secret": "hush"})
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_id, name="go", payload=payload("hush")))
    basic = await served.runs.GetHistory(pb.GetHistoryRequest(run_id=run_id, view=pb.VIEW_BASIC))
    assert not [event for event in basic.events if b"hush" in event.attributes]
    run = (await served.runs.GetRun(pb.GetRunRequest(run_id=run_id, view=pb.VIEW_BASIC))).run
    assert (dict(run.context), run.output.data, run.config) == ({}, b"", b"")
    full = await served.runs.GetHistory(pb.GetHistoryRequest(run_id=run_id, view=pb.VIEW_FULL))
    assert [event for event in full.events if b"hush" in event.attributes]


async def test_history_has_nothing_of_the_engines_own_packed_notes(served: Served) -> None:
    run_ids = [await served.start("wait"), await served.start("ask")]
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_ids[0], name="go", payload=payload({"by": "bob"})))
    answers = [await served.runs.GetHistory(pb.GetHistoryRequest(run_id=run_id)) for run_id in run_ids]
    events = [event for answer in answers for event in answer.events]
    taken = next(value(event.attributes) for event in events if event.type == "SignalTaken")
    assert (taken["name"], taken["payload"], "data" in taken) == ("go", {"by": "bob"}, False)
    assert not [event for event in events if "\ufffd" in event.attributes.decode()]


async def test_a_watch_tells_everything_once_also_across_a_broken_connection(served: Served) -> None:
    run_id = await served.start("wait")
    first = served.runs.WatchRun(pb.WatchRunRequest(run_id=run_id))
    message = await first.read()
    numbers = [event.number for event in message.events]
    first.cancel()
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_id, name="go"))
    resumed = served.runs.WatchRun(pb.WatchRunRequest(run_id=run_id, resume_token=message.resume_token))
    last = None
    async for last in resumed:
        numbers += [event.number for event in last.events]
    assert last is not None
    assert last.result.state == common_pb2.RUN_STATE_COMPLETED
    assert numbers == list(range(1, (await served.run(run_id)).last_event_number + 1))


async def test_a_watch_shows_progress_and_can_begin_now(served: Served) -> None:
    worker = await served.worker(lambda task: TestWorker.HOLD)
    run_id = await served.start("task")
    await worker.until(lambda: bool(worker.held))
    watch = served.runs.WatchRun(pb.WatchRunRequest(run_id=run_id, from_now=True))
    assert not (await watch.read()).events
    mark = worker_service_pb2.TaskHeartbeat(task_token=worker.held[0].task_token, progress=b'{"done":0.5}')
    worker.link.receive(worker_service_pb2.StreamTasksRequest(task_heartbeats=[mark]))
    (progress,) = (await watch.read()).progress
    assert (progress.progress, progress.attempt) == (b'{"done":0.5}', 1)
    assert progress.time.ToMicroseconds() <= served.clock.at_us < progress.time.ToMicroseconds() + SECOND
    worker.finish(worker.held[0], 1)
    while not (message := await watch.read()).HasField("result"):
        assert message.state == common_pb2.RUN_STATE_RUNNING
    assert message.result.state == common_pb2.RUN_STATE_COMPLETED


async def test_progress_never_makes_a_watch_larger_than_a_client_takes(served: Served) -> None:
    worker = await served.worker(lambda task: TestWorker.HOLD)
    run_id = await served.start("task")
    await worker.until(lambda: bool(worker.held))
    token = worker.held[0].task_token
    task = parse_token(token)
    for number in range(500):  # as of a map with so many items
        served.engine.notices.progressed((*task[:3], f"work#{number}", 1), b"x" * 10_000, 1)
    mark = worker_service_pb2.TaskHeartbeat(task_token=token, progress=b"x" * (5 << 20))
    worker.link.receive(worker_service_pb2.StreamTasksRequest(task_heartbeats=[mark]))
    shown = await served.runs.WatchRun(pb.WatchRunRequest(run_id=run_id)).read()
    assert 10 < len(shown.progress) < 100
    assert task not in served.engine.notices.progress


async def test_watches_that_are_refused(served: Served) -> None:
    await refused_stream(served.runs.WatchRun(pb.WatchRunRequest(run_id="f" * 32)), "RUN_NOT_FOUND")
    run_id = await served.start("wait")
    bad = pb.WatchRunRequest(run_id=run_id, resume_token="nonsense")
    await refused_stream(served.runs.WatchRun(bad), "BAD_RESUME_TOKEN")


LOOP: dict[str, Any] = {
    "workflow": "loop",
    "initial": "step",
    "states": {
        "step": {
            "wait": "next",
            "output": "last",
            "transitions": [
                {"on": "success", "when": "last.next == 'stop'", "to": "end"},
                {"on": "success", "to": "step"},
            ],
        },
        "end": {},
    },
}


async def test_the_past_is_shown_and_forked_from(served: Served) -> None:
    await served.register(LOOP)
    run_id = await served.start("loop", {"kept": True})
    marks = []
    for text in ("one", "two", "stop"):
        request = pb.SignalRunRequest(run_id=run_id, name="next", payload=payload(text))
        await served.runs.SignalRun(request)
        marks.append((await served.run(run_id)).last_event_number)
    then = (await served.runs.GetStateAt(pb.GetStateAtRequest(run_id=run_id, event_number=marks[0]))).run
    assert (value(then.context["last"]), then.visit, then.current_state) == ({"next": "one"}, 2, "step")
    assert then.state == common_pb2.RUN_STATE_WAITING
    for number in (0, 10_000):
        await refused(
            served.runs.GetStateAt(pb.GetStateAtRequest(run_id=run_id, event_number=number)), "EVENT_NOT_FOUND"
        )
    fork = pb.ForkRunRequest(run_id=run_id, event_number=marks[0], set={"edited": b"1"}, unset=["kept"])
    forked = await served.run((await served.runs.ForkRun(fork)).run.run_id)
    assert forked.forked_from_run_id == run_id
    assert forked.current_state == "step"
    assert {key: value(data) for key, data in forked.context.items()} == {"last": {"next": "one"}, "edited": 1}
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def test_a_fork_from_the_first_event_begins_where_the_run_began(served: Served) -> None:
    await served.register(LOOP)
    run_id = await served.start("loop", {"kept": True})
    fork = pb.ForkRunRequest(run_id=run_id, event_number=1)
    forked = await served.run((await served.runs.ForkRun(fork)).run.run_id)
    assert (forked.current_state, value(forked.context["kept"])) == ("step", True)


async def test_a_fork_by_state_takes_the_context_of_now(served: Served) -> None:
    await served.register(LOOP)
    run_id = await served.start("loop", {"a": 1})
    by_state = pb.ForkRunRequest(run_id=run_id, state="end", new_workflow_id="again")
    forked = await served.closed((await served.runs.ForkRun(by_state)).run.run_id)
    assert (forked.ref.workflow_id, value(forked.context["a"])) == ("again", 1)
    for request, reason in (
        (pb.ForkRunRequest(run_id=run_id, state="nowhere"), "STATE_NOT_FOUND"),
        (pb.ForkRunRequest(run_id=run_id, event_number=999), "EVENT_NOT_FOUND"),
        (pb.ForkRunRequest(run_id="f" * 32, state="end"), "RUN_NOT_FOUND"),
        (pb.ForkRunRequest(run_id=run_id, state="end", revision="0" * 64), "REVISION_NOT_FOUND"),
        (pb.ForkRunRequest(run_id=run_id, state="end", set={"a": b"{"}), "INVALID_JSON"),
    ):
        before = await served.dump()
        await refused(served.runs.ForkRun(request), reason)
        assert await served.dump() == before
