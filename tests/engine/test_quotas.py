"""Limits of namespaces and of inboxes, and a namespace's default for retries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import pytest
from google.protobuf import field_mask_pb2
from google.rpc import error_details_pb2

from tests.engine.cluster import Failing, TestWorker
from tests.engine.documents import instant, one_task, waiting
from tests.engine.served import Refusal, Served, payload, refused, serving
from windlass.engine.core import signals
from windlass.v1 import admin_service_pb2 as pb
from windlass.v1 import common_pb2
from windlass.v1 import workflow_service_pb2 as wire

NS = "small"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        yield engine


async def create(served: Served, **limits: Any) -> None:
    made = pb.Namespace(name=NS, limits=pb.NamespaceLimits(**limits))
    await served.admin.CreateNamespace(pb.CreateNamespaceRequest(namespace=made))
    for document in (waiting(), one_task(), instant()):
        await served.register(document, ns=NS)


def start(served: Served, workflow: str = "wait", **more: Any) -> Any:
    return served.runs.StartRun(wire.StartRunRequest(namespace=NS, workflow=workflow, **more))


def detail(refusal: Refusal, kind: type) -> Any:
    (found,) = [each for each in refusal.details if isinstance(each, kind)]
    return found


async def test_open_runs_of_a_namespace_are_limited(served: Served) -> None:
    await create(served, open_runs=2)
    first = (await start(served, request_id="one")).run.run_id
    await start(served)
    full = await refused(start(served), "BACKLOG_FULL")
    assert full.metadata == {"namespace": NS, "limit": "2"}
    assert detail(full, error_details_pb2.QuotaFailure).violations[0].subject == "namespace:small"
    assert detail(full, error_details_pb2.RetryInfo).retry_delay.ToMicroseconds() > 0
    assert (await start(served, request_id="one")).run.run_id == first, "a repeated start is no new run"
    await served.runs.SignalRun(wire.SignalRunRequest(namespace=NS, run_id=first, name="go"))
    await served.engine.transition.quotas.refresh()
    await start(served)


async def test_one_start_of_a_batch_may_be_refused(served: Served) -> None:
    await create(served, open_runs=2)
    one = wire.StartRunRequest(namespace=NS, workflow="wait")
    results = (await served.runs.StartRuns(wire.StartRunsRequest(requests=[one] * 3))).results
    assert [each.WhichOneof("outcome") for each in results] == ["started", "started", "error"]


async def test_a_queue_that_holds_too_much_takes_no_more_runs(served: Served) -> None:
    await create(served, queued_tasks=2)
    for _ in range(2):
        await start(served, "task")
        await served.engine.transition.quotas.refresh()
    full = await refused(start(served, "task"), "BACKLOG_FULL")
    assert full.metadata["queue"] == "default"
    await start(served, "task", queue="other")


async def test_starts_a_second_are_limited_and_a_repeated_call_is_told_when(served: Served) -> None:
    await create(served, starts_per_second=2)
    for _ in range(2):
        await start(served, "instant")
    full = await refused(start(served, "instant"), "RATE_LIMITED")
    delay = detail(full, error_details_pb2.RetryInfo).retry_delay.ToMicroseconds()
    assert 400_000 < delay <= 500_001
    served.clock.at_us += delay
    await start(served, "instant")
    await refused(start(served, "instant"), "RATE_LIMITED")


async def test_limits_can_be_changed_and_lifted(served: Served) -> None:
    await create(served, open_runs=1)
    await start(served)
    await refused(start(served), "BACKLOG_FULL")
    update = pb.UpdateNamespaceRequest(namespace=pb.Namespace(name=NS))
    update.update_mask.CopyFrom(field_mask_pb2.FieldMask(paths=["limits"]))
    changed = (await served.admin.UpdateNamespace(update)).namespace
    assert not changed.HasField("limits")
    await start(served)
    update.namespace.limits.open_runs = -1
    await refused(served.admin.UpdateNamespace(update), "INVALID_FIELD")


async def test_the_default_namespace_has_limits_too_and_children_pass_them(served: Served) -> None:
    update = pb.UpdateNamespaceRequest(namespace=pb.Namespace(name="default", limits=pb.NamespaceLimits(open_runs=1)))
    await served.admin.UpdateNamespace(update)
    await served.register(waiting("child"))
    states = {"call": {"spawn": {"workflow": "child"}, "next": "end"}, "end": {}}
    await served.register({"workflow": "parent", "initial": "call", "states": states})
    parent = await served.start("parent")
    (work,) = (await served.run(parent)).open_work
    assert (await served.run(work.child_run_id)).state == common_pb2.RUN_STATE_WAITING
    await refused(served.runs.StartRun(wire.StartRunRequest(workflow="parent")), "BACKLOG_FULL")


async def test_signals_that_nobody_reads_are_limited(served: Served) -> None:
    await served.register(waiting())
    run_id = await served.start("wait")
    with patch.object(signals, "INBOX_MAX", 2):
        for number in range(2):
            await served.runs.SignalRun(wire.SignalRunRequest(run_id=run_id, name="other", payload=payload(number)))
        before = await served.dump()
        full = await refused(served.runs.SignalRun(wire.SignalRunRequest(run_id=run_id, name="other")), "INBOX_FULL")
        assert await served.dump() == before
        assert detail(full, error_details_pb2.QuotaFailure).violations[0].subject == f"run_id:{run_id}"
        await served.runs.SignalRun(wire.SignalRunRequest(run_id=run_id, name="go"))
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def fails(served: Served, ns: str, **document: Any) -> int:
    """Attempts made of a task that always fails."""
    seen: list[int] = []

    def work(task: Any) -> Any:
        seen.append(task.attempt)
        raise Failing("BOOM")

    await served.register({**one_task("fails"), **document}, ns=ns)
    request = wire.StartRunRequest(namespace=ns, workflow="fails")
    run_id = (await served.runs.StartRun(request)).run.run_id
    worker = TestWorker(served.engine, work)
    await worker.connect(namespace=ns)
    while (await served.run(run_id, ns)).state != common_pb2.RUN_STATE_FAILED:
        await worker.link.settle()
        served.advance(0.2)
    await worker.vanish()
    return len(seen)


async def test_the_namespaces_retry_policy_is_the_default_of_its_definitions(served: Served) -> None:
    retry = common_pb2.RetryPolicy(max_attempts=2)
    retry.initial_delay.FromMilliseconds(10)
    made = pb.Namespace(name=NS, default_retry=retry)
    shown = (await served.admin.CreateNamespace(pb.CreateNamespaceRequest(namespace=made))).namespace
    assert shown.default_retry.max_attempts == 2
    assert await fails(served, NS) == 2
    assert await fails(served, NS, retry={"max_attempts": 1}) == 1, "the definition's own goes before it"


async def test_a_retry_policy_must_make_sense(served: Served) -> None:
    for wrong in ({"max_attempts": -1}, {"multiplier": 0.5}, {"jitter": 2.0}):
        made = pb.Namespace(name=NS, default_retry=common_pb2.RetryPolicy(**wrong))
        request = pb.CreateNamespaceRequest(namespace=made)
        refusal = await refused(served.admin.CreateNamespace(request), "INVALID_FIELD")
        assert refusal.fields() == [f"default_retry.{next(iter(wrong))}"]
