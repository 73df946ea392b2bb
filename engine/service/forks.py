"""New runs made from old ones, states of the past, and standalone tasks."""

from __future__ import annotations

from typing import Any

from google.protobuf import duration_pb2

from windlass.definition.quantities import format_duration
from windlass.engine.core.evolve import apply
from windlass.engine.core.state import Node, RunState
from windlass.engine.core.tree import ItemTable
from windlass.engine.core.units import NEEDS_MAX
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.modules import bare
from windlass.engine.reading import Numbered, compacted, find_run_id, get_run, history, oldest_number
from windlass.engine.service import convert, reads, show
from windlass.engine.service.asking import Asked, namespace_of, once
from windlass.engine.service.definitions import RUNTIMES
from windlass.engine.service.starts import started_out
from windlass.engine.standalone import task_definition
from windlass.engine.starting import StartPlan, check_name, check_priority, check_units, start
from windlass.engine.unit import Unit
from windlass.storage.port import Transaction
from windlass.v1 import common_pb2
from windlass.v1 import workflow_service_pb2 as pb

#: Events read at a time when a run's past is folded.
PAGE = 2000


async def past(engine: Engine, ns: str, run_id: str, number: int) -> tuple[RunState, dict[str, Node]]:
    """The run as it was after event `number`. Raises EngineError RUN_NOT_FOUND, EVENT_NOT_FOUND,
    HISTORY_COMPACTED.
    """
    state = await engine.storage.read(lambda tr: get_run(tr, ns, run_id))
    if not 1 <= number <= state.seq:
        raise EngineError("EVENT_NOT_FOUND", f"the run has events 1 to {state.seq}", event_number=str(number))
    then: RunState | None = None
    items = ItemTable()
    at = 0
    while at < number:
        page = await engine.storage.read(lambda tr, at=at: _page(tr, ns, run_id, at, number))  # type: ignore[misc]
        if not page:
            raise compacted(await engine.storage.read(lambda tr: oldest_number(tr, ns, run_id)))
        for each in page:
            then = apply(then, items, each.event)
        at = page[-1].number
    assert then is not None
    return then, items


async def _page(tr: Transaction, ns: str, run_id: str, after: int, until: int) -> list[Numbered]:
    return await history(tr, ns, run_id, after=after, before=until + 1, limit=PAGE)


async def state_at(engine: Engine, request: pb.GetStateAtRequest) -> pb.GetStateAtResponse:
    """GetStateAt."""
    ns = request.namespace or "default"
    run_id = await engine.storage.read(lambda tr: find_run_id(tr, ns, request.run_id, request.workflow_id))
    state, items = await past(engine, ns, run_id, request.event_number)
    return pb.GetStateAtResponse(run=show.run_out(state, items))


async def fork(engine: Engine, request: pb.ForkRunRequest) -> pb.ForkRunResponse:
    """ForkRun: a new run that begins in a state of an old one, with its context, edited.

    The old run is left as it is, and so are its children: the new run starts its own.
    """
    engine.check_accepting()
    ns = request.namespace or "default"
    plan: StartPlan | EngineError
    try:
        plan = await _fork_plan(engine, ns, request)
    except EngineError as refused:  # a repeated request has its answer all the same: the old run may be gone by now
        plan = refused

    async def work(unit: Unit) -> pb.ForkRunResponse:
        if isinstance(plan, EngineError):
            raise plan
        definition = await unit.transition.definitions.resolve(unit.tr, ns, plan.workflow, plan.revision)
        state = plan.state
        if state and state not in definition.states:  # none: at its first event a run has entered no state yet
            known = ", ".join(sorted(definition.states))
            raise EngineError(
                "STATE_NOT_FOUND",
                f"revision {definition.revision[:12]} has no state {state!r}; it has {known}",
                state=state,
            )
        return pb.ForkRunResponse(run=started_out(ns, await start(unit, plan)).run)

    return await once(engine, Asked(ns, request.request_id, request), pb.ForkRunResponse, work)


async def _fork_plan(engine: Engine, ns: str, request: pb.ForkRunRequest) -> StartPlan:
    """The new run as the old one and the request have it. Raises EngineError."""
    run_id = await engine.storage.read(lambda tr: find_run_id(tr, ns, request.run_id, request.workflow_id))
    old = await engine.storage.read(lambda tr: get_run(tr, ns, run_id))
    if request.WhichOneof("from") == "event_number":
        source, _ = await past(engine, ns, run_id, request.event_number)
        state = source.state
    else:
        source, state = old, request.state or old.state
    context = {**source.context, **reads.json_values(request.set)}
    for name in request.unset:
        context.pop(name, None)
    return StartPlan(
        namespace=ns,
        workflow=old.workflow,
        revision=request.revision or old.revision,
        run_id=engine.clock.new_id(),
        input=b"{}",
        workflow_id=check_name(request.new_workflow_id, "new_workflow_id", required=False),
        queue=old.queue,
        priority=old.priority,
        config=old.config,
        metadata=dict(old.metadata),
        state=state,
        context=context,
        forked_from=run_id,
    )


