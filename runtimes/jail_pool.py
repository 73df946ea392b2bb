"""A pool of jailed children for one event loop: `await pool.run(activation)` gives a completion and never raises.

Theory of operation. Jobs wait in one queue; `jail_seats` says which child gets which. Children answer in the order in
which they were given work, at once, so the first unanswered job of a child is the one that it runs: that one is to
blame when the child dies or the deadline passes, and the others are given to somebody else. That is safe for untrusted
code and only for it: it can do nothing outside of its process, so it may be run again without anybody noticing.

A child is ended from outside (SIGKILL) when its task is past the wall limit and the grace, when the task is cancelled,
when it wrote something that is no frame, and after a timeout, an exhausted memory or stack, or its share of tasks. A
task whose child died by itself is tried once more in another child; then it is SANDBOX_CRASHED.

All methods must be called from the loop's thread, and `start` from a thread that lives as long as the pool does.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from windlass.runtimes import failures
from windlass.runtimes.jail_admission import completed, refusal_of
from windlass.runtimes.jail_frames import (
    Check,
    Checked,
    Done,
    FromChild,
    Noted,
    Prepare,
    Prepared,
    Ready,
    Recall,
    Recalled,
)
from windlass.runtimes.jail_jobs import RUN_LANE, Durations, JobQueue, PoolJob, believable, messages_for
from windlass.runtimes.jail_nursery import Nursery
from windlass.runtimes.jail_prepare import Preparation
from windlass.runtimes.jail_seats import Seat, Seats
from windlass.runtimes.jail_settings import JailIncomplete, JailReport, JailSettings
from windlass.runtimes.jail_slot import Child
from windlass.runtimes.port import Activation, Completion, Note, Problem, TaskKey, failed
from windlass.runtimes.prepared_cache import PreparedCache

_TICK_SECONDS: Final = 0.01
_SPARE_DELAY_SECONDS: Final = 0.02
_CRASHES_MAX: Final = 2
#: Runtimes report at most ten times a second; a child that says more of one task has been taken over.
_NOTES_MAX: Final = 100_000
#: After these the child is in doubt: an engine's limit was hit in the middle of whatever it was doing.
_TIRING: Final = frozenset(
    {failures.TIMEOUT, failures.OUT_OF_MEMORY, failures.STACK_OVERFLOW, failures.SANDBOX_CRASHED}
)


class SlotPool:
    """Runs activations in jailed children. See the module's text."""

    def __init__(self, settings: JailSettings, cache: PreparedCache | None = None) -> None:
        self.settings = settings
        self._durations = Durations()
        self._seats = Seats(settings)
        self._nursery = Nursery(settings, self._messages, self._child_ended, self._pump)
        self._preparation = Preparation(cache or PreparedCache(), settings, self._enqueue_new)
        self._queue = JobQueue()
        self._by_key: dict[TaskKey, PoolJob] = {}
        self._numbers = itertools.count(1)
        self._ticking: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._preparing: set[asyncio.Task[None]] = set()
        self._closed = False
        #: No task that waits could be given out when that was tried last; cleared by whatever frees a seat.
        self._full = False
        self._crashed = self._killed = self._tasks_done = 0

    # --- for the worker -----------------------------------------------------------------------------------------

    async def start(self) -> JailReport:
        """Start the slots and the spares. Raises JailIncomplete or JailBroken when no task could be run safely."""
        if unknown := self.settings.unknown_layers():
            raise JailIncomplete(f"no such layer of isolation: {', '.join(unknown)}")
        for _ in range(self.settings.slots + self.settings.spares):
            self._seats.add(self._nursery.start_child())
        try:
            await self._nursery.first_birth()
        except Exception:
            await self.close()
            raise
        return self.report()

    async def close(self) -> None:
        """End every child. What still runs or waits is answered with CANCELLED."""
        self._closed = True
        for task in tuple(self._preparing):
            task.cancel()
        for job in (*self._queue, *self._by_key.values(), *(job for seat in self._seats for job in seat.jobs)):
            job.settle(_cancelled("the worker stopped"))
        self._queue.clear()
        for timer in (self._ticking, self._later):
            if timer is not None:
                timer.cancel()
        await self._nursery.close()

    def report(self) -> JailReport:
        """Return what holds, what runs and what happened so far."""
        return JailReport(
            layers=self._nursery.ready.layers,
            runtimes=self._nursery.ready.runtimes,
            queued=len(self._queue),
            children_started=self._nursery.started,
            children_crashed=self._crashed,
            children_killed=self._killed,
            tasks_done=self._tasks_done,
            **self._seats.count(),
        )

    def child_pids(self) -> list[int]:
        """Return the process ids of the children that are ready, for whoever wants to measure them."""
        return [seat.child.pid for seat in self._seats if seat.ready]

    async def run(self, activation: Activation, on_note: Callable[[Note], None] | None = None) -> Completion:
        """Run one attempt. Cancelling the caller cancels the attempt. `on_note` gets what the task says meanwhile."""
        return await self.submit(activation, on_note)

    async def run_batch(self, activations: Sequence[Activation]) -> AsyncIterator[tuple[int, Completion]]:
        """Run several; give (index, completion) as they finish."""
        finished: asyncio.Queue[tuple[int, Completion]] = asyncio.Queue()

        def finish(index: int, answer: asyncio.Future[Any]) -> None:
            finished.put_nowait((index, answer.result()))

        for index, activation in enumerate(activations):
            self.submit(activation).add_done_callback(partial(finish, index))
        for _ in activations:
            yield await finished.get()

    def submit(
        self, activation: Activation, on_note: Callable[[Note], None] | None = None
    ) -> asyncio.Future[Completion]:
        """Queue one attempt and return its future: `run` without a coroutine. Cancelling the future cancels it."""
        whole = completed(activation, self.settings)
        job = PoolJob(next(self._numbers), whole, f"{RUN_LANE}{self._realm(whole)}", whole.limits.wall_us, on_note)
        refusal = _cancelled("the worker stopped") if self._closed else refusal_of(whole, self.settings)
        if refusal is not None:
            job.settle(refusal)
            return job.answer
        self._by_key[whole.task.key] = job
        job.answer.add_done_callback(partial(self._answered, job, whole.task.key))
        self._prepare(job, whole)
        return job.answer

    def cancel(self, key: TaskKey, reason: str = "cancelled") -> bool:
        """Interrupt an attempt, wherever it is; it need not cooperate. False when it is not here (any more)."""
        job = self._by_key.get(key)
        if job is None or job.state == "settled":
            return False
        self._withdraw(job)
        job.settle(_cancelled(reason))
        self._pump()
        return True

    def withdraw(self, key: TaskKey) -> bool:
        """Take an attempt back that no child has been given yet; it is answered CANCELLED. False: it may have begun.

        What is being compiled counts as begun: taken back, it would have to be compiled from the start elsewhere.
        """
        job = self._by_key.get(key)
        if job is None or job.state != "queued" or self._preparation.at_work(job.prepared_name):
            return False
        self._withdraw(job)
        job.settle(_cancelled("withdrawn before it began"))
        return True

    async def check(self, runtime: str, code: bytes) -> tuple[Problem, ...]:
        """Say what is wrong with code, before it is stored. Nothing of it is read by this process."""
        if not any(info.name == runtime and not info.missing for info in self._nursery.ready.runtimes):
            return (Problem(f"this worker has no runtime called {runtime!r}"),)
        answer = await self._enqueue_new(Check(0, runtime, code), "check", self.settings.prepare_wall_us).answer
        if isinstance(answer, Checked):
            return answer.problems
        return (Problem(f"checking the code failed: {getattr(answer.failure, 'message', 'no answer')}"),)

    # --- jobs on their way in -----------------------------------------------------------------------------------

    def _realm(self, activation: Activation) -> str:
        return activation.task.namespace if self.settings.isolate_namespaces else ""

    def _prepare(self, job: PoolJob, activation: Activation) -> None:
        runtime = next((info for info in self._nursery.ready.runtimes if info.name == activation.runtime), None)
        if runtime is None or not runtime.prepares:
            self._enqueue(job)
            return
        job.prepared_name = self._preparation.name_of(activation, runtime, self._realm(activation))
        known = self._preparation.known(job.prepared_name)
        if known is not None:
            self._enqueue_prepared(job, known)
            return
        task = asyncio.get_running_loop().create_task(self._wait_prepared(job, activation))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)
        job.answer.add_done_callback(lambda _: task.cancel())  # cancelled meanwhile: nobody waits for its code

    async def _wait_prepared(self, job: PoolJob, activation: Activation) -> None:
        realm = self._realm(activation)
        self._enqueue_prepared(job, await self._preparation.make(job.prepared_name, activation, realm))

    def _enqueue_prepared(self, job: PoolJob, prepared: bytes | Completion) -> None:
        if isinstance(prepared, Completion):
            job.settle(prepared)
        else:
            job.prepared = prepared
            self._enqueue(job)

    def _enqueue_new(self, request: Check | Prepare, lane: str, wall_us: int) -> PoolJob:
        number = next(self._numbers)
        job = PoolJob(number, msgspec.structs.replace(request, number=number), lane, wall_us)
        job.answer.add_done_callback(partial(self._abandoned, job))
        self._enqueue(job)
        return job

    def _enqueue(self, job: PoolJob) -> None:
        if job.state == "queued":
            job.expected_us = self._durations.expected_us(job.digest) if job.is_small else float("inf")
            self._queue.append(job)
            if not self._full:
                self._pump()

    def _answered(self, job: PoolJob, key: TaskKey, answer: asyncio.Future[Any]) -> None:
        if self._by_key.get(key) is job:
            del self._by_key[key]
        self._abandoned(job, answer)

    def _abandoned(self, job: PoolJob, answer: asyncio.Future[Any]) -> None:
        if answer.cancelled() and job.state != "settled":
            self._withdraw(job)
            job.state = "settled"
            self._pump()

    def _withdraw(self, job: PoolJob) -> None:
        """Take a job out of the queue or out of its child. The child is killed if it runs the job at this moment."""
        seat = self._seats.of(job.child) if job.child else None
        if seat is None:
            self._queue.discard(job)
        elif seat.jobs[0] is job:
            seat.take_first()
            self._give_up(seat, "its task was cancelled")
        else:
            seat.jobs.remove(job)
            seat.give([])
            self._recall(seat, [job])

    # --- children -----------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Give out what can be given out, and see to it that there are children."""
        if self._closed:
            return
        now = asyncio.get_running_loop().time()
        while self._queue and (placed := self._seats.place(self._queue)):
            seat, jobs = placed
            if not seat.jobs:
                seat.began = now
            seat.last_used = now
            seat.give(jobs)
            seat.child.send(*messages_for(seat.child, jobs))
            seat.gather()
            if (surplus := self._seats.to_sacrifice()) is not None:
                self._give_up(surplus, "another namespace needs its slot")
        self._full = bool(self._queue) and any(job.kind == "run" for job in self._queue.heads())
        if self._queue:
            self._start_children()
        elif self._later is None and self._seats.children_wanted(False):
            # Nobody waits: starting a process holds up the loop for a moment, so whoever comes next goes first.
            self._later = asyncio.get_running_loop().call_later(_SPARE_DELAY_SECONDS, self._start_children)
        if self._ticking is None and any(seat.busy for seat in self._seats):
            self._ticking = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick)

    def _start_children(self) -> None:
        self._later = None
        if self._nursery.open and not self._closed:
            for _ in range(self._seats.children_wanted(bool(self._queue))):
                self._seats.add(self._nursery.start_child())

    def _tick(self) -> None:
        """Look at the clock while something runs: end what is too late, relieve who waits behind a straggler."""
        self._ticking = None
        now = asyncio.get_running_loop().time()
        for seat in self._seats:
            if not seat.jobs:
                if seat.recalls and now - seat.began > self.settings.grace_us / 1e6:
                    self._give_up(seat, "it kept what was taken back")  # begun by then, or it does not listen
                continue
            job = seat.jobs[0]
            if now - seat.began > job.wall_seconds + self.settings.grace_us / 1e6:
                seat.take_first()
                self._give_up(seat, "its task was past the deadline")
                job.settle(failed(failures.TIMEOUT, f"killed: no end after {job.wall_seconds * 1000:g} ms"))
            elif len(seat.jobs) > 1 and now - seat.began > self.settings.straggler_us / 1e6:
                waiting = list(seat.jobs)[1:]
                seat.jobs.clear()
                seat.give([job])
                self._recall(seat, waiting)
                self._requeue(waiting)
        self._pump()

    def _recall(self, seat: Seat, jobs: list[PoolJob]) -> None:
        numbers = tuple(job.number for job in jobs)
        seat.recalls.append(set(numbers))
        seat.child.send(Recall(numbers))

    def _requeue(self, jobs: Sequence[PoolJob]) -> None:
        for job in jobs:
            job.state, job.child = "queued", None
        self._queue.put_back(jobs)

    def _give_up(self, seat: Seat, because: str) -> None:
        self._seats.remove(seat)
        self._killed += 1
        seat.child.kill(because)
        self._requeue(tuple(seat.jobs))

    def _child_ended(self, child: Child, story: str) -> None:
        seat = self._seats.of(child)
        if seat is None:
            return
        self._seats.remove(seat)
        self._crashed += 1
        if seat.jobs:
            job = seat.take_first()
            self._requeue(tuple(seat.jobs))
            self._crashed_in(job, story)
        self._pump()

    def _crashed_in(self, job: PoolJob, story: str) -> None:
        job.crashes += 1
        self._durations.distrust(job.digest)
        job.expected_us = float("inf")
        if job.crashes < _CRASHES_MAX:
            self._requeue([job])
        else:
            job.settle(failed(failures.SANDBOX_CRASHED, f"the sandbox died twice while it ran this: {story}"))

    def _messages(self, child: Child, messages: list[FromChild]) -> None:
        for message in messages:
            seat = self._seats.of(child)
            if seat is None:
                break  # given up because of the message before this one
            match message:
                case Ready() if not seat.ready:
                    seat.ready = True
                case Noted(number, note):
                    self._noted(seat, number, note)
                case Recalled(numbers) if seat.recalls and seat.recalls[0].issuperset(numbers):
                    seat.recalls.popleft()  # those that are not in `numbers` were answered before
                case Done() | Checked() | Prepared():
                    self._done(seat, message)
                case _:
                    seat.child.kill("it said something that nobody asked for")
        self._pump()
        if (seat := self._seats.of(child)) is not None:
            seat.gather()

    def _noted(self, seat: Seat, number: int, note: Note) -> None:
        if seat.is_ghost(number):
            return
        job = seat.jobs[0] if seat.jobs else None
        if job is None or job.number != number or job.notes >= _NOTES_MAX:
            seat.child.kill("it reported on nothing that runs, or without end")
            return
        job.notes += 1
        if job.on_note is not None:
            job.on_note(note)

    def _done(self, seat: Seat, message: Done | Checked | Prepared) -> None:
        seat.began = seat.last_used = asyncio.get_running_loop().time()
        if seat.lay_ghost(message.number):
            return
        if not seat.jobs or not seat.jobs[0].is_answered_by(message):
            seat.child.kill("it answered a question that nobody asked")  # and counts as crashed, see `_child_ended`
            return
        job = seat.take_first()
        seat.done += 1
        self._tasks_done += 1
        answer: Any = message
        if isinstance(message, Done) and isinstance(job.request, Activation):
            answer = believable(message.completion, job.request)
            if self.settings.batch_max > 1:
                self._durations.learn(job.digest, answer.usage.wall_us)
        code = answer.failure.code if isinstance(answer, Completion) and answer.failure else ""
        if code in _TIRING or seat.kind == "long" or seat.done >= self.settings.recycle_after:
            self._give_up(seat, "its time has come")
        job.settle(answer)


def _cancelled(reason: str) -> Completion:
    return failed(failures.CANCELLED, reason)
