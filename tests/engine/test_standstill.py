"""Runs that stand still: incidents and their repair, and why any run does not move."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.cluster import Failing, TestWorker
from tests.engine.documents import asking, delayed, instant, one_task, waiting
from tests.engine.served import Served, payload, refused, seconds, serving, value
from windlass.v1 import common_pb2, worker_service_pb2
from windlass.v1 import workflow_service_pb2 as pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        for document in (instant(), waiting(), one_task(), delayed("1h"), asking()):
            await engine.register(document)
        yield engine


# Incidents


async def stuck(served: Served) -> tuple[str, str]:
    """A run parked because its guard divides by zero: its id and the incident's."""
    document = waiting("divide", transitions=[{"on": "success", "when": "1 / got.go == 1", "to": "end"}])
    del document["states"]["hold"]["next"]
    await served.register(document)
    run_id = await served.start("divide")
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_id, name="go", payload=payload(0)))
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_INCIDENT
    (incident,) = (await served.runs.ListIncidents(pb.ListIncidentsRequest(run_id=run_id))).incidents
    assert "1 / got.go == 1" in incident.message or "division" in incident.message.lower()
    return run_id, str(incident.incident_id)


async def test_a_guard_that_divides_by_zero_is_an_incident_and_goes_on_when_repaired(served: Served) -> None:
    run_id, incident_id = await stuck(served)
    request = pb.ResolveIncidentRequest(run_id=run_id, incident_id=incident_id, set={"got": b'{"go":1}'}, by="bob")
    await served.runs.ResolveIncident(request)
    assert (await served.closed(run_id)).state == common_pb2.RUN_STATE_COMPLETED
    assert not (await served.runs.ListIncidents(pb.ListIncidentsRequest())).incidents


async def test_incidents_that_are_not_open_cannot_be_resolved(served: Served) -> None:
    run_id, incident_id = await stuck(served)
    for wrong, reason in (("x:9", "INCIDENT_NOT_FOUND"), (incident_id + "9", "INCIDENT_NOT_FOUND")):
        before = await served.dump()
        request = pb.ResolveIncidentRequest(run_id=run_id, incident_id=wrong)
        await refused(served.runs.ResolveIncident(request), reason)
        assert await served.dump() == before


async def failed_task(served: Served, action: Any, **more: Any) -> pb.Run:
    document = one_task("park", retry={"max_attempts": 1})
    await served.register({**document, "on_unhandled": "incident"})
    worker = await served.worker(_fail_once())
    run_id = await served.start("park")
    await served.in_state(run_id, common_pb2.RUN_STATE_INCIDENT)
    (incident,) = (await served.runs.ListIncidents(pb.ListIncidentsRequest(workflow="park"))).incidents
    request = pb.ResolveIncidentRequest(run_id=run_id, incident_id=incident.incident_id, action=action, **more)
    await served.runs.ResolveIncident(request)
    run = await served.closed(run_id)
    await worker.vanish()
    return run


def _fail_once() -> Any:
    answers = iter([Failing("BROKEN"), "fixed"])

    def handler(task: object) -> Any:
        answer = next(answers)
        if isinstance(answer, Failing):
            raise answer
        return answer

    return handler


async def test_an_incident_is_retried_skipped_or_failed(served: Served) -> None:
    kind = pb.ResolveIncidentRequest
    retried = await failed_task(served, kind.ACTION_RETRY)
    assert value(retried.context["done"]) == "fixed"
    skipped = await failed_task(served, kind.ACTION_SKIP, output=payload("by hand"))
    assert value(skipped.context["done"]) == "by hand"
    failed = await failed_task(served, kind.ACTION_FAIL)
    assert (failed.state, failed.failure.code) == (common_pb2.RUN_STATE_FAILED, "BROKEN")


# Why it does not move


async def why(served: Served, run_id: str) -> tuple[list[str], str]:
    response = await served.runs.ExplainRun(pb.ExplainRunRequest(run_id=run_id))
    return [each.kind for each in response.explanations], " ".join(
        f"{each.summary} {each.advice}" for each in response.explanations
    )


