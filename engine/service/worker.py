"""WorkerService: the stream that carries tasks, and the unary path with the same leases for workers of any language."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

import grpc

from windlass.engine.connected import Connected
from windlass.engine.eager import send_unheard
from windlass.engine.errors import EngineError
from windlass.engine.inbound import beats_in, known
from windlass.engine.leases import Report, parse_token, token_of
from windlass.engine.link import Link, Workers, registered, releases_in, results_in, session_record
from windlass.engine.modules import Modules
from windlass.engine.pacing import Pace
from windlass.engine.polling import Mailbox, Poll, wait
from windlass.engine.service import convert
from windlass.engine.service.status import Context, refuse, rpc, rpc_stream, rpc_waiting, to_status, wait_s
from windlass.engine.tasks import TASKS_MAX
from windlass.engine.work import TaskKey
from windlass.storage.port import StorageError
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import worker_service_pb2_grpc

log = logging.getLogger(__name__)

#: Longest wait of one PollTasks call, in µs.
POLL_MAX_US: Final = 30_000_000
#: Results that are a poll, too, wait this long for tasks that lie queued: a transaction or two, in µs.
AT_HAND_US: Final = 50_000
#: Results, or releases, in one call.
REPORTS_MAX: Final = 1000
CHUNK_BYTES: Final = 256 * 1024


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """Handlers of WorkerService."""

    def __init__(self, workers: Workers, modules: Modules) -> None:
        self._workers, self._modules = workers, modules

    async def StreamTasks(  # type: ignore[override]  # the stubs know only the generator form
        self, request_iterator: object, context: Context
    ) -> None:
        """The fast path: one stream per worker, batches both ways."""
        link = Link(self._workers)
        try:
            first = await context.read()
            if first is grpc.aio.EOF or not first.HasField("register"):
                raise EngineError("INVALID_FIELD", "the first message must carry `register`", field="register")
            await link.register(first.register)
            link.receive(first)
            await self._pump(link, context)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - the outermost frame: every error becomes a status
            await refuse(context, error)
        finally:
            await link.close()

    async def _pump(self, link: Link, context: Context) -> None:
        reading = asyncio.create_task(self._read(link, context))
        writing = asyncio.create_task(self._write(link, context))
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
                await link.settle()
                link.hang_up()  # the worker has no more to say: tell it what is left, and end
                await writing
            else:
                writing.result()
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)  # what ended the stream was raised above

    async def _read(self, link: Link, context: Context) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            link.receive(message)
            await link.until_room()

    async def _write(self, link: Link, context: Context) -> None:
        pace = Pace()
        while (message := await link.next()) is not None:
            await context.write(message)
            pace.carried(len(message.tasks) + len(message.accepted_task_tokens))
            await pace.turn()

    @rpc
    async def RegisterWorker(self, request: pb.RegisterWorkerRequest) -> pb.RegisterWorkerResponse:
        """The unary path's first call."""
        held = [parse_token(token) for token in request.held_task_tokens]
        record = session_record(request, self._workers)
        record, resumed, lost = await self._workers.sessions.register(
            record, request.resume_session_id, held, request.handlers
        )
        session = self._workers.dispatch.connect(record, Mailbox())
        if resumed:
            lost = await self._workers.sessions.adopt(session, held)
        return registered(record, resumed, lost, self._workers)

    def _polling(self, session_id: str) -> tuple[Connected, Mailbox] | None:
        session = self._workers.dispatch.connected.get(session_id)
        if session is None or not session.mine or not isinstance(session.outlet, Mailbox):
            return None
        return session, session.outlet

    async def _mailbox(self, session_id: str) -> tuple[Connected, Mailbox]:
        """A session and its mailbox, made anew if another engine had it until now: leases of a session that two engines
        lease to would look lost to each of them. It is connected until the next await.

        Raises EngineError SESSION_NOT_FOUND.
        """
        sessions = self._workers.sessions
        while (found := self._polling(session_id)) is None:
            record = await sessions.take(session_id, self._workers.engine_id)
            if self._polling(session_id) is None:  # nor by a call meanwhile
                await sessions.adopt(self._workers.dispatch.connect(record, Mailbox()))
        return found

    async def _here(self, session_id: str) -> Connected:
        """A session as it is connected, so that a call about it does not take it away from its stream, nor from another
        engine: of that one's leases this engine reads what it must know. Raises EngineError SESSION_NOT_FOUND.
        """
        dispatch, sessions = self._workers.dispatch, self._workers.sessions
        while (found := dispatch.connected.get(session_id)) is None or not found.mine:
            record = await sessions.find(session_id)
            if sessions.alone or record.engine == self._workers.engine_id:
                return (await self._mailbox(session_id))[0]
            if (found := dispatch.connected.get(session_id)) is None:
                found = dispatch.connect(record, Mailbox())
                found.mine = False
            await sessions.adopt(found)
            if dispatch.connected.get(session_id) is found:
                break
        return found

    async def _beating(self, session_id: str) -> tuple[Connected, Mailbox]:
        """A session, and where the answer to a heartbeat comes from. What a stream has to say it says itself: then the
        answer holds only what this call finds. Raises EngineError SESSION_NOT_FOUND.
        """
        session = await self._here(session_id)
        return session, session.outlet if isinstance(session.outlet, Mailbox) else Mailbox()

    @rpc_waiting
    async def PollTasks(self, request: pb.PollTasksRequest, by_s: float) -> pb.PollTasksResponse:
        """Long poll: answers with tasks as soon as there are some, empty when the wait is over."""
        _check_most(request.max_tasks)
        await self._workers.sessions.renew(request.session_id)
        wait_us = convert.span_us(request.wait_timeout, "wait_timeout") or POLL_MAX_US
        polled = await self._poll(request.session_id, request.number, max(1, request.max_tasks))
        with polled.open():
            await self._workers.sessions.give_back_lost(polled.connected, polled.number)
            await self._send_unheard(polled)
            await wait(polled.filled, wait_s(min(wait_us, POLL_MAX_US), by_s))
        return await self._polled(polled)

    async def _poll(self, session_id: str, number: int, most: int) -> Poll:
        if number:
            await self._workers.sessions.leave_if_moved(session_id)
        connected, mailbox = await self._mailbox(session_id)
        return Poll(self._workers.dispatch, connected, mailbox, number, min(most, TASKS_MAX))

    async def _send_unheard(self, poll: Poll) -> None:
        """What is due to be sent once more comes with this answer: the next moment with credits may be as short."""
        workers = self._workers
        await send_unheard(poll.connected, workers.dispatch, workers.leases, workers.clock.now_us())

    async def _polled(self, poll: Poll) -> pb.PollTasksResponse:
        """What came for a poll; nothing if a newer one has taken its place."""
        if not poll.newest:
            return pb.PollTasksResponse()
        reply = poll.mailbox.empty(poll.most)
        try:
            await self._refuse_unsent(poll.mailbox)
        except BaseException:
            if poll.newest:
                poll.mailbox.put_back(poll.connected.held)
            raise
        return reply

    async def _refuse_unsent(self, mailbox: Mailbox) -> None:
        """Fail the tasks that no message can hold. While the store does not answer they wait for the next poll."""
        unsent, mailbox.unsent = mailbox.unsent, []
        try:
            if unsent:
                await self._workers.leases.report(unsent)
        except BaseException as error:
            mailbox.unsent[:0] = unsent
            if not isinstance(error, StorageError):
                raise
            log.warning("tasks that are too large to be sent wait for the store: %s", error)

    @rpc
    async def HeartbeatTasks(self, request: pb.HeartbeatTasksRequest) -> pb.HeartbeatTasksResponse:
        await self._workers.sessions.renew(request.session_id)
        connected, mailbox = await self._beating(request.session_id)
        good, _ = known(request.heartbeats)
        await self._workers.sessions.recall(connected, [parse_token(beat.task_token) for beat in good])
        now_us = self._workers.clock.now_us()
        reports, lost = beats_in(request.heartbeats, connected.held, self._workers.notices, now_us)
        for (task, _), told in zip(reports, await self._workers.leases.report(reports), strict=True):
            if told.error is not None:
                self._end(request.session_id, task)
                mailbox.send_stop(task, "lost")
        gone = [pb.TaskCancel(task_token=token, reason=pb.CANCEL_REASON_LOST, message=why) for token, why in lost]
        return pb.HeartbeatTasksResponse(cancels=[*gone, *mailbox.take_cancels()])

    @rpc_waiting
    async def CompleteTasks(self, request: pb.CompleteTasksRequest, by_s: float) -> pb.CompleteTasksResponse:
        """Results; anyone who has a token may complete its task (B7). With `max_tasks` a poll, too."""
        _check_many(len(request.results), "results")
        good, bad = known(request.results)
        results = results_in(good, self._workers.clock)
        if not request.max_tasks:
            accepted, rejected = await self._report(request.session_id, results)
            return pb.CompleteTasksResponse(accepted_task_tokens=accepted, rejected=[*rejected, *bad])
        _check_most(request.max_tasks)
        await self._workers.sessions.renew(request.session_id)
        poll = await self._poll(request.session_id, request.number, request.max_tasks)
        with poll.open():  # so that the transaction which records a result may lease the run's next task
            await self._workers.sessions.give_back_lost(poll.connected, poll.number)
            accepted, rejected = await self._report(request.session_id, results)
            await self._send_unheard(poll)
            if self._workers.dispatch.has_queued(poll.connected):
                await wait(poll.filled, wait_s(AT_HAND_US, by_s))
        more = await self._polled(poll)
        return pb.CompleteTasksResponse(
            accepted_task_tokens=accepted,
            rejected=[*rejected, *bad],
            tasks=more.tasks,
            cancels=more.cancels,
            drain=more.drain,
        )

    @rpc
    async def ReleaseTasks(self, request: pb.ReleaseTasksRequest) -> pb.ReleaseTasksResponse:
        _check_many(len(request.releases), "releases")
        good, bad = known(request.releases)
        accepted, rejected = await self._report(request.session_id, releases_in(good, self._workers.clock))
        return pb.ReleaseTasksResponse(accepted_task_tokens=accepted, rejected=[*rejected, *bad])

    def _end(self, session_id: str, task: TaskKey) -> None:
        """The lease is gone. Whoever has the token may have reported it, with or without naming the session."""
        connected = self._workers.dispatch.connected
        named = connected.get(session_id)
        for session in [named] if named is not None else list(connected.values()):
            self._workers.dispatch.end(session, task)

    async def _report(
        self, session_id: str, reports: list[tuple[TaskKey, Report]]
    ) -> tuple[list[bytes], list[pb.RejectedTask]]:
        told = await self._workers.leases.report(reports)
        accepted, rejected = [], []
        for (task, _), answer in zip(reports, told, strict=True):
            if answer.over:
                self._end(session_id, task)
            if answer.error is None:
                accepted.append(token_of(task))
            else:
                rejected.append(pb.RejectedTask(task_token=token_of(task), error=to_status(answer.error)))
        return accepted, rejected

    @rpc
    async def HeartbeatWorker(self, request: pb.HeartbeatWorkerRequest) -> pb.HeartbeatWorkerResponse:
        await self._workers.sessions.renew(request.session_id)
        _, mailbox = await self._beating(request.session_id)
        lease = convert.duration(self._workers.sessions.lease_us)
        ack = pb.HeartbeatAck(number=request.heartbeat.number, lease_duration=lease)
        return pb.HeartbeatWorkerResponse(heartbeat=ack, cancels=mailbox.take_cancels(), drain=mailbox.drain)

    @rpc
    async def DrainWorker(self, request: pb.DrainWorkerRequest) -> pb.DrainWorkerResponse:
        session = await self._here(request.session_id)
        session.drain()
        held = len(session.held)
        if request.close:
            await self._workers.sessions.end(request.session_id, "the worker said goodbye", unbegun=request.unbegun)
        return pb.DrainWorkerResponse(held=held)

    @rpc_stream
    async def FetchModule(self, request: pb.FetchModuleRequest) -> AsyncIterator[pb.FetchModuleResponse]:
        ns = request.namespace or "default"
        if request.signatures_only:
            record = await self._modules.record(ns, request.digest)
            yield pb.FetchModuleResponse(total_bytes=record.size, signatures=convert.signatures_out(record.signatures))
            return
        record, data = await self._modules.get(ns, request.digest)
        for at in range(0, max(len(data), 1), CHUNK_BYTES):
            yield pb.FetchModuleResponse(chunk=data[at : at + CHUNK_BYTES], total_bytes=record.size)


def _check_most(max_tasks: int) -> None:
    if max_tasks < 0:
        raise EngineError("INVALID_FIELD", "max_tasks must not be negative", field="max_tasks")


def _check_many(count: int, field: str) -> None:
    if count > REPORTS_MAX:
        message = f"{count} {field} in one call, {REPORTS_MAX} are allowed: hand them in with several"
        raise EngineError("INVALID_FIELD", message, field=field)
