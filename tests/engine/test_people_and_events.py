"""Escalations, published messages and the outbox, queues and workers as operators see them, over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.cluster import TestWorker
from tests.engine.documents import asking, instant, one_task, waiting
from tests.engine.served import Served, payload, refused, seconds, serving, value
from windlass.engine import keys
from windlass.v1 import common_pb2
from windlass.v1 import event_service_pb2 as event_pb
from windlass.v1 import human_task_service_pb2 as pb
from windlass.v1 import queue_service_pb2 as queue_pb
from windlass.v1 import workflow_service_pb2 as run_pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        correlated = {"signals": ["paid"], "correlate": "order"}
        for document in (instant(), one_task(), asking(), waiting("pay", wait=correlated)):
            await engine.register(document)
        yield engine


async def questions(served: Served, **by: Any) -> list[pb.Escalation]:
    return list((await served.people.ListEscalations(pb.ListEscalationsRequest(**by))).escalations)


async def asked(served: Served) -> tuple[str, str]:
    """A run that asks: its id and the escalation's."""
    run_id = await served.start("ask", {"order": 7})
    (question,) = await questions(served, run_id=run_id)
    return run_id, question.escalation_id


# Escalations


async def test_a_question_says_who_is_asked_what_and_until_when(served: Served) -> None:
    run_id, escalation_id = await asked(served)
    got = (await served.people.GetEscalation(pb.GetEscalationRequest(escalation_id=escalation_id))).escalation
    assert (got.to, got.message, got.state) == ("alice", "Approve 7?", pb.ESCALATION_STATE_OPEN)
    assert [(field.id, field.kind) for field in got.fields] == [
        ("reason", "select"), ("discount", "number"), ("note", "comment"),
    ]  # fmt: skip
    assert [option.value for option in got.fields[0].options] == ["vip", "other"]
    assert got.due_time.seconds - got.create_time.seconds == 7 * 86_400
    assert got.run.run_id == run_id
    assert (await served.run(run_id)).open_work[0].escalation_id == escalation_id


@pytest.mark.parametrize(
    ("approved", "state", "current"),
    [(True, pb.ESCALATION_STATE_APPROVED, "yes"), (False, pb.ESCALATION_STATE_REJECTED, "no")],
)
async def test_a_reply_moves_the_run_and_is_kept(served: Served, approved: bool, state: Any, current: str) -> None:
    run_id, escalation_id = await asked(served)
    values = {"reason": "vip", "discount": 2.5, "note": "fine"}
    reply = pb.ReplyEscalationRequest(
        escalation_id=escalation_id, approved=approved, values=payload(values), by="alice"
    )
    answered = (await served.people.ReplyEscalation(reply)).escalation
    assert (answered.state, answered.replied_by, value(answered.values)) == (state, "alice", values)
    run = await served.closed(run_id)
    assert run.current_state == current
    assert (value(run.context["decision"]) if approved else run.failure.code) == (values if approved else "REFUSED")
    again = await refused(served.people.ReplyEscalation(reply), "ESCALATION_CLOSED")
    assert again.metadata["state"] == ("approved" if approved else "rejected")
    assert not await questions(served)
    assert [each.escalation_id for each in await questions(served, state=state)] == [escalation_id]


@pytest.mark.parametrize(
    "values", [{"reason": "because"}, {"discount": "much"}, {"note": 5}, {"unknown": 1}, [1], "text"]
)
async def test_a_reply_that_does_not_fit_changes_nothing(served: Served, values: Any) -> None:
    _, escalation_id = await asked(served)
    before = await served.dump()
    reply = pb.ReplyEscalationRequest(escalation_id=escalation_id, approved=True, values=payload(values))
    await refused(served.people.ReplyEscalation(reply), "REPLY_INVALID")
    reply.values.data = b"{"
    await refused(served.people.ReplyEscalation(reply), "INVALID_JSON")
    assert await served.dump() == before


async def test_a_question_that_nobody_answers_is_over_in_time(served: Served) -> None:
    run_id, escalation_id = await asked(served)
    served.advance(7 * 86_400 + 1)
    assert (await served.closed(run_id)).current_state == "late"
    reply = pb.ReplyEscalationRequest(escalation_id=escalation_id, approved=True)
    refusal = await refused(served.people.ReplyEscalation(reply), "ESCALATION_CLOSED")
    assert refusal.metadata["state"] == "timeout"