async def start_task(engine: Engine, request: pb.StartTaskRequest) -> pb.StartTaskResponse:
    """StartTask: a durable task without a workflow (B97): a run of a one-state definition made for it."""
    engine.check_accepting()
    ns = await namespace_of(engine, request)
    digest, handler = request.module_digest, request.handler
    if request.runtime and request.runtime not in RUNTIMES:
        known = ", ".join(RUNTIMES)
        raise EngineError(
            "RUNTIME_UNSUPPORTED", f"no runtime {request.runtime!r}; known: {known}", runtime=request.runtime
        )
    if request.WhichOneof("code") == "inline":
        record, _ = await engine.modules.put(ns, request.runtime or "javascript", request.inline)
        digest = record.digest
    if not digest and not handler:
        raise EngineError("INVALID_FIELD", "say what to run: inline, module_digest or handler", field="code")
    if digest:
        await engine.modules.get(ns, digest)
    definition = await task_definition(engine, ns, _state(request, digest, handler))
    plan = StartPlan(
        namespace=ns,
        workflow=definition.name,
        revision=definition.revision,
        run_id=engine.clock.new_id(),
        input=b'{"input":' + convert.json_in(request.input, "input") + b"}",
        workflow_id=check_name(request.workflow_id, "workflow_id", required=False),
        queue=check_name(request.queue, "queue", required=False),
        config=request.config.data or b"{}",
        priority=check_priority(request.priority) if request.HasField("priority") else None,
        delay_us=convert.span_us(request.start_delay, "start_delay") if request.HasField("start_delay") else 0,
    )

    async def work(unit: Unit) -> pb.StartTaskResponse:
        answer = started_out(ns, await start(unit, plan))
        return pb.StartTaskResponse(run=answer.run, created=answer.created)

    asked = Asked(ns, request.request_id, request)
    return await once(engine, asked, pb.StartTaskResponse, work, lambda reply: reply.ClearField("created"))


def _state(request: pb.StartTaskRequest, digest: str, handler: str) -> dict[str, Any]:
    """The task as an author would write its state."""
    task: dict[str, Any] = {"runtime": request.runtime or ("python" if handler else "javascript")}
    task.update({"handler": handler} if handler else {"module": f"sha256:{bare(digest)}"})
    if request.at_most_once:
        task["at_most_once"] = True
    if request.needs:
        task["needs"] = check_units(request.needs, "needs", NEEDS_MAX)
    if limits := _limits(request.limits):
        task["limits"] = limits
    state: dict[str, Any] = {"task": task}
    if request.HasField("retry"):
        state["retry"] = _retry(request.retry)
    if request.HasField("timeouts"):
        names = ("schedule_to_start", "start_to_close", "schedule_to_close", "heartbeat")
        present = {field.name for field, _ in request.timeouts.ListFields()}
        given = {name: getattr(request.timeouts, name) for name in names if name in present}
        state["timeouts"] = {name: _spelled(span) for name, span in given.items()}
    return state


def _limits(limits: common_pb2.TaskLimits) -> dict[str, Any]:
    given = {
        "memory": limits.memory_bytes,
        "fuel": limits.fuel,
        "output": limits.output_bytes,
        "log_lines": limits.log_lines,
        "deterministic": limits.deterministic,
        "stack": limits.stack_bytes,
        "cpu": _spelled(limits.cpu) if limits.HasField("cpu") else "",
        "log_bytes": limits.log_bytes,
        "grants": list(limits.grants),
    }
    return {name: value for name, value in given.items() if value}


def _retry(retry: common_pb2.RetryPolicy) -> dict[str, Any]:
    policy: dict[str, Any] = {}
    present = {field.name for field, _ in retry.ListFields()}
    for name in ("max_attempts", "multiplier", "jitter"):
        if name in present:
            policy[name] = getattr(retry, name)
    for name in ("initial_delay", "max_delay"):
        if name in present:
            policy[name] = _spelled(getattr(retry, name))
    policy["non_retryable"] = list(retry.non_retryable_codes)
    policy["retryable"] = list(retry.retryable_codes)
    return policy


def _spelled(span: duration_pb2.Duration) -> str:
    return format_duration(convert.span_us(span))
