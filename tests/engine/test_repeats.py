"""The same mutating call with the same request id: one effect, one answer; with other arguments it is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import msgspec
import pytest

from tests.engine.documents import asking, instant, one_task, waiting
from tests.engine.served import DAY, SECOND, Served, payload, refused, seconds, serving
from windlass.engine import keys
from windlass.v1 import admin_service_pb2 as admin_pb
from windlass.v1 import definition_service_pb2 as definition_pb
from windlass.v1 import event_service_pb2 as event_pb
from windlass.v1 import human_task_service_pb2 as people_pb
from windlass.v1 import workflow_service_pb2 as pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        updates = {"rename": {"set": {"name": "${input}"}, "reply": "${input}"}}
        for document in (instant(), {**waiting(), "updates": updates}, one_task(), asking()):
            await engine.register(document)
        yield engine


class Call(NamedTuple):
    """A call to repeat: its stub, its request, and how to change an argument of it."""

    stub: Any
    request: Any
    change: Callable[[Any], None]


def changing(field: str, value: Any) -> Callable[[Any], None]:
    return lambda request: setattr(request, field, value)


async def start_run(served: Served) -> Call:
    request = pb.StartRunRequest(workflow="instant", metadata={"a": "b"})
    return Call(served.runs.StartRun, request, changing("priority", 3))


async def start_and_wait(served: Served) -> Call:
    request = pb.StartAndWaitRunRequest(start=pb.StartRunRequest(workflow="instant"))
    return Call(served.runs.StartAndWaitRun, request, lambda r: changing("queue", "other")(r.start))


async def signal_with_start(served: Served) -> Call:
    start = pb.StartRunRequest(workflow="wait", workflow_id="w")
    request = pb.SignalWithStartRunRequest(start=start, signal_name="other")
    return Call(served.runs.SignalWithStartRun, request, changing("signal_name", "go"))


async def start_task(served: Served) -> Call:
    request = pb.StartTaskRequest(runtime="javascript", inline=b"1")
    return Call(served.runs.StartTask, request, changing("queue", "q"))


async def fork_run(served: Served) -> Call:
    request = pb.ForkRunRequest(run_id=await served.start("instant"), state="end")
    return Call(served.runs.ForkRun, request, changing("new_workflow_id", "x"))


async def signal_run(served: Served) -> Call:
    request = pb.SignalRunRequest(run_id=await served.start("wait"), name="other", payload=payload(1))
    return Call(served.runs.SignalRun, request, changing("name", "more"))


async def update_run(served: Served) -> Call:
    request = pb.UpdateRunRequest(run_id=await served.start("wait"), name="rename", input=payload("x"))
    return Call(served.runs.UpdateRun, request, lambda r: r.input.CopyFrom(payload("y")))


async def resolve_wait(served: Served) -> Call:
    run_id = await served.start("wait")
    request = pb.ResolveWaitRequest(run_id=run_id, wait_id=(await served.run(run_id)).open_work[0].wait_id)
    return Call(served.runs.ResolveWait, request, changing("wait_id", "7:"))


async def cancel_run(served: Served) -> Call:
    return Call(
        served.runs.CancelRun, pb.CancelRunRequest(run_id=await served.start("wait")), changing("reason", "other")
    )


async def fail_run(served: Served) -> Call:
    return Call(served.runs.FailRun, pb.FailRunRequest(run_id=await served.start("wait")), changing("code", "OTHER"))


async def terminate_run(served: Served) -> Call:
    request = pb.TerminateRunRequest(run_id=await served.start("wait"))
    return Call(served.runs.TerminateRun, request, changing("reason", "other"))


async def pause_run(served: Served) -> Call:
    return Call(
        served.runs.PauseRun, pb.PauseRunRequest(run_id=await served.start("wait")), changing("reason", "other")
    )


async def unpause_run(served: Served) -> Call:
    run_id = await served.start("wait", workflow_id="w")
    await served.runs.PauseRun(pb.PauseRunRequest(run_id=run_id))
    return Call(served.runs.UnpauseRun, pb.UnpauseRunRequest(run_id=run_id), changing("workflow_id", "w"))


async def step_run(served: Served) -> Call:
    run_id = await served.start("wait", workflow_id="w", paused=True)
    return Call(served.runs.StepRun, pb.StepRunRequest(run_id=run_id), changing("workflow_id", "w"))


async def set_variables(served: Served) -> Call:
    request = pb.SetVariablesRequest(run_id=await served.start("wait"), values={"a": b"1"})
    return Call(served.runs.SetVariables, request, changing("by", "bob"))


async def delete_run(served: Served) -> Call:
    request = pb.DeleteRunRequest(run_id=await served.start("instant"))
    return Call(served.runs.DeleteRun, request, changing("run_id", "other"))


async def resolve_incident(served: Served) -> Call:
    state = {"transitions": [{"on": "success", "when": "got.nothing == 1", "to": None}]}
    document = waiting("stuck", **state)
    del document["states"]["hold"]["next"], document["states"]["end"]
    await served.register(document)
    run_id = await served.start("stuck")
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_id, name="go", payload=payload(1)))
    (incident,) = (await served.runs.ListIncidents(pb.ListIncidentsRequest(run_id=run_id))).incidents
    request = pb.ResolveIncidentRequest(run_id=run_id, incident_id=incident.incident_id, set={"got": b'{"nothing":1}'})
    return Call(served.runs.ResolveIncident, request, changing("by", "bob"))


async def register_definition(served: Served) -> Call:
    request = definition_pb.RegisterDefinitionRequest(document=msgspec.json.encode(instant("fresh")))
    return Call(served.definitions.RegisterDefinition, request, changing("set_default", False))


async def set_default_revision(served: Served) -> Call:
    revision = await served.register(instant("two"))
    await served.register(instant("two", description="newer"))
    request = definition_pb.SetDefaultRevisionRequest(workflow="two", revision=revision)
    return Call(served.definitions.SetDefaultRevision, request, changing("revision", "f" * 64))


async def delete_definition(served: Served) -> Call:
    request = definition_pb.DeleteDefinitionRequest(workflow="instant")
    return Call(served.definitions.DeleteDefinition, request, changing("workflow", "wait"))


async def reply_escalation(served: Served) -> Call:
    await served.start("ask", {"order": 1})
    (question,) = (await served.people.ListEscalations(people_pb.ListEscalationsRequest())).escalations
    request = people_pb.ReplyEscalationRequest(escalation_id=question.escalation_id, approved=True)
    return Call(served.people.ReplyEscalation, request, changing("approved", False))


async def cancel_escalation(served: Served) -> Call:
    await served.start("ask", {"order": 1})
    (question,) = (await served.people.ListEscalations(people_pb.ListEscalationsRequest())).escalations
    request = people_pb.CancelEscalationRequest(escalation_id=question.escalation_id)
    return Call(served.people.CancelEscalation, request, changing("reason", "other"))


async def publish_message(served: Served) -> Call:
    request = event_pb.PublishMessageRequest(name="paid", correlation_key="7", ttl=seconds(60))
    return Call(served.events.PublishMessage, request, changing("correlation_key", "8"))


async def create_namespace(served: Served) -> Call:
    request = admin_pb.CreateNamespaceRequest(namespace=admin_pb.Namespace(name="team"))
    return Call(served.admin.CreateNamespace, request, lambda r: changing("description", "x")(r.namespace))


async def update_namespace(served: Served) -> Call:
    created = await served.admin.CreateNamespace(
        admin_pb.CreateNamespaceRequest(namespace=admin_pb.Namespace(name="team"))
    )
    etag = created.namespace.etag
    request = admin_pb.UpdateNamespaceRequest(namespace=admin_pb.Namespace(name="team", description="x", etag=etag))
    return Call(served.admin.UpdateNamespace, request, lambda r: changing("description", "y")(r.namespace))


async def advance_time(served: Served) -> Call:
    namespace = admin_pb.Namespace(name="sim", virtual_time=True)
    await served.admin.CreateNamespace(admin_pb.CreateNamespaceRequest(namespace=namespace))
    request = admin_pb.AdvanceTimeRequest(namespace="sim", by=seconds(60))
    return Call(served.admin.AdvanceTime, request, lambda r: r.by.CopyFrom(seconds(61)))


CALLS = [
    start_run, start_and_wait, signal_with_start, start_task, fork_run, signal_run, update_run, resolve_wait,
    cancel_run, fail_run, terminate_run, pause_run, unpause_run, step_run, set_variables, delete_run,
    resolve_incident, register_definition, set_default_revision, delete_definition, reply_escalation, cancel_escalation,
    publish_message, create_namespace, update_namespace, advance_time,
]  # fmt: skip


def give_id(call: Call, request_id: str) -> None:
    (call.request.start if hasattr(call.request, "start") else call.request).request_id = request_id


def plain(response: Any) -> Any:
    """The answer without what tells a repetition from the first call."""
    for name in ("created", "duplicate", "fired"):
        if name in response.DESCRIPTOR.fields_by_name:
            response.ClearField(name)
    return response


@pytest.mark.parametrize("make", CALLS, ids=lambda make: make.__name__)
async def test_a_repeated_request_does_nothing_more_and_gets_the_same_answer(
    served: Served, make: Callable[[Served], Any]
) -> None:
    call = await make(served)
    give_id(call, "r-1")
    first = plain(await call.stub(call.request))
    before = await served.dump()
    assert plain(await call.stub(call.request)) == first
    assert await served.dump() == before


@pytest.mark.parametrize("make", CALLS, ids=lambda make: make.__name__)
async def test_a_request_id_with_other_arguments_is_refused(served: Served, make: Callable[[Served], Any]) -> None:
    call = await make(served)
    give_id(call, "r-1")
    await call.stub(call.request)
    call.change(call.request)
    before = await served.dump()
    refusal = await refused(call.stub(call.request), "REQUEST_ID_REUSED")
    assert refusal.metadata["request_id"] == "r-1"
    assert await served.dump() == before


async def test_a_request_id_belongs_to_one_call(served: Served) -> None:
    run_id = await served.start("wait")
    await served.runs.PauseRun(pb.PauseRunRequest(run_id=run_id, request_id="r"))
    await refused(served.runs.UnpauseRun(pb.UnpauseRunRequest(run_id=run_id, request_id="r")), "REQUEST_ID_REUSED")


async def test_every_call_with_a_request_id_is_in_the_list(served: Served) -> None:
    modules = [pb, definition_pb, people_pb, event_pb, admin_pb]
    named = {
        name.removesuffix("Request")
        for module in modules
        for name, message in module.DESCRIPTOR.message_types_by_name.items()
        if name.endswith("Request") and "request_id" in message.fields_by_name
    }
    listed = {make.__name__.replace("_", "") for make in CALLS}
    assert {name.lower() for name in named} <= listed


async def test_answers_are_forgotten_after_their_day(served: Served) -> None:
    call = await set_variables(served)
    give_id(call, "r-1")
    await call.stub(call.request)
    served.advance(2 * DAY / SECOND)
    await served.engine.sweeper.turn()
    assert not [key for key, _ in await served.dump() if keys.describe(key).startswith(("REQUEST", "EXPIRY"))]
    await call.stub(call.request)
