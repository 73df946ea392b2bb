"""Running what the session starts: code by digest, an activation, a slot or a handler, and the answer.

How many tasks to take at once is decided here. Short tasks are taken several per slot, so that they share one
crossing of the pipe into the jail and one message to the engine; tasks that take longer are taken one per slot, so
that none waits here while another worker is idle. Which of the two it is, is learned from the tasks themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

from windlass.runtimes import failures, port
from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.activation import activation_of, answer_of, failed, identity_of, note_of, notes_left
from windlass.worker.book import Answer
from windlass.worker.journal import Journal
from windlass.worker.modules import ModuleCache, ModuleUnusable, Trust, Untrusted
from windlass.worker.slots import Job, Queueing, Slots, Tally
from windlass.worker.transport import Signature, WireError

#: The runtime of trusted handlers; all others are jailed.
PYTHON: Final = "python"
#: As many tasks are taken per slot as it does in about this time: the most that a task waits here for others.
AHEAD_S: Final = 0.05
#: A task that has not begun after this is given back, if more are here than can run at once.
PATIENCE_S: Final = 0.25
#: Else after this share of its time: its code waits for that of others to be compiled.
PATIENCE_SHARE: Final = 0.25
#: Weight of the newest task in that average.
NEWEST: Final = 0.2
#: Pause between tries to fetch a module while the engine is away, and how long it is tried without a timeout given.
FETCH_PAUSE_S: Final = 0.3
FETCH_MOST_S: Final = 60.0


class Execution:
    """All tasks that this worker has, by token."""

    def __init__(
        self,
        jail: Slots | None,
        handlers: Slots | None,
        modules: ModuleCache,
        journal: Journal,
        *,
        slots: int,
        prefetch: int = 256,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        trusted: Trust | None = None,
    ) -> None:
        """`jail` runs untrusted code, `handlers` the runtime "python"; None = this worker has none of them.

        `prefetch`: most tasks that are taken per slot. `trusted`: whose code runs; None = anybody's.
        """
        self.output_bytes = 0  #: the engine's cap; 0 = none
        self.tally = Tally()
        self._jail = jail
        self._handlers = handlers
        self._modules = modules
        self._journal = journal
        self._slots = slots
        self._prefetch = prefetch
        self._clock_us = clock_us
        self._trusted = trusted
        self._average_s = float("inf")
        self._jobs: dict[bytes, Job] = {}
        self._patience: asyncio.TimerHandle | None = None
        self._fetching: set[asyncio.Task[None]] = set()

    def attach(
        self,
        answered: Callable[[Answer], None],
        noted: Callable[[wire.TaskHeartbeat], None],
        fetch: Callable[[str, str], Awaitable[bytes]],
        fetch_signatures: Callable[[str, str], Awaitable[list[Signature]]],
    ) -> None:
        """Say where answers and notes go, and where code and its signatures come from (namespace, digest)."""
        self._answered = answered
        self._noted = noted
        self._fetch = fetch
        self._fetch_signatures = fetch_signatures

    @property
    def capacity(self) -> int:
        """How many tasks to take at once."""
        ahead = int(AHEAD_S / max(self._average_s, 1e-6))
        return self._slots * max(1, min(self._prefetch, ahead))

    def describe(self, token: bytes) -> dict[str, object]:
        """Return what the log says about a task."""
        job = self._jobs.get(token)
        if job is None:
            return {}
        task = job.task
        return {"run": task.run_id, "state": task.state, "path": task.path, "attempt": task.attempt}

    # ---- what the driver wants

    def start(self, task: wire.Task, now_s: float) -> None:
        """Run a task; its answer comes through `answered`."""
        self.tally.started += 1
        job = self._jobs[task.task_token] = Job(task, now_s)
        self._be_patient()
        code = self._modules.at_hand(task.module_digest) if task.module_digest else b""
        if code is None or not self._may_run(task):
            job.fetching = asyncio.get_running_loop().create_task(self._fetch_then_submit(job))
            self._fetching.add(job.fetching)
            job.fetching.add_done_callback(self._fetching.discard)
        else:
            self._submit(job, code)

    def drop(self, token: bytes) -> None:
        """Stop a task; nobody wants its answer."""
        job = self._jobs.pop(token, None)
        if job is not None:
            self.tally.dropped += 1
            self._interrupt(job)

    def cancel(self, token: bytes) -> None:
        """Interrupt a task; its answer (CANCELLED, or what it had by then) is wanted."""
        job = self._jobs.get(token)
        if job is None:
            return
        if job.slots is not None:
            self._interrupt(job)
        else:
            self._give(job, failed(job.task, failures.CANCELLED, "the task was cancelled before it started"))
            self._interrupt(job)

    def release_waiting(self, why: str) -> None:
        """Give back what has not begun."""
        self._release(self._withdrawn(self._jobs.values()), why)

    def _withdrawn(self, jobs: Iterable[Job]) -> list[Job]:
        """Take out of the slots whatever has not begun there."""
        return [job for job in list(jobs) if not self._may_have_begun(job)]

    @staticmethod
    def _may_have_begun(job: Job) -> bool:
        if job.slots is None:
            return False
        return not (isinstance(job.slots, Queueing) and job.slots.withdraw(identity_of(job.task).key))

    def _on_patience(self) -> None:
        """Give back tasks that wait behind long ones: their time runs, and another worker may be free."""
        self._patience = None
        crowded = len(self._jobs) > self._slots
        late = self._withdrawn([job for job in self._jobs.values() if job.slots and self._is_late(job, crowded)])
        if late and crowded:
            # Until the long ones are through, nothing has been learned from them; take no more than can begin at once.
            self._average_s = max(PATIENCE_S, 0.0 if self._average_s == float("inf") else self._average_s)
        why = "the slots are busy with longer tasks" if crowded else "the code of other tasks is compiled first"
        self._release(late, why)
        self._be_patient()

    def _is_late(self, job: Job, crowded: bool) -> bool:
        limit_s = job.task.timeout.ToMicroseconds() / 1e6 if job.task.HasField("timeout") else float("inf")
        patience_s = PATIENCE_S if crowded else max(PATIENCE_S, limit_s * PATIENCE_SHARE)
        return self._now() - job.received_s >= patience_s

    def _be_patient(self) -> None:
        """Look again in a while, if anything is here."""
        if self._patience is None and self._jobs:
            self._patience = asyncio.get_running_loop().call_later(PATIENCE_S, self._on_patience)

    def release_running(self, why: str) -> None:
        """Give back everything, and stop it."""
        self.release_waiting(why)
        self._release(list(self._jobs.values()), why, wire.RELEASE_REASON_INTERRUPTED)

    async def close(self) -> None:
        """Stop whatever runs; no more answers come."""
        if self._patience:
            self._patience.cancel()
        for token in list(self._jobs):
            self.drop(token)
        await asyncio.gather(*self._fetching, return_exceptions=True)

    # ---- one task

    def _may_run(self, task: wire.Task) -> bool:
        """Whether the task's code is known to be good. Handlers are trusted: the operator has chosen them."""
        return self._trusted is None or task.runtime == PYTHON or self._trusted.approved(task.module_digest)

    async def _fetch_then_submit(self, job: Job) -> None:
        try:
            code = await self._fetched(job.task)
        except Exception as error:  # noqa: BLE001 - nobody waits for this: a task without an answer would stay for ever
            self._journal.error("a module could not be had", digest=job.task.module_digest, error=repr(error))
            code = _unable(job.task, f"module {job.task.module_digest} could not be had: {error!r}")
        if isinstance(code, bytes):
            self._submit(job, code)
        else:
            self._give(job, code)

    def _submit(self, job: Job, code: bytes) -> None:
        task = job.task
        if not self._may_run(task):  # the one way into a slot, however the code came here
            self._give(job, failed(task, failures.MODULE_UNTRUSTED, "its code was not found to be signed"))
            return
        slots = self._handlers if task.runtime == PYTHON else self._jail
        if slots is None:
            message = f"this worker has no runtime {task.runtime!r}"
            self._give(job, failed(task, failures.RUNTIME_UNSUPPORTED, message))
            return
        started_s = self._now()
        waited_s, now_us = started_s - job.received_s, self._clock_us()
        activation = activation_of(task, code, waited_s=waited_s, now_us=now_us, output_bytes=self.output_bytes)
        job.slots = slots
        coming = slots.submit(activation, partial(self._note, job))
        coming.add_done_callback(partial(self._completed, job, started_s))

    def _completed(self, job: Job, started_s: float, coming: asyncio.Future[port.Completion]) -> None:
        if coming.cancelled():  # only when the loop is being torn down
            return
        completion = coming.result()
        if (
            self._jobs.get(job.task.task_token) is job
        ):  # else it was dropped or given back, perhaps without having begun
            self._learn(completion, self._now() - started_s, jailed=job.slots is self._jail)
        for denial in completion.denials:
            self.tally.denied[denial.kind] = self.tally.denied.get(denial.kind, 0) + denial.count
        for note in notes_left(completion):
            self._note(job, note)
        self._give(job, self._answer_for(job.task, completion))

    def _answer_for(self, task: wire.Task, completion: port.Completion) -> Answer:
        """A child that was taken over can say numbers which no message holds; no task may stay without an answer."""
        try:
            return answer_of(task, completion)
        except (ValueError, TypeError) as error:
            self._journal.error("a completion that cannot be sent", run=task.run_id, state=task.state, error=error)
            return failed(task, failures.BAD_OUTPUT, f"what the task asked for cannot be sent: {error}")

    async def _fetched(self, task: wire.Task) -> bytes | Answer:
        """Return the task's code, or what to answer instead. An engine that is away may come back within the lease."""
        limit_s = task.timeout.ToMicroseconds() / 1e6 if task.HasField("timeout") else FETCH_MOST_S
        give_up_s = self._now() + limit_s
        while True:
            try:
                if self._trusted is not None and task.runtime != PYTHON:
                    await self._trusted.approve(
                        task.module_digest, lambda digest: self._fetch_signatures(task.namespace, digest)
                    )
                return await self._modules.get(task.module_digest, lambda digest: self._fetch(task.namespace, digest))
            except Untrusted as error:
                return failed(task, failures.MODULE_UNTRUSTED, str(error))
            except ModuleUnusable as error:
                return failed(task, failures.MODULE_MISSING, str(error))
            except WireError as error:
                if error.code == "NOT_FOUND":
                    return failed(task, failures.MODULE_MISSING, str(error))
                if self._now() + FETCH_PAUSE_S >= give_up_s:
                    return _unable(task, f"module {task.module_digest} could not be fetched: {error}")
            await asyncio.sleep(FETCH_PAUSE_S)

    def _learn(self, completion: port.Completion, whole_s: float, *, jailed: bool) -> None:
        # What a child says counts within what went by: one that was taken over may say anything.
        took_s = min(max(0.0, completion.usage.wall_us / 1e6), whole_s) or whole_s
        self.tally.busy_s += took_s
        if not jailed:
            return
        first = self._average_s == float("inf")
        self._average_s = took_s if first else self._average_s + NEWEST * (took_s - self._average_s)

    def _note(self, job: Job, note: port.TrustedNote) -> None:
        told = note_of(job.task.task_token, note)
        if told is not None and self._jobs.get(job.task.task_token) is job:
            self._noted(told)

    def _give(self, job: Job, answer: Answer) -> None:
        """Hand the answer over, unless the task was dropped in the meantime."""
        if self._jobs.get(job.task.task_token) is not job:
            return
        del self._jobs[job.task.task_token]
        if isinstance(answer, wire.TaskRelease):
            self.tally.released += 1
        elif answer.HasField("failure"):
            self.tally.count_failure(answer.failure.code)
        else:
            self.tally.succeeded += 1
        self._answered(answer)

    def _release(
        self, jobs: list[Job], why: str, reason: wire.ReleaseReason.ValueType = wire.RELEASE_REASON_DRAINED
    ) -> None:
        for job in jobs:
            self._give(job, wire.TaskRelease(task_token=job.task.task_token, reason=reason, message=why))
            self._interrupt(job)

    def _interrupt(self, job: Job) -> None:
        if job.slots is not None:
            job.slots.cancel(identity_of(job.task).key)
        elif job.fetching is not None:
            job.fetching.cancel()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _unable(task: wire.Task, why: str) -> wire.TaskRelease:
    return wire.TaskRelease(task_token=task.task_token, reason=wire.RELEASE_REASON_UNABLE, message=why)
