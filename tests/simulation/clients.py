"""Random clients: they start runs, signal, cancel, pause, answer people and repair, through the real handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec

from tests.simulation.eager import Eager
from tests.simulation.engine_host import EngineHost
from tests.simulation.network import CallContext, CallFailed, Network
from tests.simulation.operations import Operation, Record
from tests.simulation.virtual_loop import Host
from windlass.engine.service.convert import STATE_NAMES
from windlass.v1 import human_task_service_pb2 as people_pb
from windlass.v1 import workflow_service_pb2 as pb

#: A call whose fate is unknown is repeated this often, with the same request id.
TRIES: Final = 8
_ACTIONS: Final = (
    pb.ResolveIncidentRequest.ACTION_RETRY,
    pb.ResolveIncidentRequest.ACTION_SKIP,
    pb.ResolveIncidentRequest.ACTION_FAIL,
)
_RETRIED: Final = ("UNREACHABLE", "NO_ANSWER", "COMMIT_UNKNOWN", "STORE_UNAVAILABLE", "ENGINE_DRAINING")


class Clients:
    """All callers, on one host that never fails."""

    def __init__(
        self,
        engines: list[EngineHost],
        network: Network,
        random: Random,
        trace: Callable[[str], None],
        eager: Eager,
    ) -> None:
        self.engines, self.network, self.random, self.trace = engines, network, random, trace
        self.eager = eager
        self.host = Host("clients")
        self.record = Record()
        self.started: list[str] = []
        self._next = 0

    async def call(self, service: str, method: str, request: Any, *, tries: int = TRIES) -> Any:
        """Call some engine, and again until the answer is known. Raises CallFailed."""
        for attempt in range(tries):
            engine = self.random.choice(self.engines)
            handler = getattr(getattr(engine, service, None), method, None)
            try:
                if not engine.serving or handler is None:
                    raise CallFailed("UNREACHABLE", "connection refused")
                return await self.network.call(self.host, engine.host, _bound(handler), request)
            except CallFailed as failed:
                if failed.reason not in _RETRIED or attempt + 1 == tries or not self._repeatable(request):
                    raise
            await asyncio.sleep(self.random.uniform(0, 0.5 * 2 ** min(attempt, 5)))
        raise AssertionError("not reached")

    @staticmethod
    def _repeatable(request: Any) -> bool:
        return bool(getattr(request, "request_id", "reads may always be repeated"))

    async def _do(self, operation: Operation, request: Any, method: str) -> Any:
        loop = asyncio.get_running_loop()
        self.record.operations.append(operation)
        operation.called_s = loop.time()
        reply = None
        try:
            reply = await self.call("workflows", method, request)
            operation.outcome = "ok"
        except CallFailed as failed:
            # Also after UNREACHABLE: an earlier try may have been carried out.
            operation.outcome = "unknown" if failed.reason in _RETRIED else failed.reason
        if operation.outcome != "unknown":
            operation.answered_s = loop.time()
        return reply

    def _id(self) -> str:
        self._next += 1
        return f"r{self._next}" if self.random.random() < 0.85 else ""

    async def start(self, workflow: str) -> Operation:
        """Start a run under a name; now and then under a name that is taken."""
        again = self.started and self.random.random() < 0.1
        workflow_id = self.random.choice(self.started) if again else f"w{len(self.started) + 1}"
        if not again:
            self.started.append(workflow_id)
        operation = Operation("start", workflow_id, workflow)
        request = pb.StartRunRequest(workflow=workflow, workflow_id=workflow_id, request_id=self._id())
        request.input.data = b'{"n": 1}'
        request.closed_run_policy = pb.CLOSED_RUN_POLICY_REJECT
        worker = self.eager.ask(request)
        reply = await self._do(operation, request, "StartRun")
        if reply is not None:
            operation.run_id = reply.run.run_id
        self.eager.bring(worker, request, reply)
        self.trace(str(operation))
        return operation

    async def steer(self) -> None:
        """One random call about a run."""
        if not self.started:
            return
        workflow_id = self.random.choice(self.started)
        kind = self.random.choices(
            ["signal", "get", "cancel", "terminate", "pause", "unpause", "step", "set"], [8, 6, 1.5, 0.5, 1, 2, 1, 1]
        )[0]
        operation = Operation(kind, workflow_id)
        await getattr(self, f"_{kind}")(operation, {"workflow_id": workflow_id, "request_id": self._id()})
        if kind != "get":
            self.trace(str(operation))

    async def _signal(self, operation: Operation, about: dict[str, str]) -> None:
        name = self.random.choice("aabc")
        operation.detail = f"{name}:{len(self.record.operations)}"
        request = _filled(pb.SignalRunRequest(), about)
        request.name = name
        request.payload.data = msgspec.json.encode(operation.detail)
        await self._do(operation, request, "SignalRun")

    async def _get(self, operation: Operation, about: dict[str, str]) -> None:
        reply = await self._do(operation, pb.GetRunRequest(workflow_id=about["workflow_id"]), "GetRun")
        if reply is not None:
            operation.value = STATE_NAMES[reply.run.state]

    async def _cancel(self, operation: Operation, about: dict[str, str]) -> None:
        reply = await self._do(operation, _filled(pb.CancelRunRequest(reason="chance"), about), "CancelRun")
        if reply is not None:
            operation.value = pb.CancelRunResponse.Effect.Name(reply.effect)

    async def _terminate(self, operation: Operation, about: dict[str, str]) -> None:
        await self._do(operation, pb.TerminateRunRequest(reason="chance", **about), "TerminateRun")

    async def _pause(self, operation: Operation, about: dict[str, str]) -> None:
        await self._do(operation, _filled(pb.PauseRunRequest(), about), "PauseRun")

    async def _unpause(self, operation: Operation, about: dict[str, str]) -> None:
        await self._do(operation, pb.UnpauseRunRequest(**about), "UnpauseRun")

    async def _step(self, operation: Operation, about: dict[str, str]) -> None:
        await self._do(operation, pb.StepRunRequest(**about), "StepRun")

    async def _set(self, operation: Operation, about: dict[str, str]) -> None:
        request = _filled(pb.SetVariablesRequest(), about)
        request.values["n"] = b"4"
        await self._do(operation, request, "SetVariables")

    async def tend(self, *, patience: float = 1.0) -> None:
        """Answer the people's questions and repair incidents, each with probability `patience`."""
        try:
            asked = people_pb.ListEscalationsRequest(state=people_pb.ESCALATION_STATE_OPEN)
            pending = await self.call("people", "ListEscalations", asked)
            for escalation in pending.escalations:
                if self.random.random() < patience:
                    await self._quietly("people", "ReplyEscalation", people_pb.ReplyEscalationRequest(
                        escalation_id=escalation.escalation_id, approved=self.random.random() < 0.7,
                        request_id=self._id(),
                    ))  # fmt: skip
            parked = await self.call("workflows", "ListIncidents", pb.ListIncidentsRequest())
            for incident in parked.incidents:
                if self.random.random() < patience:
                    await self._quietly("workflows", "ResolveIncident", pb.ResolveIncidentRequest(
                        run_id=incident.run.run_id, incident_id=incident.incident_id, request_id=self._id(),
                        action=self.random.choice(_ACTIONS),
                    ))  # fmt: skip
        except CallFailed:
            return

    async def _quietly(self, service: str, method: str, request: Any) -> None:
        try:
            await self.call(service, method, request)
        except CallFailed as failed:
            self.trace(f"{method} -> {failed.reason}")
            if failed.reason == "INTERNAL":
                self.record.operations.append(Operation(method, "", outcome="INTERNAL"))

    async def end(self, run_id: str) -> None:
        """Nobody needs this run any more: unpause it, cancel it."""
        await self._quietly("workflows", "UnpauseRun", pb.UnpauseRunRequest(run_id=run_id))
        await self._quietly("workflows", "CancelRun", pb.CancelRunRequest(run_id=run_id))


def _bound(handler: Any) -> Callable[[Any], Any]:
    return lambda request: handler(request, CallContext())


def _filled(request: Any, about: dict[str, str]) -> Any:
    for field, value in about.items():
        setattr(request, field, value)
    return request