async def test_why_a_queued_task_does_not_run(served: Served) -> None:
    run_id = await served.start("task")
    kinds, text = await why(served, run_id)
    assert kinds == ["queued"]
    assert "no worker is connected" in text
    stranger = await served.worker(lambda task: 1, queues=("other",))
    assert "no worker serves queue 'default'" in (await why(served, run_id))[1]
    await served.register(one_task("foreign", task={"runtime": "python", "handler": "rare"}))
    foreign = await served.start("foreign", queue="other")
    assert "'python:rare'" in (await why(served, foreign))[1]
    await stranger.vanish()
    lacking = (await why(served, foreign))[1]
    assert "windlass worker --queue other --handlers MODULE, a module that registers 'rare'" in lacking
    busy = await served.worker(lambda task: TestWorker.HOLD, name="busy", credits=1)
    await busy.until(lambda: bool(busy.held))
    assert (await why(served, run_id))[0] == ["leased"]
    assert "busy" in (await why(served, await served.start("task")))[1]


async def test_a_worker_that_stops_is_not_called_busy() -> None:
    async with serving() as served:
        await served.register(one_task())
        worker = await served.worker(lambda task: TestWorker.HOLD)
        await served.start("task")
        await worker.until(lambda: bool(worker.held))
        worker.link.receive(worker_service_pb2.StreamTasksRequest(drain=True))
        text = (await why(served, await served.start("task")))[1]
        assert "every worker that is there stops or is cut off" in text
        assert "start one: windlass worker --queue default" in text
        await worker.vanish()
        assert "stops or is cut off" in (await why(served, await served.start("task")))[1]


async def test_a_task_of_a_worker_that_is_gone_says_what_comes_of_it() -> None:
    async with serving(lease_us=6_000_000) as served:
        await served.register(one_task())
        worker = await served.worker(lambda task: TestWorker.HOLD)
        run_id = await served.start("task")
        await worker.until(lambda: bool(worker.held))
        assert "silent" not in (await why(served, run_id))[1]
        served.clock.at_us += 5_000_000
        assert "silent for 5 s: unless it comes back, the task goes to others in 1 s" in (await why(served, run_id))[1]
        await worker.link.close()
        assert "not connected: unless it comes back" in (await why(served, run_id))[1]


async def test_a_queued_task_knows_its_place(served: Served) -> None:
    first, second = await served.start("task"), await served.start("task")
    assert "it is the next in its queue" in (await why(served, first))[1]
    assert "tasks before it in its queue: 1" in (await why(served, second))[1]
    urgent = await served.start("task", priority=9)
    assert "it is the next in its queue" in (await why(served, urgent))[1]
    assert "tasks before it in its queue: 2" in (await why(served, second))[1]
    elsewhere = await served.start("task", queue="other")
    assert "it is the next in its queue" in (await why(served, elsewhere))[1]


async def test_why_other_runs_stand_still(served: Served) -> None:
    assert (await why(served, await served.start("wait")))[0] == ["signal"]
    assert (await why(served, await served.start("delay")))[0] == ["timer"]
    assert (await why(served, await served.start("ask", {"order": 1})))[0] == ["escalation"]
    assert (await why(served, await served.start("instant", start_delay=seconds(60))))[0] == ["delayed_start"]
    paused = await served.start("wait")
    await served.runs.PauseRun(pb.PauseRunRequest(run_id=paused, reason="audit"))
    kinds, text = await why(served, paused)
    assert "paused" in kinds
    assert "audit" in text
    assert "incident" in (await why(served, (await stuck(served))[0]))[0]
    await served.register(one_task("flaky", retry={"initial_delay": "1h", "max_delay": "2h", "jitter": 0}))

    def fail(task: object) -> Any:
        raise Failing("FLAKY")

    await served.worker(fail)
    flaky = await served.start("flaky")
    await served.watch(flaky, lambda message: any(event.type == "AttemptEnded" for event in message.events))
    assert (await why(served, flaky))[0] == ["backoff"]
    response = await served.runs.ExplainRun(pb.ExplainRunRequest(run_id=flaky))
    assert response.explanations[0].HasField("due_time")
    closed = await served.start("instant")
    assert (await why(served, closed))[0] == []
    await refused(served.runs.ExplainRun(pb.ExplainRunRequest(run_id="f" * 32)), "RUN_NOT_FOUND")
