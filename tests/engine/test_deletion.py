"""A deleted run leaves nothing of its own behind, and what would be left is seen by the deep check."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.cluster import TestWorker
from tests.engine.documents import Document, asking
from tests.engine.served import Served, payload, seconds, serving
from windlass.engine import keys, run_rows
from windlass.engine.checking import check_store
from windlass.engine.records import EscalationRecord, OutboxRecord, pack
from windlass.engine.unit import Unit
from windlass.v1 import event_service_pb2 as event_pb
from windlass.v1 import human_task_service_pb2 as people_pb
from windlass.v1 import workflow_service_pb2 as pb

#: Rows that outlive a run by design, each with a time to live or a number of its own.
LASTING = (
    "DEFINITION",
    "REVISION",
    "MODULE",
    "SESSION",
    "STEP_TYPE",
    "ENGINE",
    "OPEN",
    "REQUEST",
    "EXPIRY",
    "BUMP",
    "MESSAGE",
)


def emitting(count: int) -> Document:
    """A run that puts this many events into the outbox, and closes in the transaction that starts it."""
    emits = [{"emit": {"name": f"e{number}", "payload": {"n": number}}} for number in range(count)]
    return {"workflow": "emit", "initial": "a", "states": {"a": {"enter": emits, "next": "end"}, "end": {}}}


def waits() -> Document:
    """A run with a map, a buffered signal, a correlated wait, a question and a timer at the same time."""
    branches: dict[str, Any] = {
        "paid": {"wait": {"signals": ["paid"], "correlate": "order"}},
        "ask": {"escalate": {"to": "alice", "message": "?"}},
        "late": {"delay": "1h"},
        "work": {"task": {"runtime": "javascript", "code": "1"}},
    }
    return {
        "workflow": "all",
        "initial": "a",
        "states": {"a": {"parallel": {"branches": branches}, "next": "end"}, "end": {}},
    }


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        for document in (waits(), asking(), emitting(50)):
            await engine.register(document)
        yield engine


async def left_by(served: Served) -> list[str]:
    rows = [keys.describe(key) for key, _ in await served.dump()]
    return [row for row in rows if not row.startswith(LASTING)]


async def delete(served: Served, run_id: str) -> None:
    await served.runs.DeleteRun(pb.DeleteRunRequest(run_id=run_id))


async def test_a_run_that_was_in_the_middle_of_everything_is_deleted_whole(served: Served) -> None:
    run_id = await served.start("all", {"order": "7"}, workflow_id="order-7", idempotency_key="k")
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_id, name="early", payload=payload("x" * 150_000)))
    assert {row.split("(")[0] for row in await left_by(served)} >= {
        "RUN", "EVENTS", "INBOX", "LISTING", "WORKFLOW_ID", "QUEUE", "TIMER", "ESCALATION", "SUBSCRIPTION", "OUTBOX",
    }  # fmt: skip
    await served.runs.TerminateRun(pb.TerminateRunRequest(run_id=run_id))
    assert await check_store(served.engine.storage, settled=True) == []
    await delete(served, run_id)
    assert await left_by(served) == []
    assert await check_store(served.engine.storage, settled=True) == []


async def test_answered_questions_go_with_their_run(served: Served) -> None:
    run_id = await served.start("ask", {"order": 7})
    (asked,) = (await served.people.ListEscalations(people_pb.ListEscalationsRequest())).escalations
    reply = people_pb.ReplyEscalationRequest(escalation_id=asked.escalation_id, approved=True, values=payload({}))
    await served.people.ReplyEscalation(reply)
    await served.closed(run_id)
    await delete(served, run_id)
    assert await left_by(served) == []


async def test_a_run_that_was_worked_on_leaves_no_progress(served: Served) -> None:
    worker = await served.worker(lambda task: TestWorker.HOLD)
    run_id = await served.start("all", {"order": "7"})
    await worker.until(lambda: bool(worker.held))
    served.engine.notices.progressed(("default", run_id, 1, "work", 1), b"0.5", 1)
    await served.runs.TerminateRun(pb.TerminateRunRequest(run_id=run_id))
    await worker.vanish()
    await delete(served, run_id)
    assert served.engine.notices.progress == {}
    assert await left_by(served) == []


async def test_many_outbox_rows_go_little_by_little(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_rows.clear_emitted, "__defaults__", (7,))
    deleted, kept = [await served.start("emit") for _ in range(2)]
    await served.closed(deleted)
    await delete(served, deleted)
    assert await check_store(served.engine.storage) == []  # what is left waits for the sweeper
    await served.engine.sweeper.turn()
    events = (await served.events.ListOutbox(event_pb.ListOutboxRequest(page_size=100))).events
    assert {event.run.run_id for event in events} == {kept}
    assert len(events) == 50
    await delete(served, kept)
    await served.engine.sweeper.turn()
    assert await left_by(served) == []
    assert [row for row in await served.dump() if "emitted" in keys.describe(row[0])] == []


async def test_a_message_kept_for_others_outlives_the_run_that_got_it(served: Served) -> None:
    message = event_pb.PublishMessageRequest(
        name="paid", correlation_key="7", message_id="m", payload=payload(1), ttl=seconds(60)
    )
    run_id = await served.start("all", {"order": "7"})
    await served.events.PublishMessage(message)
    await served.runs.TerminateRun(pb.TerminateRunRequest(run_id=run_id))
    await delete(served, run_id)
    rows = [keys.describe(key) for key, _ in await served.dump()]
    assert sum(row.startswith("MESSAGE") for row in rows) == 1  # so that the same message id is refused
    served.advance(61)
    await served.engine.sweeper.turn()
    assert not any(keys.describe(key).startswith("MESSAGE") for key, _ in await served.dump())


async def test_the_deep_check_tells_what_a_deletion_forgot(served: Served) -> None:
    def forget(unit: Unit) -> None:
        question = EscalationRecord("default", "gone:1:", "gone", "w", "approved", b"{}", 0)
        unit.tr.set(keys.escalations("default", "approved", "gone:1:"), pack(question))
        unit.tr.set(keys.subscription("default", "paid", "7", "gone", "1:"), b"")
        unit.tr.set(keys.workflow_id("default", "order-7"), b"gone")
        event = pack(OutboxRecord("gone", 1, "e", b"1", 0))
        unit.tr.set_versionstamped_key(keys.outbox("default") + b"\x33", b"\x00\x01", b"\x00" + event)
        unit.tr.set_versionstamped_key(keys.emitted("default", "run") + b"\x33", b"\x00\x02", b"")

    async def body(unit: Unit) -> None:
        forget(unit)

    await served.engine.transition.run(body)
    problems = "\n".join(await check_store(served.engine.storage))
    for sign in ("has answered rows", "is subscribed to", "order-7 belongs to", "has outbox rows", "no outbox row"):
        assert sign in problems
