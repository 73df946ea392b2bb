"""Starting and reading runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from windlass.client.errors import WindlassError, error_of_status
from windlass.client.part import Part
from windlass.client.values import (
    Json,
    RunResult,
    Started,
    Which,
    choice,
    decode,
    ids,
    instant,
    new_id,
    payload,
    result_of,
    span,
    state_name,
    state_number,
)
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as worker_wire
from windlass.v1 import workflow_service_pb2 as wire
from windlass.v1 import workflow_service_pb2_grpc as stubs

#: One long poll; the engine caps it at 60 s. Short enough that a proxy in between does not cut it.
POLL_SECONDS = 25.0

_OPEN_POLICIES = {"fail": 1, "use_existing": 2, "terminate_existing": 3}
_CLOSED_POLICIES = {"allow": 1, "allow_if_failed": 2, "reject": 3}


class EagerWorker(Protocol):
    """A worker in the same program, as `windlass.worker.hosting.beside` makes it."""

    def offer(self) -> str:
        """Its session, if it has room for one more task; it keeps that room until `take` is called. Else empty."""

    def take(self, task: worker_wire.Task | None) -> None:
        """Do the task that a start brought; None: it brought none."""


class RunCalls(Part):
    """Part of `Client`: starting and reading runs."""

    @property
    def _workflows(self) -> stubs.WorkflowServiceAsyncStub:
        return stubs.WorkflowServiceStub(self.connection.channel)

    def start_request(
        self,
        workflow: str,
        input: Json = None,
        *,
        workflow_id: str = "",
        revision: str = "",
        request_id: str = "",
        if_open: str = "fail",
        if_closed: str = "allow",
        queue: str = "",
        priority: int | None = None,
        start_at: datetime | None = None,
        start_in: timedelta | float | None = None,
        timeout: timedelta | float | None = None,
        timeout_from_first_task: bool = False,
        metadata: Mapping[str, str] | None = None,
        config: Json = None,
        idempotency_key: str = "",
        idempotency_ttl: timedelta | float | None = None,
        validate_only: bool = False,
        paused: bool = False,
    ) -> wire.StartRunRequest:
        """The request that `start` sends, for `start_many` and `stream`.

        `input`: a JSON object becomes the context, any other value becomes {"input": value}. `if_open`: what to do
        when an open run has the workflow_id: fail, use_existing, terminate_existing. `if_closed`: the same for a
        closed run: allow, allow_if_failed, reject. `start_at` or `start_in` (seconds or a timedelta) delay the start.
        `timeout` bounds the run. `idempotency_key`: a business key; a second start with it answers with the first
        one's run. `paused`: it does nothing until `unpause` or `step`.
        """
        return wire.StartRunRequest(
            namespace=self.namespace,
            workflow_id=workflow_id,
            workflow=workflow,
            revision=revision,
            input=None if input is None else payload(input),
            request_id=request_id or new_id(),
            open_run_policy=wire.OpenRunPolicy.ValueType(choice("if_open", if_open, _OPEN_POLICIES)),
            closed_run_policy=wire.ClosedRunPolicy.ValueType(choice("if_closed", if_closed, _CLOSED_POLICIES)),
            queue=queue,
            priority=priority,
            start_time=instant(start_at),
            start_delay=span(start_in),
            run_timeout=span(timeout),
            timeout_start=wire.TIMEOUT_START_FIRST_TASK if timeout_from_first_task else wire.TIMEOUT_START_START,
            metadata=dict(metadata or {}),
            config=None if config is None else payload(config),
            idempotency_key=idempotency_key,
            idempotency_ttl=span(idempotency_ttl),
            validate_only=validate_only,
            paused=paused,
        )

    async def start(
        self, workflow: str, input: Json = None, *, eager: EagerWorker | None = None, **options: Json
    ) -> Started:
        """Starts a run; it is durable when this returns. Options as for `start_request`. Raises WindlassError.

        `eager`: a worker in this program that takes the run's first task with the answer, if it serves it and has room.
        """
        request = self.start_request(workflow, input, **options)
        if eager is not None and (session := eager.offer()):
            request.eager_session_id = session
            reply = await self._start_beside(request, eager)
        else:
            reply = await self.connection.call(self._workflows.StartRun, request)
        return Started(reply.run, reply.created)

    async def _start_beside(self, request: wire.StartRunRequest, eager: EagerWorker) -> wire.StartRunResponse:
        task = None
        try:
            reply = await self.connection.call(self._workflows.StartRun, request)
            task = reply.task if reply.HasField("task") else None
            return reply
        finally:
            eager.take(task)

    async def start_and_wait(
        self, workflow: str, input: Json = None, *, wait: float | None = None, **options: Json
    ) -> RunResult:
        """Starts a run and waits for its end, for `wait` seconds at most (None = for ever).

        Raises TimeoutError with the run's id if it is still open then; the run goes on. Raises WindlassError.
        """
        first = POLL_SECONDS if wait is None else min(wait, POLL_SECONDS)
        start = self.start_request(workflow, input, **options)
        request = wire.StartAndWaitRunRequest(start=start, wait_timeout=span(first))
        reply = await self.connection.call(self._workflows.StartAndWaitRun, request, timeout=first + 10)
        if reply.HasField("result"):
            return result_of(reply.result)
        return await self.wait(reply.run, timeout=None if wait is None else wait - first)

    async def start_many(self, starts: Sequence[wire.StartRunRequest]) -> Sequence[Started | WindlassError]:
        """Starts up to 1000 runs in one call.

        One that is refused does not hold up the others: its error is in its place.
        """
        reply = await self.connection.call(self._workflows.StartRuns, wire.StartRunsRequest(requests=starts))
        return [
            error_of_status(each.error) if each.HasField("error") else Started(each.started.run, each.started.created)
            for each in reply.results
        ]

    async def get(self, run: Which, *, full: bool = True) -> wire.Run:
        """A run as it is now; with `full` also context, config and output. Raises WindlassError (RUN_NOT_FOUND)."""
        run_id, workflow_id = ids(run)
        view = wire.VIEW_FULL if full else wire.VIEW_BASIC
        request = wire.GetRunRequest(namespace=self.namespace, run_id=run_id, workflow_id=workflow_id, view=view)
        return (await self.connection.call(self._workflows.GetRun, request)).run

    async def run_id_of(self, run: Which) -> str:
        """The run id, for calls that know a run by that alone. Raises WindlassError (RUN_NOT_FOUND)."""
        run_id, _ = ids(run)
        return run_id or (await self.get(run, full=False)).ref.run_id

    async def wait(self, run: Which, *, timeout: float | None = None) -> RunResult:
        """Waits for a run's end, across restarts of the engine. Raises TimeoutError after `timeout` seconds."""
        run_id, workflow_id = ids(run)
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while True:
            left = POLL_SECONDS if deadline is None else min(POLL_SECONDS, max(deadline - loop.time(), 0.0))
            request = wire.WaitRunRequest(
                namespace=self.namespace, run_id=run_id, workflow_id=workflow_id, wait_timeout=span(left)
            )
            reply = await self.connection.call(self._workflows.WaitRun, request, timeout=left + 10)
            if reply.HasField("result"):
                return result_of(reply.result)
            run_id, workflow_id = reply.run.run_id, ""
            if deadline is not None and loop.time() >= deadline:
                state = state_name(reply.state)
                goes_on = "" if state in ("paused", "incident") else "; it goes on"
                raise TimeoutError(f"run {run_id} is still {state} after {timeout:g} s{goes_on}")

    async def list(
        self,
        *,
        workflow: str = "",
        states: Sequence[str] = (),
        workflow_id: str = "",
        parent: str = "",
        ascending: bool = False,
        page_size: int = 0,
    ) -> AsyncIterator[wire.Run]:
        """Runs, newest first, page by page as they are asked for."""
        request = wire.ListRunsRequest(
            namespace=self.namespace,
            workflow=workflow,
            states=[state_number(each) for each in states],
            workflow_id=workflow_id,
            parent_run_id=parent,
            ascending=ascending,
            page_size=page_size,
        )
        while True:
            reply = await self.connection.call(self._workflows.ListRuns, request)
            for run in reply.runs:
                yield run
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def count(self, *, workflow: str = "") -> dict[str, int]:
        """How many runs there are by state; states with none are left out."""
        request = wire.CountRunsRequest(namespace=self.namespace, workflow=workflow)
        reply = await self.connection.call(self._workflows.CountRuns, request)
        return {state_name(each.state): each.count for each in reply.counts}

    async def query(self, run: Which, selector: Json = "full") -> Json:
        """Reads from a run's context by a selector as in a definition: {"path": "a.b"}, {"keys": [...]}, "full"."""
        run_id, workflow_id = ids(run)
        request = wire.QueryRunRequest(
            namespace=self.namespace, run_id=run_id, workflow_id=workflow_id, selector=payload(selector)
        )
        return decode((await self.connection.call(self._workflows.QueryRun, request)).value.data)

    async def explain(self, run: Which) -> wire.ExplainRunResponse:
        """Why a run does not move: what it waits for, since when, until when, and what would help."""
        run_id, workflow_id = ids(run)
        request = wire.ExplainRunRequest(namespace=self.namespace, run_id=run_id, workflow_id=workflow_id)
        return await self.connection.call(self._workflows.ExplainRun, request)

    async def history(
        self, run: Which, *, full: bool = True, reverse: bool = False, page_size: int = 0
    ) -> AsyncIterator[common_pb2.HistoryEvent]:
        """A run's history, page by page as it is asked for. Without `full`, values of the user's are left out."""
        run_id, workflow_id = ids(run)
        request = wire.GetHistoryRequest(
            namespace=self.namespace,
            run_id=run_id,
            workflow_id=workflow_id,
            page_size=page_size,
            reverse=reverse,
            view=wire.VIEW_FULL if full else wire.VIEW_BASIC,
        )
        while True:
            reply = await self.connection.call(self._workflows.GetHistory, request)
            for event in reply.events:
                yield event
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def state_at(self, run: Which, event_number: int) -> wire.Run:
        """The run as it was just after an event."""
        run_id, workflow_id = ids(run)
        request = wire.GetStateAtRequest(
            namespace=self.namespace, run_id=run_id, workflow_id=workflow_id, event_number=event_number
        )
        return (await self.connection.call(self._workflows.GetStateAt, request)).run
