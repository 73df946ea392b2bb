"""The calls that start runs: one, a batch, a stream, with a signal, and waiting for the end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from windlass.engine.core.commands import Signal
from windlass.engine.core.decide import Rejection
from windlass.engine.core.state import CLOSED, RunState
from windlass.engine.eager import FirstTask
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError, store_failed
from windlass.engine.reading import get_run
from windlass.engine.service import convert
from windlass.engine.service.asking import Asked, once
from windlass.engine.service.status import to_engine_error, to_status, wait_s
from windlass.engine.starting import ClosedPolicy, OpenPolicy, Started, StartPlan, check_name, check_priority, start
from windlass.engine.unit import Unit
from windlass.v1 import common_pb2
from windlass.v1 import workflow_service_pb2 as pb

_OPEN: Final = {1: OpenPolicy.FAIL, 2: OpenPolicy.USE_EXISTING, 3: OpenPolicy.TERMINATE_EXISTING}
_CLOSED: Final = {1: ClosedPolicy.ALLOW, 2: ClosedPolicy.ALLOW_IF_FAILED, 3: ClosedPolicy.REJECT}
_FROM: Final = {1: "start", 2: "first_task"}

#: Starts in one transaction of a batch, and the most one request may hold.
BATCH: Final = 64
BATCH_MAX: Final = 1000
#: Longest wait of one call, in µs; the run goes on after it.
WAIT_MAX_US: Final = 300_000_000
WAIT_DEFAULT_US: Final = 20_000_000


#: What a start may say, by its field: where that goes in the plan, and what checks and converts it.
_SAID: Final[dict[str, tuple[str, Callable[[Any], object]]]] = {
    "namespace": ("namespace", partial(check_name, field="namespace")),
    "workflow_id": ("workflow_id", partial(check_name, field="workflow_id")),
    "workflow": ("workflow", partial(check_name, field="workflow")),
    "revision": ("revision", str),
    "input": ("input", lambda payload: payload.data or b"{}"),
    "request_id": ("request_id", partial(check_name, field="request_id")),
    "open_run_policy": ("open_policy", lambda policy: convert.known(policy, _OPEN, "open_run_policy")),
    "closed_run_policy": ("closed_policy", lambda policy: convert.known(policy, _CLOSED, "closed_run_policy")),
    "queue": ("queue", partial(check_name, field="queue")),
    "priority": ("priority", check_priority),
    "start_time": ("start_us", lambda time: convert.time_us(time, "start_time")),
    "start_delay": ("delay_us", lambda span: convert.span_us(span, "start_delay")),
    "run_timeout": ("timeout_us", lambda span: convert.span_us(span, "run_timeout")),
    "timeout_start": ("timeout_from", lambda at: convert.known(at, _FROM, "timeout_start")),
    "metadata": ("metadata", dict),
    "config": ("config", lambda payload: payload.data or b"{}"),
    "idempotency_key": ("idempotency_key", partial(check_name, field="idempotency_key")),
    "idempotency_ttl": ("idempotency_ttl_us", lambda span: convert.span_us(span, "idempotency_ttl")),
    "validate_only": ("validate_only", bool),
    "paused": ("paused", bool),
}


def plan_of(engine: Engine, request: pb.StartRunRequest, *, eager: bool = False) -> StartPlan:
    """A StartRunRequest, checked. Raises EngineError INVALID_FIELD.

    Looks only at what is set, which most often is the workflow and its input. `eager`: the answer can carry a task.
    """
    plan: dict[str, Any] = {"namespace": "default", "input": b"{}", "run_id": engine.clock.new_id()}
    if request.eager_session_id:
        plan["eager"] = _first_task(engine, request.eager_session_id, plan["run_id"], eager)
        without = pb.StartRunRequest()
        without.CopyFrom(request)
        without.ClearField("eager_session_id")
        request = without
    for field, value in request.ListFields():
        name, taken = _SAID[field.name]
        plan[name] = taken(value)
    if "workflow" not in plan:
        check_name("", "workflow")
    if "start_us" in plan and "delay_us" in plan:
        raise EngineError("INVALID_FIELD", "give start_delay or start_time, not both", field="start_delay")
    if request.request_id:
        plan["asked"] = request.SerializeToString(deterministic=True)
    return StartPlan(**plan)


def _first_task(engine: Engine, session_id: str, run_id: str, eager: bool) -> FirstTask | None:
    """Room for the run's first task; None if its session is not connected here."""
    if not eager:
        raise EngineError("INVALID_FIELD", "only StartRun answers with a task", field="eager_session_id")
    session = engine.dispatch.connected.get(check_name(session_id, "eager_session_id"))
    return FirstTask(session, run_id) if session is not None else None


def started_out(ns: str, started: Started) -> pb.StartRunResponse:
    ref = common_pb2.RunRef(
        namespace=ns,
        run_id=started.run_id,
        workflow_id=started.workflow_id,
        workflow=started.workflow,
        revision=started.revision,
    )
    return pb.StartRunResponse(run=ref, created=started.created)


async def start_one(engine: Engine, request: pb.StartRunRequest) -> pb.StartRunResponse:
    """StartRun."""
    engine.check_accepting()
    await engine.sessions.leave_if_moved(request.eager_session_id)  # else its new engine takes the lease for a stray
    plan = plan_of(engine, request, eager=True)
    answer = started_out(plan.namespace, await engine.transition.run(lambda unit: start(unit, plan)))
    if plan.eager is not None and (task := plan.eager.message()) is not None:
        answer.task.CopyFrom(task)
    return answer


Outcome = Started | EngineError


