"""Changing runs that exist: signals, updates, cancelling, pausing, forking, repairing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from windlass.client.runs import RunCalls
from windlass.client.values import Json, Started, Which, choice, decode, ids, json_by_key, new_id, payload, state_name
from windlass.v1 import workflow_service_pb2 as wire

_EFFECTS = {1: "requested", 2: "already_requested", 3: "already_closed"}
_SOURCES = {"user": 1, "timeout": 2, "system": 3, "parent": 4}
_REPAIRS = {"retry": 1, "skip": 2, "fail": 3}


class Steering(RunCalls):
    """Part of `Client`: changing runs.

    Each call makes its own request_id unless one is given, so a retry changes nothing.
    """

    async def signal(self, run: Which, name: str, value: Json = None, *, request_id: str = "") -> bool:
        """Puts a named message into a run's inbox, whether or not something waits for it yet.

        False if a signal with this request_id was there already. Raises WindlassError (RUN_NOT_FOUND, RUN_CLOSED).
        """
        run_id, workflow_id = ids(run)
        request = wire.SignalRunRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            name=name,
            payload=payload(value),
            request_id=request_id or new_id(),
        )
        return not (await self.connection.call(self._workflows.SignalRun, request)).duplicate

    async def signal_with_start(
        self, workflow: str, workflow_id: str, name: str, value: Json = None, *, input: Json = None, **options: Json
    ) -> Started:
        """Signals the open run with this workflow id, or starts one that has the signal in its inbox."""
        start = self.start_request(workflow, input, workflow_id=workflow_id, **options)
        request = wire.SignalWithStartRunRequest(start=start, signal_name=name, payload=payload(value))
        reply = await self.connection.call(self._workflows.SignalWithStartRun, request)
        return Started(reply.run, reply.created)

    async def update(self, run: Which, name: str, input: Json = None, *, request_id: str = "") -> Json:
        """Applies one of the definition's named updates and gives its reply: checked and applied in one transaction."""
        run_id, workflow_id = ids(run)
        request = wire.UpdateRunRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            name=name,
            input=payload(input),
            request_id=request_id or new_id(),
        )
        return decode((await self.connection.call(self._workflows.UpdateRun, request)).reply.data)

    async def resolve_wait(self, run: Which, wait_id: str, value: Json = None, *, request_id: str = "") -> None:
        """Resolves one open wait by its id (`open_work` of `get` has it). Raises WindlassError (WAIT_NOT_OPEN)."""
        run_id, workflow_id = ids(run)
        request = wire.ResolveWaitRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            wait_id=wait_id,
            payload=payload(value),
            request_id=request_id or new_id(),
        )
        await self.connection.call(self._workflows.ResolveWait, request)

    async def cancel(self, run: Which, reason: str = "", *, source: str = "user", request_id: str = "") -> str:
        """Asks a run to cancel; compensation runs first. Gives requested, already_requested or already_closed."""
        run_id, workflow_id = ids(run)
        request = wire.CancelRunRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            source=wire.CancelRunRequest.Source.ValueType(choice("source", source, _SOURCES)),
            reason=reason,
            request_id=request_id or new_id(),
        )
        reply = await self.connection.call(self._workflows.CancelRun, request)
        return _EFFECTS.get(reply.effect, str(reply.effect))

    async def fail(self, run: Which, reason: str = "", *, code: str = "", request_id: str = "") -> None:
        """Closes a run as failed with this failure. Raises WindlassError (RUN_CLOSED)."""
        run_id, workflow_id = ids(run)
        request = wire.FailRunRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            code=code,
            reason=reason,
            request_id=request_id or new_id(),
        )
        await self.connection.call(self._workflows.FailRun, request)

    async def terminate(self, run: Which, reason: str = "", *, request_id: str = "") -> None:
        """Closes a run at once, with no compensation. Raises WindlassError (RUN_CLOSED)."""
        run_id, workflow_id = ids(run)
        request = wire.TerminateRunRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            reason=reason,
            request_id=request_id or new_id(),
        )
        await self.connection.call(self._workflows.TerminateRun, request)

    async def pause(self, run: Which, reason: str = "", *, keep_timeout: bool = False, request_id: str = "") -> str:
        """Holds a run: no new task starts. Gives the state after the call.

        The run's own timeout stands still meanwhile, unless `keep_timeout`; delays and waits do not.
        """
        run_id, workflow_id = ids(run)
        request = wire.PauseRunRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            reason=reason,
            keep_timeout=keep_timeout,
            request_id=request_id or new_id(),
        )
        return state_name((await self.connection.call(self._workflows.PauseRun, request)).state)

    async def unpause(self, run: Which, *, request_id: str = "") -> str:
        """Lets a paused run go on. Gives the state after the call. Raises WindlassError (RUN_NOT_PAUSED)."""
        run_id, workflow_id = ids(run)
        request = wire.UnpauseRunRequest(
            namespace=self.namespace, run_id=run_id, workflow_id=workflow_id, request_id=request_id or new_id()
        )
        return state_name((await self.connection.call(self._workflows.UnpauseRun, request)).state)

    async def step(self, run: Which, *, request_id: str = "") -> wire.StepRunResponse:
        """Lets a paused run do one step: the state it stands in; it is paused again as it enters the next one.

        Answers when the step has begun; `watch` tells when it ends. Raises WindlassError (RUN_NOT_PAUSED).
        """
        run_id, workflow_id = ids(run)
        request = wire.StepRunRequest(
            namespace=self.namespace, run_id=run_id, workflow_id=workflow_id, request_id=request_id or new_id()
        )
        return await self.connection.call(self._workflows.StepRun, request)

    async def fork(
        self,
        run: Which,
        *,
        event_number: int | None = None,
        state: str = "",
        set: dict[str, Json] | None = None,
        unset: Sequence[str] = (),
        revision: str = "",
        new_workflow_id: str = "",
        request_id: str = "",
    ) -> Started:
        """Starts a new run from an event or a state of an old one, with the context edited by `set` and `unset`."""
        if (event_number is None) == (not state):
            raise ValueError("fork from an event_number or from a state: give one of the two")
        run_id, workflow_id = ids(run)
        request = wire.ForkRunRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            set=json_by_key(set),
            unset=unset,
            revision=revision,
            new_workflow_id=new_workflow_id,
            request_id=request_id or new_id(),
        )
        if event_number is None:
            request.state = state
        else:
            request.event_number = event_number
        return Started((await self.connection.call(self._workflows.ForkRun, request)).run, created=True)

    async def set_variables(self, run: Which, values: dict[str, Json], *, by: str = "", request_id: str = "") -> None:
        """Sets context values of an open run. Raises WindlassError (RUN_CLOSED, CONTEXT_TOO_LARGE)."""
        run_id, workflow_id = ids(run)
        request = wire.SetVariablesRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            values=json_by_key(values),
            by=by,
            request_id=request_id or new_id(),
        )
        await self.connection.call(self._workflows.SetVariables, request)

    async def delete(self, run_id: str, *, request_id: str = "") -> None:
        """Removes a closed run and its history for good. Raises WindlassError (RUN_OPEN)."""
        request = wire.DeleteRunRequest(namespace=self.namespace, run_id=run_id, request_id=request_id or new_id())
        await self.connection.call(self._workflows.DeleteRun, request)

    async def incidents(self, *, run_id: str = "", workflow: str = "") -> AsyncIterator[wire.Incident]:
        """Open incidents, oldest first."""
        request = wire.ListIncidentsRequest(namespace=self.namespace, run_id=run_id, workflow=workflow)
        while True:
            reply = await self.connection.call(self._workflows.ListIncidents, request)
            for incident in reply.incidents:
                yield incident
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def resolve_incident(
        self,
        run: Which,
        incident_id: str,
        action: str = "retry",
        *,
        set: dict[str, Json] | None = None,
        output: Json = None,
        by: str = "",
        request_id: str = "",
    ) -> str:
        """Repairs a parked run: `retry` the same point, `skip` it with `output` as its result, or let it `fail`.

        Gives the state after the call. Raises WindlassError (RUN_NOT_FOUND, INCIDENT_NOT_FOUND, INCIDENT_RESOLVED).
        """
        request = wire.ResolveIncidentRequest(
            namespace=self.namespace,
            run_id=await self.run_id_of(run),
            incident_id=incident_id,
            action=wire.ResolveIncidentRequest.Action.ValueType(choice("action", action, _REPAIRS)),
            set=json_by_key(set),
            output=payload(output),
            by=by,
            request_id=request_id or new_id(),
        )
        return state_name((await self.connection.call(self._workflows.ResolveIncident, request)).state)
