"""Starting runs over the wire: checks, id policies, idempotency, delays, waiting for the end, batches and streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tests.engine.documents import delayed, instant, one_task, waiting
from tests.engine.served import DAY, SECOND, Served, payload, refusal_of, refused, seconds, serving, value
from windlass.engine import keys
from windlass.v1 import common_pb2, definition_service_pb2
from windlass.v1 import workflow_service_pb2 as pb

SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        for document in (instant(), waiting(), one_task(), delayed("1h"), instant("strict", input_schema=SCHEMA)):
            await engine.register(document)
        yield engine


def asked(workflow: str, **more: Any) -> pb.StartRunRequest:
    return pb.StartRunRequest(workflow=workflow, **more)


async def test_a_start_answers_with_ids_and_the_pinned_revision(served: Served) -> None:
    response = await served.runs.StartRun(asked("instant", input=payload({"a": 1}), metadata={"by": "bob"}))
    assert response.created
    run = await served.run(response.run.run_id)
    assert (run.state, run.ref.workflow_id) == (common_pb2.RUN_STATE_COMPLETED, response.run.run_id)
    assert len(run.ref.revision) == 64
    assert value(run.context["a"]) == 1
    assert dict(run.metadata) == {"by": "bob"}


async def test_an_input_that_is_no_object_becomes_the_value_input(served: Served) -> None:
    assert value((await served.run(await served.start("instant", [1, 2]))).context["input"]) == [1, 2]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (asked("nowhere"), "WORKFLOW_NOT_REGISTERED"),
        (asked(""), "INVALID_FIELD"),
        (asked("instant", namespace="nowhere"), "NAMESPACE_NOT_FOUND"),
        (asked("instant", revision="0" * 64), "REVISION_NOT_FOUND"),
        (asked("instant", input=common_pb2.Payload(data=b"{nope")), "INVALID_JSON"),
        (asked("instant", input=common_pb2.Payload(data=b'{"a":NaN}')), "INVALID_JSON"),
        (asked("instant", input=common_pb2.Payload(data=b"[" * 100_000)), "INVALID_JSON"),
        (asked("strict", input=payload({"n": "one"})), "INPUT_SCHEMA_MISMATCH"),
        (asked("instant", workflow_id="x" * 300), "INVALID_FIELD"),
        (asked("instant", queue="a\nb"), "INVALID_FIELD"),
        (asked("instant", priority=10), "INVALID_FIELD"),
        (asked("instant", priority=-1), "INVALID_FIELD"),
        (asked("instant", start_delay=seconds(-1)), "INVALID_FIELD"),
        (asked("instant", config=payload([1])), "INVALID_FIELD"),
        (asked("instant", input=payload({"big": "x" * 2_000_000})), "CONTEXT_TOO_LARGE"),
    ],
)
async def test_a_start_that_is_refused_changes_nothing(
    served: Served, request_: pb.StartRunRequest, reason: str
) -> None:
    before = await served.dump()
    await refused(served.runs.StartRun(request_), reason)
    assert await served.dump() == before


async def test_a_start_at_two_times_is_refused(served: Served) -> None:
    both = asked("instant", start_delay=seconds(1))
    both.start_time.seconds = 2_000_000_000
    await refused(served.runs.StartRun(both), "INVALID_FIELD")


async def test_a_schema_mismatch_names_the_places(served: Served) -> None:
    refusal = await refused(served.runs.StartRun(asked("strict", input=payload({}))), "INPUT_SCHEMA_MISMATCH")
    assert "n" in refusal.message
    assert refusal.fields()


async def test_validate_only_checks_and_starts_nothing(served: Served) -> None:
    before = await served.dump()
    response = await served.runs.StartRun(asked("strict", input=payload({"n": 1}), validate_only=True))
    assert (response.run.run_id, response.created) == ("", False)
    assert await served.dump() == before
    await refused(served.runs.StartRun(asked("strict", input=payload({}), validate_only=True)), "INPUT_SCHEMA_MISMATCH")


# Workflow ids

OPEN = {
    pb.OPEN_RUN_POLICY_UNSPECIFIED: "refused",
    pb.OPEN_RUN_POLICY_FAIL: "refused",
    pb.OPEN_RUN_POLICY_USE_EXISTING: "existing",
    pb.OPEN_RUN_POLICY_TERMINATE_EXISTING: "new",
}
CLOSED = {
    (pb.CLOSED_RUN_POLICY_UNSPECIFIED, "completed"): "new",
    (pb.CLOSED_RUN_POLICY_ALLOW, "completed"): "new",
    (pb.CLOSED_RUN_POLICY_ALLOW_IF_FAILED, "completed"): "refused",
    (pb.CLOSED_RUN_POLICY_REJECT, "completed"): "refused",
    (pb.CLOSED_RUN_POLICY_ALLOW, "failed"): "new",
    (pb.CLOSED_RUN_POLICY_ALLOW_IF_FAILED, "failed"): "new",
    (pb.CLOSED_RUN_POLICY_REJECT, "failed"): "refused",
}


async def outcome(served: Served, first: str, again: pb.StartRunRequest) -> str:
    before = await served.dump()
    tried: list[pb.StartRunResponse] = []

    async def start() -> None:
        tried.append(await served.runs.StartRun(again))

    try:
        await start()
    except grpc.aio.AioRpcError:
        refusal = await refused(start(), "RUN_ALREADY_STARTED")
        if refusal.metadata["run_id"] == first and await served.dump() == before:
            return "refused"
        raise
    created = tried[0].created
    return "new" if created and tried[0].run.run_id != first else "existing"


@pytest.mark.parametrize("open_policy", OPEN)
@pytest.mark.parametrize("closed_policy", [0, 1, 2, 3])
async def test_what_an_open_run_with_the_id_means(served: Served, open_policy: Any, closed_policy: Any) -> None:
    first = await served.start("wait", workflow_id="w")
    again = asked("wait", workflow_id="w", open_run_policy=open_policy, closed_run_policy=closed_policy)
    assert await outcome(served, first, again) == OPEN[open_policy]
    state = (await served.run(first)).state
    terminated = open_policy == pb.OPEN_RUN_POLICY_TERMINATE_EXISTING
    assert (state == common_pb2.RUN_STATE_TERMINATED) == terminated


@pytest.mark.parametrize(("policy", "ended"), CLOSED)
@pytest.mark.parametrize("open_policy", [1, 2, 3])
async def test_what_a_closed_run_with_the_id_means(served: Served, policy: Any, ended: str, open_policy: Any) -> None:
    first = await served.start("wait", workflow_id="w")
    if ended == "completed":
        await served.runs.SignalRun(pb.SignalRunRequest(run_id=first, name="go"))
    else:
        await served.runs.FailRun(pb.FailRunRequest(run_id=first, code="BROKEN"))
    again = asked("wait", workflow_id="w", closed_run_policy=policy, open_run_policy=open_policy)
    assert await outcome(served, first, again) == CLOSED[policy, ended]


async def test_an_id_whose_run_was_deleted_is_free(served: Served) -> None:
    first = await served.start("instant", workflow_id="w")
    await served.runs.DeleteRun(pb.DeleteRunRequest(run_id=first))
    again = asked("instant", workflow_id="w", closed_run_policy=pb.CLOSED_RUN_POLICY_REJECT)
    assert (await served.runs.StartRun(again)).created


async def test_a_closed_run_keeps_its_id_when_its_definition_is_gone(served: Served) -> None:
    await served.start("instant", workflow_id="w")
    await served.definitions.DeleteDefinition(definition_service_pb2.DeleteDefinitionRequest(workflow="instant"))
    again = asked("wait", workflow_id="w", closed_run_policy=pb.CLOSED_RUN_POLICY_REJECT)
    await refused(served.runs.StartRun(again), "RUN_ALREADY_STARTED")


# Idempotency keys


async def test_an_idempotency_key_finds_the_first_run_until_its_time_is_over(served: Served) -> None:
    again = asked("instant", idempotency_key="order-7", idempotency_ttl=seconds(3600))
    first = await served.runs.StartRun(again)
    second = await served.runs.StartRun(again)
    assert (first.created, second.created) == (True, False)
    assert first.run.run_id == second.run.run_id
    served.advance(3601)
    third = await served.runs.StartRun(again)
    assert third.created
    assert third.run.run_id != first.run.run_id


async def test_an_idempotency_key_is_kept_while_its_run_is_open(served: Served) -> None:
    again = asked("wait", idempotency_key="order-7", idempotency_ttl=seconds(60))
    first = await served.runs.StartRun(again)
    served.advance(3600)
    await served.engine.sweeper.turn()
    assert (await served.runs.StartRun(again)).run.run_id == first.run.run_id
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=first.run.run_id, name="go"))
    served.advance(3600)
    assert (await served.runs.StartRun(again)).created


async def test_an_idempotency_key_belongs_to_one_workflow(served: Served) -> None:
    first = await served.runs.StartRun(asked("instant", idempotency_key="k"))
    second = await served.runs.StartRun(asked("wait", idempotency_key="k"))
    assert second.created
    assert first.run.run_id != second.run.run_id


async def test_an_idempotency_key_with_another_input_is_refused(served: Served) -> None:
    await served.runs.StartRun(asked("instant", idempotency_key="k", input=payload({"a": 1})))
    other = asked("instant", idempotency_key="k", input=payload({"a": 2}))
    await refused(served.runs.StartRun(other), "REQUEST_ID_REUSED")


# Time


async def test_a_delayed_start_waits_for_its_time(served: Served) -> None:
    run_id = await served.start("instant", start_delay=seconds(3600))
    run = await served.run(run_id)
    assert run.state == common_pb2.RUN_STATE_PENDING
    assert not run.HasField("start_time")
    served.advance(3599)
    await served.engine.timers.turn()
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_PENDING
    served.advance(2)
    assert (await served.closed(run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def test_a_run_timeout_cancels_the_run_and_says_so(served: Served) -> None:
    run_id = await served.start("wait", run_timeout=seconds(10))
    served.advance(11)
    run = await served.closed(run_id)
    assert run.state in (common_pb2.RUN_STATE_CANCELLED, common_pb2.RUN_STATE_FAILED)
    assert "timeout" in (run.failure.message + run.failure.code).lower()


async def test_a_run_timeout_can_count_from_the_first_task(served: Served) -> None:
    started = asked("task", run_timeout=seconds(10), timeout_start=pb.TIMEOUT_START_FIRST_TASK)
    run_id = (await served.runs.StartRun(started)).run.run_id
    served.advance(3600)  # in the queue: this does not count
    await served.engine.timers.turn()
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_RUNNING
    worker = await served.worker(lambda task: worker.HOLD)
    await worker.until(lambda: bool(worker.held))
    served.advance(11)
    await served.in_state(run_id, common_pb2.RUN_STATE_CANCELLING)


# Waiting for the end


async def test_start_and_wait_answers_with_the_result(served: Served) -> None:
    await served.worker(lambda task: {"ok": True})
    response = await served.runs.StartAndWaitRun(pb.StartAndWaitRunRequest(start=asked("task")))
    assert response.created
    assert response.result.state == common_pb2.RUN_STATE_COMPLETED
    assert value(response.result.output) == {"ok": True}


async def test_a_wait_that_ends_first_leaves_the_run_going(served: Served) -> None:
    asking = pb.StartAndWaitRunRequest(start=asked("wait"), wait_timeout=seconds(0.01))
    response = await served.runs.StartAndWaitRun(asking)
    assert not response.HasField("result")
    waited = await served.runs.WaitRun(pb.WaitRunRequest(run_id=response.run.run_id, wait_timeout=seconds(0.01)))
    assert not waited.HasField("result")
    assert waited.state == common_pb2.RUN_STATE_WAITING


async def test_start_and_wait_of_a_known_request_waits_for_the_same_run(served: Served) -> None:
    start = asked("wait", request_id="r1")
    run_id = (await served.runs.StartRun(start)).run.run_id
    waiting_ = asyncio.ensure_future(served.runs.StartAndWaitRun(pb.StartAndWaitRunRequest(start=start)))
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_id, name="go", payload=payload(5)))
    response = await waiting_
    assert response.run.run_id == run_id
    assert value(response.result.output) == {"go": 5}


async def test_waiting_for_a_run_that_is_not_there(served: Served) -> None:
    await refused(served.runs.WaitRun(pb.WaitRunRequest(run_id="f" * 32)), "RUN_NOT_FOUND")
    await refused(served.runs.WaitRun(pb.WaitRunRequest()), "INVALID_FIELD")


# Batches


async def test_a_batch_with_one_bad_item_starts_the_others(served: Served) -> None:
    batch = pb.StartRunsRequest(
        requests=[asked("instant"), asked("nowhere"), asked("instant", priority=99), asked("wait")]
    )
    response = await served.runs.StartRuns(batch)
    kinds = [result.WhichOneof("outcome") for result in response.results]
    assert kinds == ["started", "error", "error", "started"]
    assert refusal_of(response.results[1].error).info.reason == "WORKFLOW_NOT_REGISTERED"
    assert refusal_of(response.results[2].error).info.reason == "INVALID_FIELD"
    assert response.results[3].started.run.workflow == "wait"


async def test_a_batch_of_a_thousand_is_the_most(served: Served) -> None:
    response = await served.runs.StartRuns(pb.StartRunsRequest(requests=[asked("instant")] * 1000))
    assert len({result.started.run.run_id for result in response.results}) == 1000
    await refused(served.runs.StartRuns(pb.StartRunsRequest(requests=[asked("instant")] * 1001)), "INVALID_FIELD")


async def test_a_batch_honours_ids_within_itself(served: Served) -> None:
    batch = pb.StartRunsRequest(requests=[asked("wait", workflow_id="same"), asked("wait", workflow_id="same")])
    first, second = (await served.runs.StartRuns(batch)).results
    assert refusal_of(second.error).metadata["run_id"] == first.started.run.run_id


async def test_overflowing_a_transaction_in_a_batch_starts_each_by_itself(served: Served) -> None:
    large = [asked("instant", input=payload({"x": "y" * 900_000})) for _ in range(4)]
    response = await served.runs.StartRuns(pb.StartRunsRequest(requests=large))
    assert [result.WhichOneof("outcome") for result in response.results] == ["started"] * 4


# Streams


async def streamed(served: Served, *batches: pb.StreamRunsRequest) -> list[pb.StreamedOutcome]:
    call = served.runs.StreamRuns()
    for batch in batches:
        await call.write(batch)
    await call.done_writing()
    return [outcome async for message in call for outcome in message.outcomes]


async def test_a_stream_answers_every_start_by_its_tag(served: Served) -> None:
    starts = [
        pb.StreamedStart(tag=1, request=asked("instant")),
        pb.StreamedStart(tag=2, request=asked("instant"), wait=True),
        pb.StreamedStart(tag=3, request=asked("nowhere"), wait=True),
        pb.StreamedStart(tag=4, request=asked("instant", priority=77)),
    ]
    outcomes = await streamed(served, pb.StreamRunsRequest(starts=starts))
    assert sorted((each.tag, each.WhichOneof("outcome")) for each in outcomes) == [
        (1, "started"), (2, "closed"), (2, "started"), (3, "error"), (4, "error"),
    ]  # fmt: skip
    assert [e.WhichOneof("outcome") for e in outcomes if e.tag == 2] == ["started", "closed"]


async def test_a_stream_tells_the_end_of_a_run_that_was_there_already(served: Served) -> None:
    run_id = await served.start("wait", workflow_id="w")
    again = asked("wait", workflow_id="w", open_run_policy=pb.OPEN_RUN_POLICY_USE_EXISTING)
    call = served.runs.StreamRuns()
    await call.write(pb.StreamRunsRequest(starts=[pb.StreamedStart(tag=9, request=again, wait=True)]))
    first = await call.read()
    assert not first.outcomes[0].started.created
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_id, name="go"))
    closed = (await call.read()).outcomes[0]
    assert (closed.tag, closed.closed.state) == (9, common_pb2.RUN_STATE_COMPLETED)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_a_broken_stream_leaves_its_runs_started(served: Served) -> None:
    call = served.runs.StreamRuns()
    await call.write(pb.StreamRunsRequest(starts=[pb.StreamedStart(tag=1, request=asked("wait"), wait=True)]))
    run_id = (await call.read()).outcomes[0].started.run.run_id
    call.cancel()
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_WAITING


async def test_a_draining_engine_takes_no_starts(served: Served) -> None:
    served.engine.drain()
    refusal = await refused(served.runs.StartRun(asked("instant")), "ENGINE_DRAINING")
    assert "RetryInfo" in [type(detail).__name__ for detail in refusal.details]
    await refused(served.runs.StartRuns(pb.StartRunsRequest(requests=[asked("instant")])), "ENGINE_DRAINING")


async def test_the_request_table_is_swept(served: Served) -> None:
    await served.runs.StartRun(asked("instant", request_id="r", idempotency_key="k", idempotency_ttl=seconds(5)))
    served.advance(2 * DAY / SECOND)
    await served.engine.sweeper.turn()
    left = [keys.describe(key) for key, _ in await served.dump()]
    assert not [key for key in left if key.startswith(("REQUEST", "EXPIRY"))]
