"""WorkflowService: handlers that check, call and translate. Starts are in `starts.py`, reads in `reads.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from windlass.engine.core import commands as cmd
from windlass.engine.core.decide import Decision, Rejection
from windlass.engine.core.state import RunState
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.service import convert, forks, reads, starts, watching
from windlass.engine.service.asking import ask
from windlass.engine.service.start_stream import Stream
from windlass.engine.service.status import Context, refuse, rpc, rpc_stream, rpc_waiting
from windlass.engine.starting import check_name
from windlass.v1 import workflow_service_pb2 as pb
from windlass.v1 import workflow_service_pb2_grpc

_SOURCES: Final[dict[int, str]] = {0: "user", 1: "user", 2: "timeout", 3: "system", 4: "parent"}
_ACTIONS: Final[dict[int, str]] = {0: "retry", 1: "retry", 2: "skip", 3: "fail"}


class WorkflowServicer(workflow_service_pb2_grpc.WorkflowServiceServicer):
    """Handlers of WorkflowService."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # Starting

    @rpc
    async def StartRun(self, request: pb.StartRunRequest) -> pb.StartRunResponse:
        return await starts.start_one(self._engine, request)

    @rpc
    async def StartRuns(self, request: pb.StartRunsRequest) -> pb.StartRunsResponse:
        return await starts.start_batch(self._engine, request)

    async def StreamRuns(  # type: ignore[override]  # the stubs know only the generator form
        self, request_iterator: object, context: Context
    ) -> None:
        try:
            self._engine.check_accepting()
            await Stream(self._engine, context).run()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the outermost frame: every error becomes a status
            await refuse(context, error)

    @rpc_waiting
    async def StartAndWaitRun(self, request: pb.StartAndWaitRunRequest, by_s: float) -> pb.StartAndWaitRunResponse:
        return await starts.start_and_wait(self._engine, request, by_s)

    @rpc
    async def SignalWithStartRun(self, request: pb.SignalWithStartRunRequest) -> pb.SignalWithStartRunResponse:
        return await starts.signal_with_start(self._engine, request)

    @rpc
    async def StartTask(self, request: pb.StartTaskRequest) -> pb.StartTaskResponse:
        return await forks.start_task(self._engine, request)

    @rpc
    async def ForkRun(self, request: pb.ForkRunRequest) -> pb.ForkRunResponse:
        return await forks.fork(self._engine, request)

    # Reading

    @rpc
    async def GetRun(self, request: pb.GetRunRequest) -> pb.GetRunResponse:
        return await reads.get(self._engine, request)

    @rpc_waiting
    async def WaitRun(self, request: pb.WaitRunRequest, by_s: float) -> pb.WaitRunResponse:
        return await reads.wait(self._engine, request, by_s)

    @rpc
    async def ListRuns(self, request: pb.ListRunsRequest) -> pb.ListRunsResponse:
        return await reads.page(self._engine, request)

    @rpc
    async def CountRuns(self, request: pb.CountRunsRequest) -> pb.CountRunsResponse:
        return await reads.count(self._engine, request)

    @rpc
    async def QueryRun(self, request: pb.QueryRunRequest) -> pb.QueryRunResponse:
        return await reads.query(self._engine, request)

    @rpc
    async def ExplainRun(self, request: pb.ExplainRunRequest) -> pb.ExplainRunResponse:
        return await reads.explain(self._engine, request)

    @rpc
    async def GetHistory(self, request: pb.GetHistoryRequest) -> pb.GetHistoryResponse:
        return await watching.history_page(self._engine, request)

    @rpc
    async def GetStateAt(self, request: pb.GetStateAtRequest) -> pb.GetStateAtResponse:
        return await forks.state_at(self._engine, request)

    @rpc_stream
    async def WatchRun(self, request: pb.WatchRunRequest) -> AsyncIterator[pb.WatchRunResponse]:
        async for response in watching.watch(self._engine, request):
            yield response

    @rpc
    async def ListIncidents(self, request: pb.ListIncidentsRequest) -> pb.ListIncidentsResponse:
        return await reads.incidents(self._engine, request)

    # Steering

    @rpc
    async def SignalRun(self, request: pb.SignalRunRequest) -> pb.SignalRunResponse:
        name = check_name(request.name, "name")
        command = cmd.Signal(name=name, payload=convert.json_in(request.payload, "payload"))

        def answer(before: RunState, after: RunState, decision: Decision) -> pb.SignalRunResponse:
            return pb.SignalRunResponse(run=convert.run_ref(after))

        def repeated(reply: pb.SignalRunResponse) -> None:
            reply.duplicate = True

        return await ask(
            self._engine, request, command, pb.SignalRunResponse, answer, while_open=True, repeated=repeated
        )

    @rpc
    async def UpdateRun(self, request: pb.UpdateRunRequest) -> pb.UpdateRunResponse:
        command = cmd.ApplyUpdate(name=check_name(request.name, "name"), input=convert.json_in(request.input, "input"))
        return await ask(
            self._engine,
            request,
            command,
            pb.UpdateRunResponse,
            lambda before, after, decision: pb.UpdateRunResponse(reply=convert.payload(decision.reply)),
        )

    @rpc
    async def ResolveWait(self, request: pb.ResolveWaitRequest) -> pb.ResolveWaitResponse:
        command = cmd.ResolveWait(wait_id=request.wait_id, payload=convert.json_in(request.payload, "payload"))
        return await ask(self._engine, request, command, pb.ResolveWaitResponse, lambda *_: pb.ResolveWaitResponse())

    @rpc
    async def CancelRun(self, request: pb.CancelRunRequest) -> pb.CancelRunResponse:
        """A cancel that takes no effect says why as data and not as an error."""
        command = cmd.Cancel(source=convert.known(request.source, _SOURCES, "source"), reason=request.reason)

        def answer(before: RunState, after: RunState, decision: Decision) -> pb.CancelRunResponse:
            kind = pb.CancelRunResponse
            effect = kind.EFFECT_REQUESTED if before.cancel is None else kind.EFFECT_ALREADY_REQUESTED
            return kind(effect=effect, state=convert.STATES[after.status])

        def closed(state: RunState) -> pb.CancelRunResponse:
            kind = pb.CancelRunResponse
            return kind(effect=kind.EFFECT_ALREADY_CLOSED, state=convert.STATES[state.status])

        return await ask(self._engine, request, command, pb.CancelRunResponse, answer, closed=closed)

    @rpc
    async def FailRun(self, request: pb.FailRunRequest) -> pb.FailRunResponse:
        command = cmd.Fail(
            code=check_name(request.code, "code", required=False) or "FAILED_BY_REQUEST", reason=request.reason
        )
        return await ask(self._engine, request, command, pb.FailRunResponse, lambda *_: pb.FailRunResponse())

    @rpc
    async def TerminateRun(self, request: pb.TerminateRunRequest) -> pb.TerminateRunResponse:
        command = cmd.Terminate(reason=request.reason)
        return await ask(self._engine, request, command, pb.TerminateRunResponse, lambda *_: pb.TerminateRunResponse())

    @rpc
    async def PauseRun(self, request: pb.PauseRunRequest) -> pb.PauseRunResponse:
        return await ask(
            self._engine,
            request,
            cmd.Pause(reason=request.reason, keep_timeout=request.keep_timeout),
            pb.PauseRunResponse,
            lambda before, after, _: pb.PauseRunResponse(state=convert.STATES[after.status]),
        )

    @rpc
    async def UnpauseRun(self, request: pb.UnpauseRunRequest) -> pb.UnpauseRunResponse:
        def answer(before: RunState, after: RunState, decision: Decision) -> pb.UnpauseRunResponse:
            if not before.paused_us and not before.step_until:
                raise EngineError("RUN_NOT_PAUSED", f"the run is {before.status}", run_id=before.run_id)
            return pb.UnpauseRunResponse(state=convert.STATES[after.status])

        return await ask(self._engine, request, cmd.Unpause(), pb.UnpauseRunResponse, answer)

    @rpc
    async def StepRun(self, request: pb.StepRunRequest) -> pb.StepRunResponse:
        def answer(before: RunState, after: RunState, decision: Decision) -> pb.StepRunResponse:
            return pb.StepRunResponse(
                state=convert.STATES[after.status], current_state=after.state, event_number=before.seq + 1
            )

        return await ask(self._engine, request, cmd.Step(), pb.StepRunResponse, answer)

    @rpc
    async def SetVariables(self, request: pb.SetVariablesRequest) -> pb.SetVariablesResponse:
        values = reads.json_values(request.values)
        command = cmd.SetVariables(values=values, by=request.by)
        return await ask(self._engine, request, command, pb.SetVariablesResponse, lambda *_: pb.SetVariablesResponse())

    @rpc
    async def ResolveIncident(self, request: pb.ResolveIncidentRequest) -> pb.ResolveIncidentResponse:
        command = cmd.ResolveIncident(
            incident_id=request.incident_id,
            action=convert.known(request.action, _ACTIONS, "action"),
            set=reads.json_values(request.set),
            output=convert.json_in(request.output, "output"),
            by=request.by,
        )
        try:
            return await ask(
                self._engine,
                request,
                command,
                pb.ResolveIncidentResponse,
                lambda before, after, _: pb.ResolveIncidentResponse(state=convert.STATES[after.status]),
            )
        except Rejection as refused:
            run_id, _, number = request.incident_id.rpartition(":")
            if refused.reason == "INCIDENT_RESOLVED" and not await self._had(request.namespace, run_id, number):
                raise EngineError("INCIDENT_NOT_FOUND", str(refused), incident_id=request.incident_id) from refused
            raise

    async def _had(self, ns: str, run_id: str, number: str) -> bool:
        """True if the run may have had an incident of this number: it is that of the event that opened it."""
        try:
            get = pb.GetRunRequest(namespace=ns, run_id=run_id, view=pb.VIEW_BASIC)
            run = (await reads.get(self._engine, get)).run
        except EngineError:
            return False
        return number.isdecimal() and 0 < int(number) <= run.last_event_number

    @rpc
    async def DeleteRun(self, request: pb.DeleteRunRequest) -> pb.DeleteRunResponse:
        if not request.run_id:
            raise EngineError("INVALID_FIELD", "run_id is missing", field="run_id")
        return await reads.delete(self._engine, request)
