"""One step at a time, over real sockets: what a debugger would ask of an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engine.served import Served, refused, serving, value
from windlass.v1 import common_pb2
from windlass.v1 import workflow_service_pb2 as pb

TWO = {
    "workflow": "two",
    "initial": "one",
    "states": {
        "one": {"task": {"runtime": "python", "handler": "echo"}, "output": "first", "next": "two"},
        "two": {"enter": [{"set": {"seen": "${first}"}}], "wait": {"signals": ["go"]}, "next": "end"},
        "end": {},
    },
}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        yield engine


async def step(served: Served, run_id: str, **more: str) -> pb.StepRunResponse:
    response: pb.StepRunResponse = await served.runs.StepRun(pb.StepRunRequest(run_id=run_id, **more))
    return response


async def explained(served: Served, run_id: str) -> dict[str, str]:
    response = await served.runs.ExplainRun(pb.ExplainRunRequest(run_id=run_id))
    return {each.kind: each.summary for each in response.explanations}


async def test_a_run_started_paused_does_one_state_a_step(served: Served) -> None:
    await served.register(TWO)
    worker = await served.worker(lambda task: 7)
    run_id = await served.start("two", paused=True)
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_PAUSED
    assert not worker.seen
    begun = await step(served, run_id)
    assert begun.current_state == "one"
    await served.in_state(run_id, common_pb2.RUN_STATE_PAUSED)
    run = await served.run(run_id)
    assert (run.current_state, value(run.context["first"])) == ("two", 7)
    assert "seen" not in run.context, "nothing of the next state is done"
    assert "before state 'two' begins" in (await explained(served, run_id))["paused"]
    edit = pb.SetVariablesRequest(run_id=run_id, values={"first": b"8"})
    await served.runs.SetVariables(edit)
    assert (await step(served, run_id)).state == common_pb2.RUN_STATE_WAITING
    assert value((await served.run(run_id)).context["seen"]) == 8, "a step sees what was edited before it"


async def test_a_step_lasts_as_long_as_its_state_and_shows_in_history_and_explain(served: Served) -> None:
    await served.register(TWO)
    await served.worker(lambda task: 7)
    run_id = await served.start("two", paused=True)
    await step(served, run_id)
    await served.in_state(run_id, common_pb2.RUN_STATE_PAUSED)
    second = await step(served, run_id, request_id="r2")
    assert set(await explained(served, run_id)) == {"stepping", "signal"}
    await refused(served.runs.StepRun(pb.StepRunRequest(run_id=run_id)), "RUN_NOT_PAUSED")
    assert (await step(served, run_id, request_id="r2")) == second, "the same request is the same step"
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_id, name="go"))
    assert (await served.run(run_id)).current_state == "end"
    history = await served.runs.GetHistory(pb.GetHistoryRequest(run_id=run_id))
    types = [event.type for event in history.events]
    assert types[second.event_number - 1] == "RunStepped"
    assert types[-1] == "RunPaused"
    assert (await step(served, run_id)).state == common_pb2.RUN_STATE_COMPLETED
    await refused(served.runs.StepRun(pb.StepRunRequest(run_id=run_id)), "RUN_CLOSED")


@pytest.mark.parametrize("method", ["UnpauseRun", "PauseRun"])
async def test_a_step_under_way_can_be_ended(served: Served, method: str) -> None:
    await served.register(TWO)
    await served.worker(lambda task: 7)
    run_id = await served.start("two", paused=True)
    await step(served, run_id)
    await served.in_state(run_id, common_pb2.RUN_STATE_PAUSED)
    await step(served, run_id)
    await getattr(served.runs, method)(getattr(pb, f"{method}Request")(run_id=run_id))
    assert "stepping" not in await explained(served, run_id)
    await served.runs.SignalRun(pb.SignalRunRequest(run_id=run_id, name="go"))
    state = (await served.run(run_id)).state
    assert state == (common_pb2.RUN_STATE_PAUSED if method == "PauseRun" else common_pb2.RUN_STATE_COMPLETED)


async def test_a_run_that_is_not_paused_has_no_step_to_do(served: Served) -> None:
    await served.register(TWO)
    run_id = await served.start("two")
    await refused(served.runs.StepRun(pb.StepRunRequest(run_id=run_id)), "RUN_NOT_PAUSED")
