"""Rows beside a run's record that may be large too: questions to people, kept messages, incidents, work put off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.engine.documents import asking, waiting
from tests.engine.served import DAY, SECOND, Served, payload, seconds, serving, value
from windlass.engine import keys
from windlass.engine.checking import check_store
from windlass.engine.core.commands import RaiseIncident, Signal
from windlass.engine.unit import Unit
from windlass.storage.memory import MemoryWorld
from windlass.storage.opening import open_embedded
from windlass.v1 import common_pb2
from windlass.v1 import event_service_pb2 as event_pb
from windlass.v1 import human_task_service_pb2 as people_pb
from windlass.v1 import workflow_service_pb2 as run_pb

BIG = "x" * 150_000


@pytest.fixture(params=["memory", "embedded"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    store = open_embedded(tmp_path) if request.param == "embedded" else MemoryWorld().open(shared=False)
    async with serving(store) as engine:
        await engine.register(waiting())
        await engine.register(waiting("pay", wait={"signals": ["paid"], "correlate": "order"}))
        await engine.register(asking())
        yield engine
        assert await check_store(store) == []


async def questions(served: Served, **by: object) -> list[people_pb.Escalation]:
    request = people_pb.ListEscalationsRequest(page_size=1, **by)  # type: ignore[arg-type]
    found: list[people_pb.Escalation] = []
    while True:
        page = await served.people.ListEscalations(request)
        found += page.escalations
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_a_long_question_and_a_long_answer(served: Served) -> None:
    runs = [await served.start("ask", {"order": BIG + name}) for name in "ab"]
    asked = await questions(served)
    assert [each.run.run_id for each in asked] == runs
    assert [each.message for each in asked] == [f"Approve {BIG}{name}?" for name in "ab"]
    answer = people_pb.ReplyEscalationRequest(
        escalation_id=asked[0].escalation_id, approved=True, values=payload({"note": BIG}), request_id="once"
    )
    first, again = [await served.people.ReplyEscalation(answer) for _ in range(2)]
    assert first == again
    assert value((await served.closed(runs[0])).context["decision"]) == {"note": BIG}
    (closed,) = await questions(served, state=people_pb.ESCALATION_STATE_APPROVED)
    assert value(closed.values) == {"note": BIG}
    assert [each.run.run_id for each in await questions(served)] == runs[1:]
    await served.runs.DeleteRun(run_pb.DeleteRunRequest(run_id=runs[0]))
    served.advance(2 * DAY / SECOND)
    await served.engine.sweeper.turn()
    left = [key for key, _ in await served.dump() if keys.describe(key).startswith(("ESCALATION", "REQUEST"))]
    assert all(runs[1] in keys.describe(key) for key in left)


async def test_large_messages_are_kept_for_the_waits_that_come(served: Served) -> None:
    def message(number: int) -> event_pb.PublishMessageRequest:
        return event_pb.PublishMessageRequest(
            name="paid",
            correlation_key="7",
            message_id=f"m{number}",
            payload=payload(f"{BIG}{number}"),
            ttl=seconds(60),
        )

    for number in range(3):
        assert (await served.events.PublishMessage(message(number))).kept
    for number in range(2):
        run = await served.closed(await served.start("pay", {"order": "7"}))
        assert value(run.context["got"]) == {"paid": f"{BIG}{number}"}
    served.advance(61)
    assert (await served.events.PublishMessage(message(2))).kept  # over the old one, which is not swept yet
    served.advance(61)
    await served.engine.sweeper.turn()
    assert [key for key, _ in await served.dump() if keys.describe(key).startswith("MESSAGE")] == []


async def test_an_incident_with_a_long_message_is_listed_and_repaired(served: Served) -> None:
    run_id = await served.start("wait")
    await served.engine.transition.give("default", run_id, RaiseIncident(code="BROKEN", message=BIG))
    (incident,) = (await served.runs.ListIncidents(run_pb.ListIncidentsRequest())).incidents
    assert (incident.code, incident.message) == ("BROKEN", BIG[:8000])
    await served.in_state(run_id, common_pb2.RUN_STATE_INCIDENT)
    action = run_pb.ResolveIncidentRequest.ACTION_FAIL
    await served.runs.ResolveIncident(
        run_pb.ResolveIncidentRequest(run_id=run_id, incident_id=incident.incident_id, action=action)
    )
    assert (await served.closed(run_id)).failure.message == BIG


async def test_large_work_put_off_is_done_later_and_leaves_nothing(served: Served) -> None:
    runs = [await served.start("wait") for _ in range(2)]

    async def put_off(unit: Unit) -> None:
        for run_id in runs:
            unit.put_off("default", run_id, Signal(name="go", payload=payload(BIG).data))

    await served.engine.transition.run(put_off)
    for run_id in runs:
        assert value((await served.closed(run_id)).context["got"]) == {"go": BIG}
    assert [key for key, _ in await served.dump() if keys.describe(key).startswith("TIMER")] == []


async def test_a_request_id_is_used_again_before_its_expired_answer_is_swept(served: Served) -> None:
    """The old answer's parts go with it, or the new one cannot be read, nor the store be swept any more."""
    answers = []
    for note in (BIG * 2, BIG):
        await served.start("ask", {"order": 1})
        (asked,) = await questions(served, state=people_pb.ESCALATION_STATE_OPEN)
        answers.append(
            people_pb.ReplyEscalationRequest(
                escalation_id=asked.escalation_id, approved=True, values=payload({"note": note}), request_id="once"
            )
        )
        await served.engine.sweeper.stop()
        served.advance(2 * DAY / SECOND)
        first, again = [await served.people.ReplyEscalation(answers[-1]) for _ in range(2)]
        assert first == again
    served.advance(2 * DAY / SECOND)
    await served.engine.sweeper.turn()
    assert not [key for key, _ in await served.dump() if keys.describe(key).startswith(("REQUEST", "EXPIRY"))]


async def test_a_question_that_is_asked_again_has_one_answer_the_last(served: Served) -> None:
    """A retried step asks under the same id; what was kept of the first answer must not get into the second."""
    document = {**asking("again"), "on_unhandled": "incident"}
    states = document["states"]
    document["states"] = {"ask": {**states["ask"], "transitions": [{"on": "approved", "to": "yes"}]}, "yes": {}}
    await served.register(document)
    run_id = await served.start("again", {"order": BIG})
    for note, approved in ((BIG, False), ("short", False), ("at last", True)):
        (asked,) = await questions(served, state=people_pb.ESCALATION_STATE_OPEN)
        reply = people_pb.ReplyEscalationRequest(
            escalation_id=asked.escalation_id, approved=approved, values=payload({"note": note})
        )
        answered = (await served.people.ReplyEscalation(reply)).escalation
        assert value(answered.values) == {"note": note}
        for incident in (await served.runs.ListIncidents(run_pb.ListIncidentsRequest(run_id=run_id))).incidents:
            again = run_pb.ResolveIncidentRequest(run_id=run_id, incident_id=incident.incident_id)
            again.action = run_pb.ResolveIncidentRequest.ACTION_RETRY
            await served.runs.ResolveIncident(again)
    assert (await served.closed(run_id)).state == common_pb2.RUN_STATE_COMPLETED
    assert await questions(served, state=people_pb.ESCALATION_STATE_REJECTED) == []
