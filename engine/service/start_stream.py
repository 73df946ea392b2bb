"""StreamRuns: starts in, outcomes out, many at once, with bounds on what waits in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import grpc

from windlass.engine.core.state import RunState
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.pacing import Pace
from windlass.engine.service import convert
from windlass.engine.service.starts import (
    BATCH,
    WAIT_MAX_US,
    Outcome,
    plan_or_refusal,
    start_many,
    started_out,
    wait_closed,
)
from windlass.engine.service.status import Context, to_engine_error, to_status
from windlass.engine.starting import Started, StartPlan
from windlass.storage.port import StorageError
from windlass.v1 import workflow_service_pb2 as pb

#: Outcomes in one message, and their bytes together, below what every gRPC client takes.
OUTCOMES_MAX: Final = 500
OUTCOMES_BYTES: Final = 3 << 20
#: Of one stream: batches being started at once, and outcomes not yet written, beyond which nothing more is read.
STARTING_MAX: Final = 32
OUT_MAX: Final = 2000


class Stream:
    """StreamRuns: batches of starts up, batches of outcomes down; starts that wait are told their end too."""

    def __init__(self, engine: Engine, context: Context) -> None:
        self._engine, self._context = engine, context
        self._out: list[pb.StreamedOutcome] = []
        self._wake = asyncio.Event()
        self._pace = Pace()
        self._open = 0
        self._reading = True
        self._jobs: set[asyncio.Task[None]] = set()
        self._defect: BaseException | None = None  #: what ended one of them, which nobody foresaw
        self._starting = 0
        self._room = asyncio.Event()
        self._waiters: dict[str, asyncio.Future[RunState]] = {}

    async def run(self) -> None:
        """Until the client has said all and every outcome it waits for was told."""
        reader = asyncio.create_task(self._read())
        try:
            while self._reading or self._jobs or self._open or self._out:
                await self._wake.wait()
                await self._pace.turn()
                self._wake.clear()
                if self._defect is not None:  # its starts would never be answered
                    raise self._defect
                self._pace.carried(len(self._out))
                while self._out:
                    await self._context.write(pb.StreamRunsResponse(outcomes=self._next_outcomes()))
                self._room.set()
                if reader.done():
                    reader.result()
        finally:
            reader.cancel()
            for job in self._jobs:
                job.cancel()
            for waiter in self._waiters.values():
                waiter.cancel()
            await asyncio.wait([reader])
            if not reader.cancelled():
                reader.exception()  # seen: the stream has an error of its own by now

    def _next_outcomes(self) -> list[pb.StreamedOutcome]:
        """As many as one message holds, and at least one; they are taken away."""
        size = count = 0
        for outcome in self._out[:OUTCOMES_MAX]:
            size += outcome.ByteSize()
            if count and size > OUTCOMES_BYTES:
                break
            count += 1
        taken, self._out = self._out[:count], self._out[count:]
        return taken

    async def _read(self) -> None:
        try:
            while (message := await self._context.read()) is not grpc.aio.EOF:
                for at in range(0, len(message.starts), BATCH):
                    await self._until_room()
                    self._starting += 1
                    job = asyncio.create_task(self._start(message.starts[at : at + BATCH]))
                    self._jobs.add(job)
                    job.add_done_callback(self._started)
        finally:
            self._reading = False
            self._wake.set()

    async def _until_room(self) -> None:
        """A client that does not read its outcomes is not read from either: what waits for it here has a bound."""
        while self._starting >= STARTING_MAX or len(self._out) > OUT_MAX:
            self._room.clear()
            await self._room.wait()

    def _started(self, job: asyncio.Task[None]) -> None:
        self._starting -= 1
        self._room.set()
        self._finished(job)

    def _finished(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        if not job.cancelled():
            self._defect = self._defect or job.exception()
        self._wake.set()

    async def _start(self, starts: Sequence[pb.StreamedStart]) -> None:
        engine = self._engine
        plans: list[tuple[int, StartPlan]] = []
        for each in starts:
            plan = plan_or_refusal(engine, each.request)
            if isinstance(plan, EngineError):
                self._say(pb.StreamedOutcome(tag=each.tag, error=to_status(plan)))
                continue
            plans.append((each.tag, plan))
            if each.wait and not plan.validate_only:
                self._await(each.tag, plan)
        outcomes = await start_many(engine, [plan for _, plan in plans]) if plans else []
        for (tag, plan), outcome in zip(plans, outcomes, strict=True):
            self._answer(tag, plan, outcome)

    def _await(self, tag: int, plan: StartPlan) -> None:
        self._open += 1
        waiter = self._engine.notices.closes(plan.namespace, plan.run_id)
        self._waiters[plan.run_id] = waiter
        waiter.add_done_callback(lambda done: self._closed(tag, plan.run_id, done))

    def _closed(self, tag: int, run_id: str, waiter: asyncio.Future[RunState]) -> None:
        self._open -= 1
        self._waiters.pop(run_id, None)
        if not waiter.cancelled():
            self._say(pb.StreamedOutcome(tag=tag, closed=convert.run_result(waiter.result())))
        self._wake.set()

    def _answer(self, tag: int, plan: StartPlan, outcome: Outcome) -> None:
        if isinstance(outcome, Started) and outcome.run_id == plan.run_id:
            self._say(pb.StreamedOutcome(tag=tag, started=started_out(plan.namespace, outcome)))
            return
        waiter = self._waiters.pop(plan.run_id, None)
        if waiter is not None:
            waiter.cancel()
        if isinstance(outcome, EngineError):
            self._say(pb.StreamedOutcome(tag=tag, error=to_status(outcome)))
        else:
            self._say(pb.StreamedOutcome(tag=tag, started=started_out(plan.namespace, outcome)))
            if waiter is not None:
                self._spawn_wait(tag, plan.namespace, outcome.run_id)

    def _spawn_wait(self, tag: int, ns: str, run_id: str) -> None:
        job = asyncio.create_task(self._wait(tag, ns, run_id))
        self._jobs.add(job)
        job.add_done_callback(self._finished)

    async def _wait(self, tag: int, ns: str, run_id: str) -> None:
        """Tell of the end of a run that was there before, however late; or why nobody can know it."""
        try:
            while (state := await wait_closed(self._engine, ns, run_id, WAIT_MAX_US)) is None:
                continue
            self._say(pb.StreamedOutcome(tag=tag, closed=convert.run_result(state)))
        except (EngineError, StorageError) as error:
            self._say(pb.StreamedOutcome(tag=tag, error=to_status(to_engine_error(error))))

    def _say(self, outcome: pb.StreamedOutcome) -> None:
        self._out.append(outcome)
        self._wake.set()