async def test_a_question_is_withdrawn(served: Served) -> None:
    await served.register(asking("careful"))
    run_id = await served.start("careful", {"order": 1})
    (question,) = await questions(served, run_id=run_id)
    cancel = pb.CancelEscalationRequest(escalation_id=question.escalation_id, reason="asked twice")
    withdrawn = (await served.people.CancelEscalation(cancel)).escalation
    assert withdrawn.state == pb.ESCALATION_STATE_CANCELLED
    run = await served.closed(run_id)
    assert run.current_state == "no"
    history = await served.runs.GetHistory(run_pb.GetHistoryRequest(run_id=run_id, view=run_pb.VIEW_FULL))
    assert any(b"ESCALATION_CANCELLED" in event.attributes for event in history.events)
    await refused(served.people.CancelEscalation(cancel), "ESCALATION_CLOSED")


async def test_questions_are_found_by_person_run_and_page(served: Served) -> None:
    runs = [await served.start("ask", {"order": n}) for n in range(5)]
    assert len(await questions(served, to="alice")) == 5
    assert not await questions(served, to="bob")
    seen, token = [], ""
    while True:
        page = await served.people.ListEscalations(pb.ListEscalationsRequest(page_size=2, page_token=token))
        seen += [each.run.run_id for each in page.escalations]
        token = page.next_page_token
        if not token:
            break
    assert seen == runs
    await refused(served.people.GetEscalation(pb.GetEscalationRequest(escalation_id="x")), "ESCALATION_NOT_FOUND")


async def test_a_cancelled_run_takes_its_questions_along(served: Served) -> None:
    run_id, escalation_id = await asked(served)
    await served.runs.CancelRun(run_pb.CancelRunRequest(run_id=run_id))
    reply = pb.ReplyEscalationRequest(escalation_id=escalation_id, approved=True)
    await refused(served.people.ReplyEscalation(reply), "ESCALATION_CLOSED")
    await served.runs.DeleteRun(run_pb.DeleteRunRequest(run_id=run_id))
    assert not [key for key, _ in await served.dump() if "ESCALATION" in keys.describe(key)]


# Messages


def message(key: str, content: Any = None, **more: Any) -> event_pb.PublishMessageRequest:
    return event_pb.PublishMessageRequest(name="paid", correlation_key=key, payload=payload(content), **more)


async def test_a_message_reaches_the_waits_with_its_business_key(served: Served) -> None:
    first, other = await served.start("pay", {"order": "7"}), await served.start("pay", {"order": "8"})
    response = await served.events.PublishMessage(message("7", {"eur": 5}))
    assert [run.run_id for run in response.runs] == [first]
    assert value((await served.closed(first)).context["got"]) == {"paid": {"eur": 5}}
    assert (await served.run(other)).state == common_pb2.RUN_STATE_WAITING
    again = await served.events.PublishMessage(message("7"))
    assert (list(again.runs), again.kept) == ([], False)


async def test_a_message_waits_for_its_wait_until_its_time_is_over(served: Served) -> None:
    kept = await served.events.PublishMessage(message("7", 1, ttl=seconds(60)))
    assert kept.kept
    first, second = await served.start("pay", {"order": "7"}), await served.start("pay", {"order": "7"})
    assert (await served.closed(first)).state == common_pb2.RUN_STATE_COMPLETED
    assert (await served.run(second)).state == common_pb2.RUN_STATE_WAITING  # one message, one wait
    await served.events.PublishMessage(message("9", 1, ttl=seconds(60)))
    served.advance(61)
    late = await served.start("pay", {"order": "9"})
    assert (await served.run(late)).state == common_pb2.RUN_STATE_WAITING
    await served.engine.sweeper.turn()
    assert not [key for key, _ in await served.dump() if keys.describe(key).startswith(("MESSAGE", "EXPIRY"))]


async def test_a_message_id_counts_once_while_it_is_kept(served: Served) -> None:
    await served.start("pay", {"order": "7"})
    await served.events.PublishMessage(message("7", 1, message_id="m1", ttl=seconds(60)))
    second = await served.start("pay", {"order": "7"})
    before = await served.dump()
    refusal = await refused(
        served.events.PublishMessage(message("7", 1, message_id="m1", ttl=seconds(60))), "MESSAGE_DUPLICATE"
    )
    assert refusal.metadata["message_id"] == "m1"
    assert await served.dump() == before
    served.advance(61)
    await served.events.PublishMessage(message("7", 1, message_id="m1"))
    assert (await served.closed(second)).state == common_pb2.RUN_STATE_COMPLETED


