"""One worker's stream, without the wire: messages in, messages out.

Theory of operation
-------------------
`receive` takes one message of the worker and returns at once; results are recorded by tasks of their own, so that many
commits are under way at the same time. `next` gives the next message for the worker: whatever was gathered since the
last one, in one message. The gRPC servicer only pumps these two, and the simulation connects them to a fake wire.

A result is acknowledged after its commit. If the store fails the result is neither acknowledged nor refused: the worker
keeps it and sends it again, and the epoch makes that harmless.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from typing import Final

from windlass.engine import step_types
from windlass.engine.clock import Clock
from windlass.engine.connected import Assignment, Connected, never_sent
from windlass.engine.core import commands as cmd
from windlass.engine.core import jsontext, units
from windlass.engine.core.limits import OUTPUT_BYTES_MAX
from windlass.engine.dispatch import Dispatch
from windlass.engine.errors import EngineError
from windlass.engine.inbound import beats_in, known, release_in, result_in
from windlass.engine.leases import Leases, Report, Told, parse_token, token_of
from windlass.engine.notices import Notices
from windlass.engine.records import SessionRecord, pack
from windlass.engine.service import convert
from windlass.engine.service.status import to_status
from windlass.engine.sessions import Sessions
from windlass.engine.starting import check_name, check_units
from windlass.engine.tasks import failed_unsent, next_tasks, task_cancel
from windlass.engine.work import TaskKey
from windlass.storage.port import StorageError
from windlass.v1 import worker_service_pb2 as pb

log = logging.getLogger(__name__)

#: Nobody waits to hear that a result is recorded: the next message says it, or one of its own after this, in seconds.
ACCEPTED_WITHIN_S: Final = 0.003
#: Results whose recording failed for want of the store are tried again by the engine after this, in seconds.
RETRY_SECONDS: Final = 0.2

#: Of one stream: messages whose reports are being recorded, and answers that it was not sent yet, beyond which nothing
#: more is read. Our own workers have fewer; one that sends without end or does not read would take all memory.
RECORDING_MAX: Final = 64
UNSAID_MAX: Final = 20_000

#: Pairs of queue and kind that one worker may serve: each is a place in a ring.
PAIRS_MAX: Final = 10_000
#: One registration. It is one value of the store (100,000 bytes at most), written again with every renewal.
SESSION_BYTES_MAX: Final = 90_000


class Workers:
    """What a link needs of the engine."""

    def __init__(
        self, clock: Clock, dispatch: Dispatch, leases: Leases, sessions: Sessions, notices: Notices, engine_id: str
    ) -> None:
        self.clock, self.dispatch, self.leases = clock, dispatch, leases
        self.sessions, self.notices, self.engine_id = sessions, notices, engine_id
        self.links: set[Link] = set()


class Link:
    """One worker's stream. Also the outlet through which dispatch reaches the worker."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.session: Connected | None = None
        self._out = pb.StreamTasksResponse()
        self._tasks: deque[Assignment] = deque()
        self._wake = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None
        self._recording: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()  #: set whenever there may be room for more again
        self.closed = False
        self._over: EngineError | None = None  #: why the session is no longer this stream's

    # From the worker

    async def register(self, request: pb.RegisterWorkerRequest) -> None:
        """The first message. Raises EngineError INVALID_FIELD, BAD_TASK_TOKEN."""
        workers = self._workers
        held = [parse_token(token) for token in request.held_task_tokens]
        record, resumed, lost = await workers.sessions.register(
            session_record(request, workers), request.resume_session_id, held, request.handlers
        )
        self.session = workers.dispatch.connect(record, self)
        workers.links.add(self)
        if resumed:
            lost = await workers.sessions.adopt(self.session, held)
        self._out.registered.CopyFrom(registered(record, resumed, lost, workers))
        self._wake.set()

    def receive(self, message: pb.StreamTasksRequest) -> None:
        """Any later message."""
        assert self.session is not None
        if self._over is not None:
            return  # credits and heartbeats would go to whoever has the session now
        if message.task_heartbeats:  # before the results: a failed attempt's last checkpoint is the next one's first
            self._beat(message.task_heartbeats)
        if message.results or message.releases:
            self._spawn(self._record(self._reports(message)))
        if message.credits:
            self._workers.dispatch.grant(self.session.record.session, message.credits)
        if message.HasField("heartbeat"):
            self._spawn(self._renew(message.heartbeat))
        if message.drain:
            self.session.drain()

    def _reports(self, message: pb.StreamTasksRequest) -> list[tuple[TaskKey, Report]]:
        """Results and releases of a message, without those whose token no engine made: these are refused."""
        results, bad_results = known(message.results)
        releases, bad_releases = known(message.releases)
        if refused := bad_results + bad_releases:
            self._out.rejected.extend(refused)
            self._wake.set()
        return results_in(results, self._workers.clock) + releases_in(releases, self._workers.clock)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._recording.add(task)
        task.add_done_callback(self._recorded)

    def _recorded(self, task: asyncio.Task[None]) -> None:
        self._recording.discard(task)
        self._room.set()

    async def until_room(self) -> None:
        """Wait until little enough is under way that the next message may be read."""
        while len(self._recording) >= RECORDING_MAX or self._unsaid() >= UNSAID_MAX:
            self._room.clear()
            await self._room.wait()

    def _unsaid(self) -> int:
        return len(self._out.accepted_task_tokens) + len(self._out.rejected) + len(self._out.cancels)

    async def _record(self, reports: Sequence[tuple[TaskKey, Report]]) -> None:
        while True:
            try:
                self._tell(reports, await self._workers.leases.report(reports))
                return
            except StorageError as error:
                log.warning("results wait for the store: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    def _tell(self, reports: Sequence[tuple[TaskKey, Report]], told: Sequence[Told]) -> None:
        for (task, _), answer in zip(reports, told, strict=True):
            token = token_of(task)
            if answer.over and self.session is not None:
                self._workers.dispatch.end(self.session, task)
            if answer.error is None:
                self._out.accepted_task_tokens.append(token)
            else:
                self._out.rejected.append(pb.RejectedTask(task_token=token, error=to_status(answer.error)))
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(ACCEPTED_WITHIN_S, self._wake.set)

    async def _renew(self, heartbeat: pb.WorkerHeartbeat) -> None:
        assert self.session is not None
        try:
            await self._workers.sessions.renew(self.session.record.session)
        except EngineError:
            self.lapsed()
            return
        except StorageError as error:
            log.warning("a heartbeat was not recorded: %s", error)
            return  # unanswered: the worker counts on its last renewal
        lease = convert.duration(self._workers.sessions.lease_us)
        self._out.heartbeat.CopyFrom(pb.HeartbeatAck(number=heartbeat.number, lease_duration=lease))
        self._wake.set()

    def _beat(self, heartbeats: Iterable[pb.TaskHeartbeat]) -> None:
        assert self.session is not None
        now_us = self._workers.clock.now_us()
        reports, lost = beats_in(heartbeats, self.session.held, self._workers.notices, now_us)
        if lost:
            self._out.cancels.extend(
                pb.TaskCancel(task_token=token, reason=pb.CANCEL_REASON_LOST, message=why) for token, why in lost
            )
            self._wake.set()
        if reports:
            self._spawn(self._note(reports))

    async def _note(self, reports: Sequence[tuple[TaskKey, Report]]) -> None:
        """Record checkpoints, once, since the next may be newer; and extensions until they are recorded."""
        assert self.session is not None
        told: list[Told] = []
        while reports and not told:
            try:
                told = await self._workers.leases.report(reports)
            except StorageError as error:
                log.warning("checkpoints or extensions were not recorded: %s", error)
                reports = [each for each in reports if isinstance(each[1], cmd.TaskExtended)]
                await asyncio.sleep(RETRY_SECONDS)
        for (task, _), answer in zip(reports, told, strict=True):
            if answer.error is not None:
                self._workers.dispatch.end(self.session, task)
                self.send_stop(task, "lost")

    # To the worker (the outlet)

    def send_tasks(self, assignments: list[Assignment]) -> None:
        """Leased tasks, after their commit."""
        self._tasks += assignments
        self._wake.set()

    def send_stop(self, task: TaskKey, reason: str) -> None:
        """Stop a task."""
        self._out.cancels.append(task_cancel(task, reason))
        self._wake.set()

    def send_drain(self) -> None:
        """The engine stops, or the session is gone."""
        self._out.drain = True
        self._wake.set()

    def lapsed(self) -> None:
        """The session is gone: end the stream, so that the worker registers again."""
        self._over = EngineError("SESSION_NOT_FOUND", "the worker's session has lapsed; register again")
        self._wake.set()

    def replaced(self) -> list[TaskKey]:
        """Another stream resumed the session, here or at another engine: the tasks are that one's."""
        message = "another stream has taken over this session: drop its tasks, and register without it"
        self._over = EngineError("SESSION_REPLACED", message)
        self._wake.set()
        return never_sent(self._tasks)

    def hang_up(self) -> list[TaskKey]:
        """Say what is left, then end."""
        self.closed = True
        self._wake.set()
        return []

    async def next(self) -> pb.StreamTasksResponse | None:
        """Wait for something to say, and say all of it; None at the end. Raises EngineError SESSION_NOT_FOUND,
        SESSION_REPLACED.
        """
        await self._wake.wait()
        if self._over is not None:
            raise self._over
        if self.closed and not self._tasks and not self._out.ByteSize():
            return None
        if self._later is not None:
            self._later.cancel()
            self._later = None
        out, self._out = self._out, pb.StreamTasksResponse()
        self._room.set()
        out.tasks.extend(next_tasks(self._tasks, self._refused))
        if not self._tasks and not self.closed:
            self._wake.clear()
        return out

    def _refused(self, assignment: Assignment, failure: cmd.Failure) -> None:
        """A task that no message can hold has failed."""
        self._spawn(self._record([failed_unsent(assignment, failure)]))

    async def settle(self) -> None:
        """Wait until the results received so far are recorded and answered."""
        while self._recording:
            await asyncio.wait(set(self._recording))

    async def settle_within(self, seconds: float) -> None:
        """The same, but what the store does not take in this time is given up: the worker sends it again elsewhere."""
        try:
            async with asyncio.timeout(seconds):
                await self.settle()
        except TimeoutError:
            log.warning("%d batches of results wait for the store and are left to the worker", len(self._recording))
            for task in self._recording:
                task.cancel()

    async def close(self) -> None:
        """The stream ended. Results received are still recorded; the leases live on until the session lapses."""
        self.closed = True
        self._workers.links.discard(self)
        if self.session is not None:
            mine = self._workers.dispatch.disconnect(self.session.record.session, self) is not None
            if mine and self.session.record.draining and not self.session.held:
                try:
                    await self._workers.sessions.end(self.session.record.session, "the worker drained", unbegun=True)
                except StorageError as error:
                    log.warning("a drained worker's session could not be ended, it will lapse: %s", error)
        await self.settle()


def session_record(request: pb.RegisterWorkerRequest, workers: Workers) -> SessionRecord:
    """What is stored of a registration. Raises EngineError INVALID_FIELD."""
    _check_shape(request)
    kinds = [runtime.name for runtime in request.runtimes if runtime.name != "python"]
    kinds += [f"python:{each.handler}" for each in request.handlers]
    for field, values in (("queues", request.queues), ("runtimes", kinds)):
        for value in values:
            check_name(value, field)
            if units.split_kind(value)[1]:  # it would pass for the queue of tasks with needs
                raise EngineError("INVALID_FIELD", f"{field}: {value!r} ends like the needs of a task", field=field)
    if max(1, len(request.queues)) * len(kinds) > PAIRS_MAX:
        raise EngineError("INVALID_FIELD", f"queues times runtimes and handlers: at most {PAIRS_MAX}", field="queues")
    record = SessionRecord(
        session=workers.clock.new_id(),
        worker=check_name(request.worker_id, "worker_id", required=False) or f"worker-{workers.clock.new_id()[-12:]}",
        namespace=check_name(request.namespace or "default", "namespace"),
        queues=tuple(request.queues) or ("default",),
        kinds=tuple(kinds),
        slots=request.slots,
        expires_us=0,
        engine=workers.engine_id,
        labels=dict(request.labels),
        versions={runtime.name: runtime.version for runtime in request.runtimes},
        active_guards=tuple(request.active_guards),
        missing_guards=tuple(request.missing_guards),
        host=request.host,
        sdk=request.sdk,
        instance=request.instance_id,
        offer=check_units(request.offered_units, "offered_units", units.OFFER_MAX),
    )
    if (size := len(pack(record))) > SESSION_BYTES_MAX:
        much = f"the registration has {size} bytes without its schemas, {SESSION_BYTES_MAX} are allowed"
        message = f"{much}: offer fewer handlers, or fewer labels"
        raise EngineError("PAYLOAD_TOO_LARGE", message, size=str(size), limit=str(SESSION_BYTES_MAX))
    return record


def _check_shape(request: pb.RegisterWorkerRequest) -> None:
    """What nobody could make use of. Raises EngineError INVALID_FIELD, PAYLOAD_TOO_LARGE."""
    if request.slots < 0:
        raise EngineError("INVALID_FIELD", "slots must not be negative", field="slots")
    step_types.check(request.handlers)
    for each in request.handlers:
        check_name(each.handler, "handlers")
        schemas = {"input": each.input_schema, "output": each.output_schema, "config": each.config_schema}
        for name, schema in schemas.items():
            if schema and (flaw := jsontext.flaw(schema)):
                message = f"handlers: the {name} schema of {each.handler!r} is {flaw}"
                raise EngineError("INVALID_FIELD", message, field="handlers")


def registered(
    record: SessionRecord, resumed: bool, lost: Sequence[TaskKey], workers: Workers
) -> pb.RegisterWorkerResponse:
    """The answer to a registration."""
    lease_us = workers.sessions.lease_us
    return pb.RegisterWorkerResponse(
        session_id=record.session,
        worker_id=record.worker,
        lease_duration=convert.duration(lease_us),
        heartbeat_interval=convert.duration(lease_us // 3),
        lost_task_tokens=[token_of(task) for task in lost],
        max_message_bytes=4 << 20,
        max_output_bytes=OUTPUT_BYTES_MAX,
        engine_id=workers.engine_id,
        resumed=resumed,
    )


def results_in(results: Iterable[pb.TaskResult], clock: Clock) -> list[tuple[TaskKey, Report]]:
    """Results as reports. Raises EngineError BAD_TASK_TOKEN."""
    return [result_in(result, clock) for result in results]


def releases_in(releases: Iterable[pb.TaskRelease], clock: Clock) -> list[tuple[TaskKey, Report]]:
    """Leases given back, as reports. Raises EngineError BAD_TASK_TOKEN."""
    return [release_in(release, clock) for release in releases]
