"""The worker process's loop: one stream at a time, to one engine at a time, until it is drained.

Theory of operation. `Session` decides what is said and what must happen, `Execution` runs the tasks, this joins both
to a wire. Three things go on at once, all on one event loop: the reader (in `_converse`), the writer (`_write`), and
a timer for what the session must do by the clock (`_on_timer`). The timer never waits for the network: a task whose
lease runs out is stopped even while a write hangs in a dead connection. The writer sends at once if it has been quiet
and nothing else is at work, and else waits a little for more: a lone result is not held up, and under load many share a
message.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.actions import Action, Cancel, Reconnect, Refused, Registered, Start, Stop
from windlass.worker.backoff import Backoff
from windlass.worker.book import Answer
from windlass.worker.contact import check_contact, is_final, no_answer
from windlass.worker.execution import Execution
from windlass.worker.journal import Journal
from windlass.worker.session import Session
from windlass.worker.transport import Signature, Transport, Wire, WireError

#: Between two messages. Each costs both sides about a tenth of a millisecond, however little is in it.
GAP_S: Final = 0.001
#: So many gaps a result waits for others to share its message, while more is at work here than there is to say.
GATHER_GAPS: Final = 5
#: An engine that takes the connection and does not answer the registration within this is left.
REGISTER_WITHIN_S: Final = 10.0
#: After the last task has been given back, this long for the engine to take it down.
FAREWELL_S: Final = 2.0
#: The session is gone, or another stream's: nothing that is held counts, and the worker registers anew.
_FORGOTTEN: Final = {
    "SESSION_NOT_FOUND": "the engine does not know the session any more",
    "SESSION_REPLACED": "another stream has taken over the session",
}


class Worker:
    """One worker: a session, its execution and its engines."""

    def __init__(
        self,
        session: Session,
        execution: Execution,
        transport: Transport,
        engines: Sequence[str],
        journal: Journal,
        backoff: Backoff,
        *,
        first_contact_s: float = 30.0,
        drain_s: float = 30.0,
    ) -> None:
        """`first_contact_s`: give up if no engine takes the registration by then; infinity = never.

        `drain_s`: how long running tasks may go on after `drain`.
        """
        self.session = session
        self.execution = execution
        self._transport = transport
        self._engines = list(engines)
        self._journal = journal
        self._backoff = backoff
        self._first_contact_s = first_contact_s
        self._drain_s = drain_s
        self._turn = 0
        self._wire: Wire | None = None
        self.idle = asyncio.Event()  #: set while no task is being worked on
        self.busy = asyncio.Event()  #: set while one is
        self.contact = asyncio.Event()  #: set while an engine knows this worker
        self.alone = asyncio.Event()  #: set while none does
        self._said = asyncio.Event()  # the session may have something to say
        self._over = asyncio.Event()  # drained: nothing is held, or there is no more time for it
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0
        self._registering: asyncio.Timeout | None = None
        self._deadlines: list[asyncio.TimerHandle] = []
        self._closings: set[asyncio.Task[None]] = set()
        self._goodbye: asyncio.Task[None] | None = None
        self._ever_registered = self._hurried = False
        execution.attach(self._answered, self._noted, self.fetch_module, self.fetch_signatures)

    # ---- life

    async def run(self) -> None:
        """Work until drained. Raises Unreachable if it never got to work."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + self._first_contact_s
        try:
            while not self._over.is_set():
                error = await self._converse(self._engines[self._turn % len(self._engines)])
                if not self._ever_registered:
                    check_contact(self._engines, error, too_late=loop.time() >= give_up_s)
                await self._pause()
        finally:
            for timer in (*self._deadlines, *([self._timer] if self._timer else [])):
                timer.cancel()
            await self.execution.close()
            if self._goodbye is not None:
                await self._goodbye
            await asyncio.gather(*self._closings)

    def offer(self) -> str:
        """For StartRun's `eager_session_id`; `take` must follow. Empty: there is no room for one more, or no engine."""
        return self.session.offer()

    def take(self, task: wire.Task | None) -> None:
        """Do the task that came with the answer to a start, if one did. One that is here already is not done twice."""
        self._perform(self.session.offered(task))
        self._stir()

    def drain(self) -> None:
        """Take no more tasks, finish what runs, then end `run`. A second call ends it at once."""
        if self._hurried:
            self._give_up_running()
            return
        self._hurried = True
        self._journal.info("draining", running=self.session.working, seconds=self._drain_s)
        self.session.drain()
        self.execution.release_waiting("the worker drains")
        self._later(self._drain_s, self._give_up_running)
        self._stir()

    def finish(self) -> None:
        """Take no more tasks, then end `run` when all that is here is answered, however long that takes."""
        self.session.drain()
        self._stir()

    def _give_up_running(self) -> None:
        self.execution.release_running("the worker had to stop")
        self._stir()
        self._later(FAREWELL_S, self._end)

    def _later(self, delay_s: float, what: Callable[[], None]) -> None:
        self._deadlines.append(asyncio.get_running_loop().call_later(delay_s, what))

    def _end(self) -> None:
        self._over.set()
        self._leave()

    async def _pause(self) -> None:
        """Wait before the next connection, or until there is no need for one."""
        if self._over.is_set():
            return
        most_s = self.session.try_within_s(asyncio.get_running_loop().time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._backoff.next_s(most_s)):
                await self._over.wait()

    # ---- one connection

    async def _converse(self, engine: str) -> WireError | None:
        """Open a stream and keep it as long as it lasts. Returns why it ended, None if the engine just ended it."""
        writer: asyncio.Task[None] | None = None
        ending: WireError | None = None
        try:
            self._wire = current = await self._transport.open(engine)
            self._receive(await self._first(current))
            writer = asyncio.create_task(self._write(current))
            writer.add_done_callback(self._writer_ended)
            while (message := await current.receive()) is not None:
                self._receive(message)
        except WireError as error:
            ending = error
        finally:
            if writer:
                writer.cancel()
            await self._disconnected(engine, ending)
        return ending

    async def _first(self, current: Wire) -> wire.StreamTasksResponse:
        """Register. The sending, too, has its time: an engine that is frozen takes a connection and nothing else."""
        try:
            # wait_for would swallow a cancel that comes with the answer
            async with asyncio.timeout(REGISTER_WITHIN_S) as self._registering:
                await current.send(self.session.opened(self._now()))
                message = await current.receive()
        except TimeoutError as error:
            raise no_answer() from error
        finally:
            self._registering = None
        if message is None:
            raise no_answer()
        return message

    async def _disconnected(self, engine: str, error: WireError | None) -> None:
        self._turn += 1
        was_registered = self.session.registered
        self.contact.clear()
        self.alone.set()
        self.session.lost()
        if error is not None and error.refusal.reason in _FORGOTTEN:
            self._perform(self.session.forgotten(_FORGOTTEN[error.refusal.reason]))
        self._arm()
        if self._goodbye is not None:  # it ends the stream before it is answered, on the same channel
            await self._goodbye
        if self._wire is not None:
            current, self._wire = self._wire, None
            await current.close()
        self._tell_disconnected(engine, error, was_registered=was_registered)

    def _tell_disconnected(self, engine: str, error: WireError | None, *, was_registered: bool) -> None:
        """One warning for each time that it loses its engines, or finds none at the start."""
        why = error or "the engine ended the stream"
        if not self._ever_registered and error is not None and is_final(error):
            return  # there is one; the line with which this worker ends says what it does not take
        if not self._ever_registered:
            tell = self._journal.debug if self._turn > 1 else self._journal.warning
            tell("no engine yet", engine=engine, why=why, trying_for_s=self._first_contact_s)
        elif was_registered:
            tell = self._journal.info if self._over.is_set() else self._journal.warning
            tell("disconnected", engine=engine, why=why, held=self.session.held)

    async def _write(self, current: Wire) -> None:
        """Say whatever there is to say, for as long as this stream lasts."""
        last_s = float("-inf")
        try:
            while True:
                await self._said.wait()
                await asyncio.sleep(max(0.0, last_s + GAP_S - self._now()))
                for _ in range(GATHER_GAPS):
                    if not self.session.gathering:
                        break
                    await asyncio.sleep(GAP_S)
                self._said.clear()
                while (message := self.session.outgoing()) is not None:
                    await current.send(message)
                    last_s = self._now()
                self._arm()
        except WireError:
            await current.close()  # the reader then ends, and says why

    def _writer_ended(self, writer: asyncio.Task[None]) -> None:
        """A writer ends with its stream; anything else is a defect, and a stream that only listens is no use."""
        if not writer.cancelled() and (error := writer.exception()) is not None:
            self._journal.error("the writer failed", error=repr(error))
            self._leave()

    # ---- what the session wants

    def _receive(self, message: wire.StreamTasksResponse) -> None:
        self._perform(self.session.received(message, self._now()))
        self._stir()

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Start(task):
                    self.execution.start(task, self._now())
                case Stop(token, why):
                    self._journal.warning("task stopped", why=why, **self.execution.describe(token))
                    self.execution.drop(token)
                case Cancel(token, why):
                    self._journal.debug("task cancelled", why=why, **self.execution.describe(token))
                    self.execution.cancel(token)
                case Refused(task, refusal):
                    self._journal.warning(
                        "answer refused", run=task.run_id, state=task.state, reason=refusal.reason, why=refusal.message
                    )
                case Reconnect(why):
                    self._journal.info("leaving the engine", why=why)
                    self._leave()
                case Registered(reply):
                    self._on_registered(reply)

    def _on_registered(self, reply: wire.RegisterWorkerResponse) -> None:
        self._backoff.reset()
        self._ever_registered = True
        self.alone.clear()
        self.contact.set()
        self.execution.output_bytes = reply.max_output_bytes
        self._journal.info(
            "registered",
            engine=reply.engine_id,
            worker=reply.worker_id,
            session=reply.session_id,
            resumed=reply.resumed,
            lease_s=self.session.lease.duration_s,
        )

    def _leave(self) -> None:
        if self._registering is not None and not self._registering.expired():
            self._registering.reschedule(self._now())  # gRPC does not wake who sends on a call that never began
        if self._wire is not None:
            closing = asyncio.ensure_future(self._wire.close())
            self._closings.add(closing)
            closing.add_done_callback(self._closings.discard)

    # ---- what the execution says

    def _answered(self, answer: Answer) -> None:
        self.session.answered(answer)
        self._stir()

    def _noted(self, note: wire.TaskHeartbeat) -> None:
        self.session.noted(note, self._now())
        self._arm()

    async def fetch_module(self, namespace: str, digest: str) -> bytes:
        """Fetch task code from the engine of the moment. Raises WireError, also if there is none."""
        if self._wire is None:
            raise no_answer()
        return await self._wire.fetch_module(namespace, digest)

    async def fetch_signatures(self, namespace: str, digest: str) -> list[Signature]:
        """Ask the engine of the moment who signed a module. Raises WireError, also if there is none."""
        if self._wire is None:
            raise no_answer()
        return await self._wire.fetch_signatures(namespace, digest)

    # ---- the clock

    def _stir(self) -> None:
        """Something has happened that may need saying, or may end a drain."""
        self.session.capacity = self.execution.capacity
        begun, ended = (self.busy, self.idle) if self.session.working else (self.idle, self.busy)
        begun.set()
        ended.clear()
        if self.session.draining and not self.session.held and not self._over.is_set():
            self._over.set()
            self._goodbye = asyncio.ensure_future(self._farewell())
        self._said.set()
        self._arm()

    async def _farewell(self) -> None:
        """End the session, so that nobody waits for its lease; the stream ends in any case."""
        if self._wire is not None and self.session.registered:
            try:
                async with asyncio.timeout(FAREWELL_S):
                    await self._wire.leave(self.session.session_id)
            except (WireError, TimeoutError) as error:
                self._journal.warning("the session could not be ended; its lease will run out", why=error)
        self._leave()

    def _arm(self) -> None:
        """Have the timer go off when the session next has something to do by the clock."""
        due_s = self.session.due_s()
        if self._timer is not None:
            if self._timer_s <= due_s:
                return  # it goes off early, finds nothing, and is armed again
            self._timer.cancel()
            self._timer = None
        if due_s != float("inf"):
            # Kept here, as uvloop's handle for a time that has passed does not know its time.
            self._timer, self._timer_s = asyncio.get_running_loop().call_at(due_s, self._on_timer), due_s

    def _on_timer(self) -> None:
        self._timer = None
        # A loop may be early by its clock's resolution: what this was armed for is due all the same.
        self._perform(self.session.tick(max(self._now(), self._timer_s)))
        self._stir()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
