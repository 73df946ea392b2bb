"""The calls that read runs, and the deletion of closed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from windlass.engine import keys
from windlass.engine.core.definition import Definition
from windlass.engine.core.explain import Reason
from windlass.engine.core.explain import explain as explain_run
from windlass.engine.core.paths import PathSyntaxError, SelectorError, parse_path
from windlass.engine.core.selectors import Full, Key, Keys, Path, Selector, TemplateSelector, select
from windlass.engine.core.state import CLOSED, Node, RunState
from windlass.engine.core.templates import TemplateSyntaxError, parse_template
from windlass.engine.definitions import parse_json
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.queues import why_queued, why_silent
from windlass.engine.reading import (
    find_run_id,
    get_items,
    get_run,
    list_runs,
    page_key,
    page_position,
    page_size,
    page_token,
)
from windlass.engine.records import IncidentRecord, unpack
from windlass.engine.revisions import patiently
from windlass.engine.run_rows import clear_run
from windlass.engine.service import convert, show, starts
from windlass.engine.service.asking import Asked, namespace_of, once
from windlass.engine.survey import count_runs
from windlass.engine.unit import Unit
from windlass.storage.port import Row, Transaction
from windlass.v1 import common_pb2
from windlass.v1 import workflow_service_pb2 as pb


def json_values(values: Mapping[str, bytes]) -> dict[str, bytes]:
    """Context values from outside. Raises EngineError INVALID_JSON."""
    for name, value in values.items():
        parse_json(value, f"value of {name!r}")
    return dict(values)


async def _load(engine: Engine, request: Any, *, items: bool) -> tuple[RunState, dict[str, Node]]:
    ns = request.namespace or "default"

    async def body(tr: Transaction) -> tuple[RunState, dict[str, Node]]:
        run_id = await find_run_id(tr, ns, request.run_id, request.workflow_id)
        state = await get_run(tr, ns, run_id)
        return state, await get_items(tr, state) if items else {}

    return await engine.storage.read(body)


async def _definition(engine: Engine, state: RunState) -> Definition:
    ref = (state.namespace, state.workflow, state.revision)
    return await patiently(lambda: engine.storage.read(lambda tr: engine.definitions.compiled(tr, *ref)))


async def get(engine: Engine, request: pb.GetRunRequest) -> pb.GetRunResponse:
    """GetRun."""
    full = request.view != pb.VIEW_BASIC
    state, items = await _load(engine, request, items=full)
    definition = None
    if full and state.status not in CLOSED:
        definition = await _definition(engine, state)
    return pb.GetRunResponse(run=show.run_out(state, items, definition, full=full))


async def wait(engine: Engine, request: pb.WaitRunRequest, by_s: float) -> pb.WaitRunResponse:
    """WaitRun: answers empty, before the client's deadline, when the run is still open."""
    state, _ = await _load(engine, request, items=False)
    wait_us = starts.wait_span(request.wait_timeout, request.HasField("wait_timeout"))
    closed = await starts.wait_closed(engine, state.namespace, state.run_id, wait_us, by_s)
    if closed is None:
        state, _ = await _load(engine, request, items=False)
    final = closed or state
    return pb.WaitRunResponse(
        run=convert.run_ref(final), result=convert.run_result(final), state=convert.STATES[final.status]
    )


async def page(engine: Engine, request: pb.ListRunsRequest) -> pb.ListRunsResponse:
    """ListRuns."""
    ns = await namespace_of(engine, request)
    states = [convert.known(state, convert.STATE_NAMES, "states") for state in request.states if state]
    if common_pb2.RUN_STATE_UNSPECIFIED in request.states:
        states = []  # any
    names = [request.workflow] if request.workflow else []
    size = page_size(request.page_size)
    runs: list[RunState] = []
    position = page_position(request.page_token) if request.page_token else ""
    while True:
        found, position = await list_runs(engine.storage, ns, names, states, size, position, request.ascending)
        runs += [run for run in found if _matches(run, request)]
        if not position or len(runs) >= size:
            break
    if len(runs) > size:
        runs, position = runs[:size], runs[size - 1].run_id
    shown = show.fitting(show.run_out(run, full=False) for run in runs)
    if len(shown) < len(runs):
        position = shown[-1].ref.run_id
    token = page_token(position) if position else ""
    return pb.ListRunsResponse(runs=shown, next_page_token=token)


def _matches(run: RunState, request: pb.ListRunsRequest) -> bool:
    if request.workflow_id and run.workflow_id != request.workflow_id:
        return False
    return not request.parent_run_id or (run.parent is not None and run.parent.run_id == request.parent_run_id)


async def count(engine: Engine, request: pb.CountRunsRequest) -> pb.CountRunsResponse:
    """CountRuns."""
    names = [request.workflow] if request.workflow else []
    counts = await count_runs(engine.storage, await namespace_of(engine, request), names)
    rows = [pb.RunStateCount(state=convert.STATES[name], count=number) for name, number in counts.items() if number]
    return pb.CountRunsResponse(total=sum(counts.values()), counts=rows)


async def query(engine: Engine, request: pb.QueryRunRequest) -> pb.QueryRunResponse:
    """QueryRun: a plain read of committed state, without a worker."""
    selector = parse_selector(request.selector.data) if request.selector.data else Full()
    state, _ = await _load(engine, request, items=False)
    try:
        value = select(selector, state.context)
    except SelectorError as error:
        raise EngineError(
            "SELECTOR_FAILED", f"the run's context does not have it: {error}", missing=str(error.name)
        ) from error
    return pb.QueryRunResponse(
        value=convert.payload(value), state=convert.STATES[state.status], last_event_number=state.seq
    )