async def test_messages_that_are_refused(served: Served) -> None:
    await served.register(
        waiting("strict", wait={"signals": ["paid"], "correlate": "order", "schemas": {"paid": {"type": "number"}}})
    )
    run_id = await served.start("strict", {"order": "7"})
    before = await served.dump()
    await refused(served.events.PublishMessage(message("7", "text")), "SIGNAL_SCHEMA_MISMATCH")
    await refused(served.events.PublishMessage(message("")), "INVALID_FIELD")
    await refused(served.events.PublishMessage(message("7", b"{")), "INVALID_JSON")
    await refused(served.events.PublishMessage(message("7", namespace="nowhere")), "NAMESPACE_NOT_FOUND")
    assert await served.dump() == before
    await served.events.PublishMessage(message("7", 5))
    assert (await served.closed(run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def test_two_waits_of_a_run_are_told_apart_by_their_keys(served: Served) -> None:
    branches = {
        name: {"wait": {"signals": ["paid"], "correlate": name}, "output": f"got_{name}"} for name in ("left", "right")
    }
    state = {"parallel": {"branches": branches}, "next": "end"}
    await served.register({"workflow": "both", "initial": "go", "states": {"go": state, "end": {}}})
    run_id = await served.start("both", {"left": "L", "right": "R"})
    await served.events.PublishMessage(message("R", "right"))
    await served.events.PublishMessage(message("L", "left"))
    run = await served.closed(run_id)
    assert value(run.context["got_left"]) == {"paid": "left"}
    assert value(run.context["got_right"]) == {"paid": "right"}


# The outbox


async def test_the_outbox_is_read_in_order_and_read_on(served: Served) -> None:
    state = {"enter": [{"emit": {"name": "seen", "payload": {"n": "${n}"}}}, {"emit": "again"}]}
    await served.register({"workflow": "loud", "initial": "end", "states": {"end": state}})
    runs = [await served.start("loud", {"n": n}) for n in range(3)]
    events, token = [], ""
    while True:
        page = await served.events.ListOutbox(event_pb.ListOutboxRequest(page_size=2, page_token=token))
        events += page.events
        if not page.events:
            break
        token = page.next_page_token
    assert [(each.run.run_id, each.name) for each in events] == [
        (run_id, name) for run_id in runs for name in ("seen", "again")
    ]
    assert [value(each.payload) for each in events[::2]] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert len({(each.run.run_id, each.sequence) for each in events}) == 6
    await served.start("loud", {"n": 9})
    more = await served.events.ListOutbox(event_pb.ListOutboxRequest(page_token=token))
    assert len(more.events) == 2
    only = await served.events.ListOutbox(event_pb.ListOutboxRequest(run_id=runs[1]))
    assert {each.run.run_id for each in only.events} == {runs[1]}


# Queues and workers


async def test_a_queue_says_how_deep_it_is_and_who_can_work_on_it(served: Served) -> None:
    for _ in range(3):
        await served.start("task")
    served.advance(30)
    queue = await served.queues.DescribeQueue(queue_pb.DescribeQueueRequest())
    (backlog,) = queue.backlogs
    assert (backlog.runtime, backlog.queued, backlog.oldest_age.seconds, backlog.able_workers) == (
        "javascript", 3, 30, 0,
    )  # fmt: skip
    worker = await served.worker(lambda task: TestWorker.HOLD, credits=2)
    await worker.until(lambda: len(worker.held) == 2)
    queue = await served.queues.DescribeQueue(queue_pb.DescribeQueueRequest(queue="default"))
    assert (queue.leased, queue.workers, queue.backlogs[0].queued) == (2, 1, 1)
    assert queue.backlogs[0].able_workers == 1
    empty = await served.queues.DescribeQueue(queue_pb.DescribeQueueRequest(queue="nobody-used-it"))
    assert (len(empty.backlogs), empty.leased, empty.workers) == (0, 0, 0)


async def test_workers_are_listed_with_what_they_hold(served: Served) -> None:
    worker = await served.worker(lambda task: TestWorker.HOLD, name="b")
    await served.worker(lambda task: TestWorker.HOLD, name="a", queues=("other",))
    await served.start("task")
    await worker.until(lambda: bool(worker.held))
    listed = (await served.queues.ListWorkers(queue_pb.ListWorkersRequest())).workers
    assert [(each.worker_id, each.running) for each in listed] == [("a", 0), ("b", 1)]
    assert {runtime.name for runtime in listed[0].runtimes} == {"javascript", "wasm"}
    assert list(listed[0].handlers) == ["echo"]
    page = await served.queues.ListWorkers(queue_pb.ListWorkersRequest(page_size=1))
    rest = await served.queues.ListWorkers(queue_pb.ListWorkersRequest(page_token=page.next_page_token))
    assert [each.worker_id for each in (*page.workers, *rest.workers)] == ["a", "b"]
    by_queue = await served.queues.ListWorkers(queue_pb.ListWorkersRequest(queue="other"))
    assert [each.worker_id for each in by_queue.workers] == ["a"]
    await worker.vanish()
    gone = (await served.queues.ListWorkers(queue_pb.ListWorkersRequest(queue="default"))).workers
    assert [each.state for each in gone] == [queue_pb.Worker.STATE_DISCONNECTED]
