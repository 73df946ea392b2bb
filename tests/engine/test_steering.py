"""Steering a run over the wire: signals, queries, updates, waits, cancel, fail, pause, variables, deletion."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.cluster import TestWorker
from tests.engine.documents import delayed, instant, one_task, waiting
from tests.engine.served import Served, payload, refused, serving, value
from windlass.v1 import common_pb2
from windlass.v1 import workflow_service_pb2 as pb

PAID = {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "number"}}}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        for document in (instant(), waiting(), one_task(), delayed("1h")):
            await engine.register(document)
        yield engine


async def signal(served: Served, run_id: str, name: str, content: Any = None, **more: Any) -> pb.SignalRunResponse:
    request = pb.SignalRunRequest(run_id=run_id, name=name, payload=payload(content), **more)
    response: pb.SignalRunResponse = await served.runs.SignalRun(request)
    return response


# Signals


async def test_a_signal_ends_the_wait_and_gives_its_content(served: Served) -> None:
    run_id = await served.start("wait")
    await signal(served, run_id, "go", {"by": "bob"})
    assert value((await served.closed(run_id)).context["got"]) == {"go": {"by": "bob"}}


async def test_the_first_of_the_signals_that_came_before_ends_a_wait_for_any(served: Served) -> None:
    document = waiting("any", wait={"signals": ["paid", "refused"], "mode": "any"})
    document["states"]["first"] = {"delay": "1h", "next": "hold"}
    document["initial"] = "first"
    await served.register(document)
    run_id = await served.start("any")
    await signal(served, run_id, "refused", 1)
    await signal(served, run_id, "paid", 2)
    served.advance(3601)
    assert value((await served.closed(run_id)).context["got"]) == {"refused": 1}


async def test_a_signal_that_nothing_waits_for_yet_is_kept_for_the_wait(served: Served) -> None:
    document = waiting("later")
    document["states"]["first"] = {"delay": "1h", "next": "hold"}
    document["initial"] = "first"
    await served.register(document)
    run_id = await served.start("later")
    await signal(served, run_id, "go", 1)
    await signal(served, run_id, "go", 2)
    assert (await served.run(run_id)).unread_signals == 2
    served.advance(3601)
    run = await served.closed(run_id)
    assert value(run.context["got"]) == {"go": 1}
    assert run.unread_signals == 1


async def test_a_signal_with_the_same_request_id_counts_once_while_the_run_is_open(served: Served) -> None:
    document = waiting("twice")
    document["states"]["hold"]["next"] = "again"
    document["states"]["again"] = {"wait": "go", "next": "end"}
    await served.register(document)
    run_id = await served.start("twice")
    assert not (await signal(served, run_id, "go", request_id="s1")).duplicate
    assert (await signal(served, run_id, "go", request_id="s1")).duplicate
    served.advance(3 * 86_400)
    await served.engine.sweeper.turn()
    assert (await signal(served, run_id, "go", request_id="s1")).duplicate
    assert (await served.run(run_id)).current_state == "again"
    await signal(served, run_id, "go", request_id="s2")
    assert (await served.closed(run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def test_signal_with_start_signals_the_open_run_or_starts_one(served: Served) -> None:
    start = pb.StartRunRequest(workflow="wait", workflow_id="w", request_id="r1")
    request = pb.SignalWithStartRunRequest(start=start, signal_name="other", payload=payload(1))
    first = await served.runs.SignalWithStartRun(request)
    again = await served.runs.SignalWithStartRun(request)
    assert (first.created, again.created) == (True, False)
    assert (await served.run(first.run.run_id)).unread_signals == 1
    request.start.request_id = "r2"
    request.signal_name = "go"
    second = await served.runs.SignalWithStartRun(request)
    assert (second.run.run_id, second.created) == (first.run.run_id, False)
    assert (await served.closed(first.run.run_id)).state == common_pb2.RUN_STATE_COMPLETED
    request.start.request_id = "r3"
    third = await served.runs.SignalWithStartRun(request)
    assert third.created
    assert (await served.closed(third.run.run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def test_signal_with_start_that_is_refused_starts_nothing(served: Served) -> None:
    document = waiting("strict", wait={"signals": ["go"], "schemas": {"go": PAID}})
    await served.register(document)
    before = await served.dump()
    start = pb.StartRunRequest(workflow="strict", workflow_id="w")
    request = pb.SignalWithStartRunRequest(start=start, signal_name="go", payload=payload({}))
    await refused(served.runs.SignalWithStartRun(request), "SIGNAL_SCHEMA_MISMATCH")
    request.payload.data = b"{bad"
    await refused(served.runs.SignalWithStartRun(request), "INVALID_JSON")
    request.start.workflow_id = ""
    await refused(served.runs.SignalWithStartRun(request), "INVALID_FIELD")
    assert await served.dump() == before


# Queries and updates


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"key": "a"}, {"b": [1, 2]}),
        ({"keys": ["a", "c"]}, {"a": {"b": [1, 2]}, "c": "x"}),
        ({"path": "a.b[1]"}, 2),
        ({"template": {"n": "${a.b[0]}", "t": "is ${c}"}}, {"n": 1, "t": "is x"}),
        ("full", {"a": {"b": [1, 2]}, "c": "x"}),
        (None, {"a": {"b": [1, 2]}, "c": "x"}),
    ],
)
async def test_a_query_reads_the_context(served: Served, selector: Any, expected: Any) -> None:
    run_id = await served.start("wait", {"a": {"b": [1, 2]}, "c": "x"})
    before = await served.dump()
    request = pb.QueryRunRequest(run_id=run_id, selector=payload(selector) if selector else None)
    response = await served.runs.QueryRun(request)
    assert value(response.value) == expected
    assert response.state == common_pb2.RUN_STATE_WAITING
    assert response.last_event_number == (await served.run(run_id)).last_event_number
    assert await served.dump() == before


@pytest.mark.parametrize(
    ("selector", "reason"),
    [
        ({"key": "nope"}, "SELECTOR_FAILED"),
        ({"path": "a.b"}, "SELECTOR_FAILED"),
        ({"path": "a["}, "BAD_SELECTOR"),
        ({"what": "a"}, "BAD_SELECTOR"),
        ({"key": "a", "path": "a"}, "BAD_SELECTOR"),
        ([1], "BAD_SELECTOR"),
        (b"{", "INVALID_JSON"),
    ],
)
async def test_a_query_that_cannot_be_answered_says_why(served: Served, selector: Any, reason: str) -> None:
    run_id = await served.start("wait", {"a": 1})
    refusal = await refused(served.runs.QueryRun(pb.QueryRunRequest(run_id=run_id, selector=payload(selector))), reason)
    if reason == "SELECTOR_FAILED":
        assert refusal.metadata["missing"] in ("nope", "b", "a.b")


UPDATES = {
    "limit": {
        "input_schema": PAID,
        "when": "input.amount < 100",
        "set": {"limit": "${input.amount}"},
        "reply": {"was": "${limit}", "now": "${input.amount}"},
    }
}


async def test_an_update_is_checked_applied_and_answered(served: Served) -> None:
    await served.register({**waiting("upd"), "updates": UPDATES})
    run_id = await served.start("upd", {"limit": 5})
    request = pb.UpdateRunRequest(run_id=run_id, name="limit", input=payload({"amount": 7}))
    response = await served.runs.UpdateRun(request)
    assert value(response.reply)["now"] == 7
    assert value((await served.run(run_id)).context["limit"]) == 7


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("limit", {"amount": 100}, "UPDATE_REFUSED"),
        ("limit", {}, "INPUT_SCHEMA_MISMATCH"),
        ("limit", b"nope", "INVALID_JSON"),
        ("nope", {}, "UPDATE_NOT_DECLARED"),
        ("", {}, "INVALID_FIELD"),
    ],
)
async def test_an_update_that_is_refused_changes_nothing(served: Served, name: str, content: Any, reason: str) -> None:
    await served.register({**waiting("upd"), "updates": UPDATES})
    run_id = await served.start("upd", {"limit": 5})
    before = await served.dump()
    await refused(served.runs.UpdateRun(pb.UpdateRunRequest(run_id=run_id, name=name, input=payload(content))), reason)
    assert await served.dump() == before


async def test_one_wait_is_resolved_by_its_id(served: Served) -> None:
    run_id = await served.start("wait")
    (work,) = (await served.run(run_id)).open_work
    assert list(work.signal_names) == ["go"]
    await served.runs.ResolveWait(pb.ResolveWaitRequest(run_id=run_id, wait_id=work.wait_id, payload=payload(3)))
    assert value((await served.closed(run_id)).context["got"]) == {"go": 3}


async def test_a_wait_that_is_not_open_cannot_be_resolved(served: Served) -> None:
    run_id = await served.start("wait")
    for wait_id in ("9:", "nonsense", ""):
        request = pb.ResolveWaitRequest(run_id=run_id, wait_id=wait_id, payload=payload(3))
        await refused(served.runs.ResolveWait(request), "WAIT_NOT_OPEN")


async def test_a_payload_must_fit_the_schema_of_its_wait(served: Served) -> None:
    await served.register(waiting("strict", wait={"signals": ["go"], "schemas": {"go": PAID}}))
    run_id = await served.start("strict")
    wait_id = (await served.run(run_id)).open_work[0].wait_id
    before = await served.dump()
    await refused(signal(served, run_id, "go", {"amount": "much"}), "SIGNAL_SCHEMA_MISMATCH")
    resolve = pb.ResolveWaitRequest(run_id=run_id, wait_id=wait_id, payload=payload({}))
    await refused(served.runs.ResolveWait(resolve), "SIGNAL_SCHEMA_MISMATCH")
    await refused(signal(served, run_id, "go", b"{bad"), "INVALID_JSON")
    assert await served.dump() == before


# Cancel, fail, terminate


async def held(served: Served, **more: Any) -> tuple[str, TestWorker]:
    """A run whose task a worker holds."""
    worker = await served.worker(lambda task: TestWorker.HOLD)
    run_id = await served.start("task", **more)
    await worker.until(lambda: bool(worker.held))
    return run_id, worker


def cancel(run_id: str, **more: Any) -> pb.CancelRunRequest:
    return pb.CancelRunRequest(run_id=run_id, reason="changed my mind", **more)


async def test_a_cancel_of_a_waiting_run_is_over_at_once_and_says_who_and_why(served: Served) -> None:
    run_id = await served.start("wait")
    source = pb.CancelRunRequest.SOURCE_SYSTEM
    response = await served.runs.CancelRun(cancel(run_id, source=source))
    assert response.effect == pb.CancelRunResponse.EFFECT_REQUESTED
    assert response.state == common_pb2.RUN_STATE_CANCELLED
    waited = await served.runs.WaitRun(pb.WaitRunRequest(run_id=run_id))
    assert waited.result.failure.code == "CANCELLED"
    assert waited.result.failure.message == "cancelled by system: changed my mind"


async def test_a_cancel_gives_running_tasks_a_grace_time_and_tells_their_workers(served: Served) -> None:
    run_id, worker = await held(served)
    response = await served.runs.CancelRun(cancel(run_id))
    assert (response.effect, response.state) == (1, common_pb2.RUN_STATE_CANCELLING)
    await worker.until(lambda: bool(worker.cancels))
    again = await served.runs.CancelRun(cancel(run_id))
    assert again.effect == pb.CancelRunResponse.EFFECT_ALREADY_REQUESTED
    worker.finish(worker.held[0], "late")
    assert (await served.closed(run_id)).state == common_pb2.RUN_STATE_CANCELLED
    after = await served.runs.CancelRun(cancel(run_id))
    assert (after.effect, after.state) == (
        pb.CancelRunResponse.EFFECT_ALREADY_CLOSED,
        common_pb2.RUN_STATE_CANCELLED,
    )


async def test_a_task_that_ignores_a_cancel_is_cut_off_after_the_grace_time(served: Served) -> None:
    run_id, worker = await held(served)
    await served.runs.CancelRun(cancel(run_id))
    served.advance(11)
    assert (await served.closed(run_id)).state == common_pb2.RUN_STATE_CANCELLED
    worker.finish(worker.held[0], "too late")
    await worker.until(lambda: bool(worker.rejected))


async def test_terminate_ends_at_once(served: Served) -> None:
    run_id, worker = await held(served)
    await served.runs.TerminateRun(pb.TerminateRunRequest(run_id=run_id, reason="stop"))
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_TERMINATED
    await worker.until(lambda: bool(worker.cancels))


async def test_an_operator_fails_a_run_with_a_code_and_reason(served: Served) -> None:
    run_id = await served.start("wait")
    await served.runs.FailRun(pb.FailRunRequest(run_id=run_id, code="ABANDONED", reason="nobody wants it"))
    run = await served.run(run_id)
    assert (run.state, run.failure.code) == (common_pb2.RUN_STATE_FAILED, "ABANDONED")
    plain = await served.start("wait")
    await served.runs.FailRun(pb.FailRunRequest(run_id=plain))
    assert (await served.run(plain)).failure.code == "FAILED_BY_REQUEST"


# Pause


async def test_a_paused_run_starts_nothing_and_goes_on_where_it_stood(served: Served) -> None:
    run_id = await served.start("task")
    paused = await served.runs.PauseRun(pb.PauseRunRequest(run_id=run_id, reason="audit"))
    assert paused.state == common_pb2.RUN_STATE_PAUSED
    assert (await served.runs.PauseRun(pb.PauseRunRequest(run_id=run_id))).state == common_pb2.RUN_STATE_PAUSED
    worker = await served.worker(lambda task: 1)
    other = await served.start("task")
    await served.closed(other)
    assert [task.run_id for task in worker.seen] == [other]
    await served.runs.UnpauseRun(pb.UnpauseRunRequest(run_id=run_id))
    assert (await served.closed(run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def test_a_result_that_comes_during_a_pause_is_kept(served: Served) -> None:
    run_id, worker = await held(served)
    await served.runs.PauseRun(pb.PauseRunRequest(run_id=run_id))
    worker.finish(worker.held[0], 5)
    await worker.until(lambda: bool(worker.accepted))
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_PAUSED
    await served.runs.UnpauseRun(pb.UnpauseRunRequest(run_id=run_id))
    assert value((await served.closed(run_id)).context["done"]) == 5


async def test_a_run_that_is_not_paused_cannot_be_unpaused(served: Served) -> None:
    run_id = await served.start("wait")
    await refused(served.runs.UnpauseRun(pb.UnpauseRunRequest(run_id=run_id)), "RUN_NOT_PAUSED")