async def start_many(engine: Engine, plans: Sequence[StartPlan]) -> list[Outcome]:
    """Start runs, many in one transaction; one that is refused does not touch the others.

    One that terminates the run in its way has a transaction of its own: refused, it must leave that run as it was.
    """

    async def work(unit: Unit) -> list[Outcome]:
        return [await start(unit, plans[0])] if len(plans) == 1 else [await _try(unit, plan) for plan in plans]

    if len(plans) > 1 and any(plan.open_policy is OpenPolicy.TERMINATE_EXISTING for plan in plans):
        return [outcome for plan in plans for outcome in await start_many(engine, [plan])]
    try:
        return await engine.transition.run(work)
    except Exception as error:  # noqa: BLE001 - one bad start must not take the batch down
        if len(plans) == 1 or store_failed(error, len(plans)):
            return [to_engine_error(error)] * len(plans)
        return [outcome for plan in plans for outcome in await start_many(engine, [plan])]


async def _try(unit: Unit, plan: StartPlan) -> Outcome:
    try:
        return await start(unit, plan)
    except (EngineError, Rejection) as refused:
        return to_engine_error(refused)


async def start_batch(engine: Engine, request: pb.StartRunsRequest) -> pb.StartRunsResponse:
    """StartRuns: a result per item."""
    engine.check_accepting()
    if len(request.requests) > BATCH_MAX:
        raise EngineError("INVALID_FIELD", f"at most {BATCH_MAX} starts in one request", field="requests")
    response = pb.StartRunsResponse()
    for at in range(0, len(request.requests), BATCH):
        plans = [plan_or_refusal(engine, each) for each in request.requests[at : at + BATCH]]
        good = [plan for plan in plans if isinstance(plan, StartPlan)]
        outcomes = iter(await start_many(engine, good) if good else [])
        for plan in plans:
            outcome = next(outcomes) if isinstance(plan, StartPlan) else plan
            response.results.append(_result(plan.namespace if isinstance(plan, StartPlan) else "", outcome))
    return response


def plan_or_refusal(engine: Engine, request: pb.StartRunRequest) -> StartPlan | EngineError:
    try:
        return plan_of(engine, request)
    except EngineError as refused:
        return refused


def _result(ns: str, outcome: Outcome) -> pb.StartRunResult:
    if isinstance(outcome, Started):
        return pb.StartRunResult(started=started_out(ns, outcome))
    return pb.StartRunResult(error=to_status(outcome))


async def start_and_wait(engine: Engine, request: pb.StartAndWaitRunRequest, by_s: float) -> pb.StartAndWaitRunResponse:
    """StartAndWaitRun: the deadline of the wait leaves the run going."""
    engine.check_accepting()
    plan = plan_of(engine, request.start)
    wait_us = wait_span(request.wait_timeout, request.HasField("wait_timeout"))
    waiter = engine.notices.closes(plan.namespace, plan.run_id)
    try:
        started = await engine.transition.run(lambda unit: start(unit, plan))
        if plan.validate_only:
            state = None
        elif started.run_id != plan.run_id:
            state = await wait_closed(engine, plan.namespace, started.run_id, wait_us, by_s)
        else:
            state = await until(waiter, wait_us, by_s)
    finally:
        waiter.cancel()
    result = convert.run_result(state) if state is not None else None
    answer = started_out(plan.namespace, started)
    return pb.StartAndWaitRunResponse(run=answer.run, created=answer.created, result=result)


def wait_span(span: object, given: bool) -> int:
    """The wait asked for, capped, in µs."""
    return min(convert.span_us(span, "wait_timeout") if given else WAIT_DEFAULT_US, WAIT_MAX_US)  # type: ignore[arg-type]


async def until(waiter: asyncio.Future[RunState], wait_us: int, by_s: float) -> RunState | None:
    """The closed run, or None when the wait is over."""
    done, _ = await asyncio.wait((waiter,), timeout=wait_s(wait_us, by_s))
    return waiter.result() if done else None


async def wait_closed(engine: Engine, ns: str, run_id: str, wait_us: int, by_s: float = math.inf) -> RunState | None:
    """Wait for a run that exists to close. Raises EngineError RUN_NOT_FOUND."""
    waiter = engine.notices.closes(ns, run_id)  # before the look, so that its end cannot be missed
    try:
        state = await engine.storage.read(lambda tr: get_run(tr, ns, run_id))
        return state if state.status in CLOSED else await until(waiter, wait_us, by_s)
    finally:
        waiter.cancel()


async def signal_with_start(engine: Engine, request: pb.SignalWithStartRunRequest) -> pb.SignalWithStartRunResponse:
    """SignalWithStartRun: one transaction, so no run without its signal and no signal lost."""
    engine.check_accepting()
    plan = plan_of(engine, request.start)
    check_name(plan.workflow_id, "start.workflow_id")
    policy = OpenPolicy.USE_EXISTING if plan.open_policy is OpenPolicy.FAIL else plan.open_policy
    plan = msgspec.structs.replace(plan, open_policy=policy, request_id="")  # the id covers the call as a whole
    command = Signal(
        name=check_name(request.signal_name, "signal_name"), payload=convert.json_in(request.payload, "payload")
    )

    async def work(unit: Unit) -> pb.SignalWithStartRunResponse:
        started = await start(unit, plan)
        if not plan.validate_only:
            await unit.give(plan.namespace, started.run_id, command)
        answer = started_out(plan.namespace, started)
        return pb.SignalWithStartRunResponse(run=answer.run, created=answer.created)

    asked = Asked(plan.namespace, request.start.request_id, request)
    return await once(engine, asked, pb.SignalWithStartRunResponse, work, lambda reply: reply.ClearField("created"))