def parse_selector(data: bytes) -> Selector:
    """A selector as in a definition. Raises EngineError BAD_SELECTOR, INVALID_JSON."""
    value = parse_json(data, "selector")
    if value == "full":
        return Full()
    if not isinstance(value, dict) or len(value) != 1:
        raise EngineError("BAD_SELECTOR", 'a selector is "full" or an object with one of key, keys, path, template')
    ((kind, argument),) = value.items()
    try:
        return _selector(kind, argument)
    except (PathSyntaxError, TemplateSyntaxError, TypeError) as error:
        raise EngineError("BAD_SELECTOR", f"the selector's {kind} cannot be read: {error}", kind=str(kind)) from error


def _selector(kind: str, argument: Any) -> Selector:
    if kind == "key" and isinstance(argument, str):
        return Key(key=argument)
    if kind == "keys" and isinstance(argument, list) and all(isinstance(each, str) for each in argument):
        return Keys(keys=tuple(argument))
    if kind == "path" and isinstance(argument, str):
        return Path(segments=parse_path(argument))
    if kind == "template":
        return TemplateSelector(template=parse_template(argument))
    raise EngineError("BAD_SELECTOR", f"there is no selector {kind!r} with such an argument", kind=str(kind))


#: What ends a wait of that kind; the commands are named as people type them.
_ADVICE: Final = {
    "incident": "repair it with: windlass incidents resolve {run} {incident}",
    "signal": "send it with: windlass signal {run} {name}",
    "escalation": "windlass escalations list shows the question, windlass escalations approve or reject answers it",
}


def _advice(run_id: str, reason: Reason) -> str:
    if reason.kind == "signal" and not reason.names:  # it waits for a time
        return ""
    name = reason.names[0] if len(reason.names) == 1 else "NAME"
    return _ADVICE.get(reason.kind, "").format(run=run_id, name=name, incident=reason.incident_id)


async def explain(engine: Engine, request: pb.ExplainRunRequest) -> pb.ExplainRunResponse:
    """ExplainRun: why it does not move, with what the engine knows of queues and workers."""
    state, items = await _load(engine, request, items=True)
    response = pb.ExplainRunResponse(run=show.run_out(state, items))
    if state.status in CLOSED:
        return response  # and its definition may be gone
    definition = await _definition(engine, state)
    for reason in explain_run(state, items, engine.clock.now_us(), definition):
        summary, advice = reason.what, ""
        if reason.kind == "queued":
            summary, advice = await why_queued(engine, state, reason)
        elif reason.kind == "leased":
            advice = await why_silent(engine, reason.session)
        else:
            advice = _advice(state.run_id, reason)
        response.explanations.append(
            pb.Explanation(
                kind=reason.kind,
                summary=summary,
                advice=advice,
                path=reason.path,
                since_time=convert.timestamp(reason.since_us),
                due_time=convert.timestamp(reason.due_us),
            )
        )
    return response


async def incidents(engine: Engine, request: pb.ListIncidentsRequest) -> pb.ListIncidentsResponse:
    """ListIncidents."""
    ns, size = await namespace_of(engine, request), page_size(request.page_size)
    head = keys.incidents(ns, request.run_id or None)
    begin = page_key(request.page_token, head)

    async def body(tr: Transaction) -> tuple[list[Row], list[pb.Incident]]:
        rows = await tr.get_range(begin, keys.end(head), limit=size + 1)
        records = [unpack(IncidentRecord, value) for _, value in rows[:size]]
        # In one look: a run that is deleted meanwhile has no incident either.
        return rows, [_incident(await get_run(tr, ns, record.run_id), record) for record in records]

    rows, found = await engine.storage.read(body)
    shown = show.fitting(found)
    response = pb.ListIncidentsResponse()
    response.incidents.extend(each for each in shown if request.workflow in ("", each.run.workflow))
    if len(rows) > len(shown):
        response.next_page_token = page_token(rows[len(shown) - 1][0].hex())
    return response


def _incident(state: RunState, record: IncidentRecord) -> pb.Incident:
    found = [each for each in state.incidents if each.incident_id == record.incident_id]
    return pb.Incident(
        incident_id=record.incident_id,
        run=convert.run_ref(state),
        code=record.code,
        message=record.message,
        state=state.state,
        visit=state.visit,
        path=found[0].path if found else "",
        create_time=convert.timestamp(record.created_us),
    )


async def delete(engine: Engine, request: pb.DeleteRunRequest) -> pb.DeleteRunResponse:
    """DeleteRun: a closed run with its history. Raises EngineError RUN_NOT_FOUND, RUN_OPEN."""
    ns, run_id = request.namespace or "default", request.run_id

    async def work(unit: Unit) -> pb.DeleteRunResponse:
        state = await unit.peek(ns, run_id)  # not `load`: the definition may be gone
        if state is None:
            raise EngineError("RUN_NOT_FOUND", f"there is no run {run_id!r} in namespace {ns!r}", run_id=run_id)
        if state.status not in CLOSED:
            raise EngineError(
                "RUN_OPEN", f"run {run_id} is {state.status}; cancel or terminate it first", run_id=run_id
            )
        await clear_run(unit, state)
        return pb.DeleteRunResponse()

    return await once(engine, Asked(ns, request.request_id, request), pb.DeleteRunResponse, work)
