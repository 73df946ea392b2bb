"""What a run refuses, and its end: variables, deletion, closed runs, runs that are not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.documents import instant, waiting
from tests.engine.served import Served, payload, refused, seconds, serving, value
from windlass.v1 import common_pb2, definition_service_pb2
from windlass.v1 import workflow_service_pb2 as pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        for document in (instant(), waiting()):
            await engine.register(document)
        yield engine


async def signal(served: Served, run_id: str, name: str) -> None:
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_id, name=name, payload=payload(None)))


async def test_variables_of_an_open_run_are_set_and_recorded(served: Served) -> None:
    run_id = await served.start("wait")
    await served.runs.SetVariables(pb.SetVariablesRequest(run_id=run_id, values={"a": b"[1]"}, by="bob"))
    assert value((await served.run(run_id)).context["a"]) == [1]
    history = await served.runs.GetHistory(pb.GetHistoryRequest(run_id=run_id, view=pb.VIEW_FULL))
    assert any(b"bob" in event.attributes for event in history.events)


@pytest.mark.parametrize(
    ("values", "reason"), [({"a": b"{"}, "INVALID_JSON"), ({"a": b'"' + b"x" * 2_000_000 + b'"'}, "CONTEXT_TOO_LARGE")]
)
async def test_variables_that_are_refused_change_nothing(served: Served, values: Any, reason: str) -> None:
    run_id = await served.start("wait")
    before = await served.dump()
    await refused(served.runs.SetVariables(pb.SetVariablesRequest(run_id=run_id, values=values)), reason)
    assert await served.dump() == before


async def test_a_deleted_run_leaves_nothing(served: Served) -> None:
    empty = await served.dump()
    run_id = await served.start("wait", {"a": "x" * 300_000})
    await refused(served.runs.DeleteRun(pb.DeleteRunRequest(run_id=run_id)), "RUN_OPEN")
    await signal(served, run_id, "unread")
    await signal(served, run_id, "go")
    await served.runs.DeleteRun(pb.DeleteRunRequest(run_id=run_id))
    await refused(served.run(run_id), "RUN_NOT_FOUND")
    await refused(served.runs.DeleteRun(pb.DeleteRunRequest(run_id=run_id)), "RUN_NOT_FOUND")
    left = [key for key, _ in await served.dump() if key not in dict(empty)]
    assert [key for key in left if run_id.encode() in key] == []


async def test_a_closed_run_can_be_read_and_deleted_after_its_definition(served: Served) -> None:
    run_id = await served.start("instant")
    await served.definitions.DeleteDefinition(definition_service_pb2.DeleteDefinitionRequest(workflow="instant"))
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_COMPLETED
    await refused(signal(served, run_id, "go"), "RUN_CLOSED")
    explained = await served.runs.ExplainRun(pb.ExplainRunRequest(run_id=run_id))
    assert explained.run.state == common_pb2.RUN_STATE_COMPLETED
    await served.runs.DeleteRun(pb.DeleteRunRequest(run_id=run_id))


# What every call refuses


def calls(run_id: str) -> dict[str, Any]:
    """Every call that changes an open run."""
    about: dict[str, Any] = {"run_id": run_id}
    return {
        "SignalRun": pb.SignalRunRequest(name="x", **about),
        "UpdateRun": pb.UpdateRunRequest(name="limit", **about),
        "ResolveWait": pb.ResolveWaitRequest(wait_id="1:", **about),
        "FailRun": pb.FailRunRequest(**about),
        "TerminateRun": pb.TerminateRunRequest(**about),
        "PauseRun": pb.PauseRunRequest(**about),
        "UnpauseRun": pb.UnpauseRunRequest(**about),
        "SetVariables": pb.SetVariablesRequest(values={"a": b"1"}, **about),
        "ResolveIncident": pb.ResolveIncidentRequest(incident_id="x:1", **about),
    }


@pytest.mark.parametrize("method", calls(""))
async def test_a_closed_run_takes_nothing(served: Served, method: str) -> None:
    run_id = await served.start("instant")
    before = await served.dump()
    refusal = await refused(getattr(served.runs, method)(calls(run_id)[method]), "RUN_CLOSED")
    assert refusal.metadata["state"] == "completed"
    assert await served.dump() == before


@pytest.mark.parametrize("method", [*calls(""), "CancelRun"])
async def test_a_run_that_is_not_there_takes_nothing(served: Served, method: str) -> None:
    request = {**calls("f" * 32), "CancelRun": pb.CancelRunRequest(run_id="f" * 32)}[method]
    refusal = await refused(getattr(served.runs, method)(request), "RUN_NOT_FOUND")
    assert refusal.metadata["run_id"] == "f" * 32
    request.run_id = ""
    await refused(getattr(served.runs, method)(request), "INVALID_FIELD")


async def test_a_run_is_found_by_its_workflow_id(served: Served) -> None:
    first = await served.start("wait", workflow_id="w")
    await served.runs.SignalRun(pb.SignalRunRequest(workflow_id="w", name="go"))
    await served.closed(first)
    second = await served.start("wait", workflow_id="w")
    found = await served.runs.GetRun(pb.GetRunRequest(workflow_id="w"))
    assert found.run.ref.run_id == second
    await refused(served.runs.GetRun(pb.GetRunRequest(workflow_id="nobody")), "RUN_NOT_FOUND")


async def test_a_wait_that_is_over_by_time_takes_its_route(served: Served) -> None:
    late = [{"on": "success", "to": "end"}, {"on": "timeout", "to": "late"}]
    document = waiting("slow", timeout="7d", transitions=late)
    del document["states"]["hold"]["next"]
    document["states"]["late"] = {}
    await served.register(document)
    run_id = await served.start("slow")
    served.advance(7 * 86_400 - 1)
    await served.engine.timers.turn()
    assert (await served.run(run_id)).current_state == "hold"
    served.advance(2)
    assert (await served.closed(run_id)).current_state == "late"


async def test_the_wait_of_a_call_is_capped_by_what_it_asks(served: Served) -> None:
    run_id = await served.start("wait")
    request = pb.WaitRunRequest(run_id=run_id, wait_timeout=seconds(-1))
    await refused(served.runs.WaitRun(request), "INVALID_FIELD")
