"""A job on its way through the pool: what is to be done, for whom, where it runs now, and who waits for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec.structs import astuple

from windlass.runtimes import denials, failures
from windlass.runtimes.asks import MAX_ASKS
from windlass.runtimes.jail_frames import Check, Checked, Done, FromChild, Job, Prepare, Prepared, Run, ToChild
from windlass.runtimes.jail_slot import Child
from windlass.runtimes.json_text import not_json
from windlass.runtimes.port import Activation, Completion, Limits, Note, TaskKey, WaitFor, failed

Answer: TypeAlias = FromChild
_SMALL_BYTES: Final = 256 << 10
#: JavaScript counts characters where we count bytes.
_BYTES_EACH: Final = 3
#: Values that a runtime puts where code gave none.
_SMALL_CHANGE: Final = 16 * MAX_ASKS
_PROGRESS_MAX: Final = 250
#: Messages, stacks and reports have bounds of their own in the runtimes, none of them above this together.
_TOLD_BYTES_MAX: Final = 1 << 20
#: Lanes of which is known when they had their turn.
_TURNS_KEPT: Final = 1_000
State: TypeAlias = Literal["queued", "assigned", "settled"]
#: How lanes begin; the namespace follows. Tasks; what takes long to compile; everything else has a word of its own.
RUN_LANE: Final = "run/"
LONG_LANE: Final = "long/"
Kind: TypeAlias = Literal["run", "long", "aside"]


def kind_of(lane: str) -> Kind:
    """Tell which places a lane's jobs have: the slots, or one of the two beside them."""
    if lane.startswith(RUN_LANE):
        return "run"
    return "long" if lane.startswith(LONG_LANE) else "aside"


class PoolJob:
    """One request to the pool. `request` is an activation, or a check or a compilation of code."""

    def __init__(
        self,
        number: int,
        request: Activation | Check | Prepare,
        lane: str,
        wall_us: int,
        on_note: Callable[[Note], None] | None = None,
    ) -> None:
        self.number = number
        self.request = request
        #: Jobs of different lanes never share a child: the namespace, or a word for work that needs a fresh one.
        self.lane = lane
        self.kind = kind_of(lane)
        self.wall_seconds = wall_us / 1e6
        self.on_note = on_note
        self.prepared_name = ""
        self.prepared = b""
        self.state: State = "queued"
        self.child: Child | None = None
        #: How long it will take, as far as its code is known; see `Durations`.
        self.expected_us = float("inf")
        #: How many children died while they ran it.
        self.crashes = 0
        self.notes = 0
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @property
    def key(self) -> TaskKey | None:
        """The attempt that this is, if it is one."""
        return self.request.task.key if isinstance(self.request, Activation) else None

    @property
    def digest(self) -> str:
        """What its running time is remembered under."""
        return self.request.digest if isinstance(self.request, Activation) else ""

    @property
    def is_small(self) -> bool:
        """Whether it may wait in a child's pipe behind others: what lies there costs memory."""
        request = self.request
        return isinstance(request, Activation) and len(request.input) + len(request.context) < _SMALL_BYTES

    def is_answered_by(self, message: Done | Checked | Prepared) -> bool:
        """Whether this can be the answer to it: whoever waits takes it for a completion without looking."""
        return message.number == self.number and isinstance(message, Done) == isinstance(self.request, Activation)

    def settle(self, answer: Answer | Completion) -> None:
        """Give the answer, once."""
        self.state = "settled"
        self.child = None
        if not self.answer.done():
            self.answer.set_result(answer)


class JobQueue:
    """Jobs that wait, in order within each lane. Lanes come in the order of their oldest job; those for the one place
    that there is for checking, and for compiling, take turns.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, deque[PoolJob]] = {}
        self._count = 0
        self._served: OrderedDict[str, None] = OrderedDict()  #: lanes that had their turn, the last one last

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[PoolJob]:
        return (job for lane in self._lanes.values() for job in lane)

    def append(self, job: PoolJob) -> None:
        """Put a new job behind the others of its lane."""
        self._lanes.setdefault(job.lane, deque()).append(job)
        self._count += 1

    def put_back(self, jobs: Sequence[PoolJob]) -> None:
        """Put jobs that were taken out before in front of the others of their lane, in their old order."""
        for job in reversed(jobs):
            self._lanes.setdefault(job.lane, deque()).appendleft(job)
            self._count += 1

    def heads(self) -> list[PoolJob]:
        """Return the first job of every lane, oldest first; of those that take turns, in the order of these."""
        if len(self._lanes) == 1:
            return [next(iter(self._lanes.values()))[0]]
        heads = sorted((lane[0] for lane in self._lanes.values()), key=lambda job: job.number)
        if all(job.kind == "run" for job in heads):
            return heads
        turns = {lane: turn for turn, lane in enumerate(self._served, start=1)}
        waiting = sorted((job for job in heads if job.kind != "run"), key=lambda job: turns.get(job.lane, 0))
        kinds = {kind: iter([job for job in waiting if job.kind == kind]) for kind in ("long", "aside")}
        return [next(kinds[job.kind]) if job.kind in kinds else job for job in heads]

    def head(self, lane: str) -> PoolJob | None:
        """Return the first job of a lane."""
        jobs = self._lanes.get(lane)
        return jobs[0] if jobs else None

    def pop(self, lane: str) -> PoolJob:
        """Take out the first job of a lane, which must have one."""
        job = self._lanes[lane].popleft()
        self._shrink(lane)
        if job.kind != "run":
            self._take_turn(lane)
        return job

    def _take_turn(self, lane: str) -> None:
        self._served[lane] = None
        self._served.move_to_end(lane)
        if len(self._served) > _TURNS_KEPT:
            self._served.popitem(last=False)

    def discard(self, job: PoolJob) -> None:
        """Take out this job, if it is there."""
        jobs = self._lanes.get(job.lane)
        if jobs and job in jobs:
            jobs.remove(job)
            self._shrink(job.lane)

    def clear(self) -> None:
        """Take out everything."""
        self._lanes.clear()
        self._count = 0

    def _shrink(self, lane: str) -> None:
        self._count -= 1
        if not self._lanes[lane]:
            del self._lanes[lane]


class Durations:
    """How long code took lately, by digest, to tell which tasks may share a crossing of the pipe.

    A child may lie about it. The harm is a little delay: see the straggler rule in `jail_pool`.
    """

    def __init__(self, kept_max: int = 4096) -> None:
        self._average_us: OrderedDict[str, float] = OrderedDict()
        self._kept_max = kept_max

    def expected_us(self, digest: str) -> float:
        """Return the moving average; infinity for code that was never seen."""
        return self._average_us.get(digest, float("inf"))

    def distrust(self, digest: str) -> None:
        """Forget the figures of code that crashed: it gets a child to itself."""
        self._average_us.pop(digest, None)

    def learn(self, digest: str, wall_us: int) -> None:
        """Take one more figure into the average. A slow one counts at once, a fast one slowly."""
        known = self._average_us.pop(digest, float(wall_us))
        weight = 0.5 if wall_us > known else 0.1
        self._average_us[digest] = wall_us * weight + known * (1 - weight)
        if len(self._average_us) > self._kept_max:
            self._average_us.popitem(last=False)


def messages_for(child: Child, jobs: list[PoolJob]) -> list[ToChild]:
    """Return what to send so that `child` does `jobs`: first the code that it does not know yet, then the work."""
    messages: list[ToChild] = []
    work: list[Job] = []
    for job in jobs:
        job.state, job.child = "assigned", child
        if not isinstance(job.request, Activation):
            messages.append(job.request)
            continue
        messages += child.keep(job.request.digest, job.request.code)
        if job.prepared_name:
            messages += child.keep(job.prepared_name, job.prepared)
        work.append(Job(job.number, msgspec.structs.replace(job.request, code=b""), job.prepared_name))
    if work:
        messages.append(Run(tuple(work)))
    return messages


def believable(completion: Completion, activation: Activation) -> Completion:
    """Return the completion of a child, or a failure where it is not what a runtime of ours would have made.

    The child ran hostile code; if that code took it over, this is its voice. The shape was checked when the frame was
    decoded. What is left: that the values are JSON text, and everything no larger and no more than allowed.
    """
    limit = activation.limits.output_bytes
    if completion.failure is None and len(completion.output) > limit:
        return failed(failures.OUTPUT_TOO_LARGE, f"the result is {len(completion.output)} bytes; the limit is {limit}")
    if beyond := _beyond(completion, activation.limits):
        return failed(failures.OUTPUT_TOO_LARGE, beyond)
    if wrong := _not_all_json(completion) or _misnamed(completion):
        return failed(failures.BAD_OUTPUT, wrong)
    if completion.denials:
        return msgspec.structs.replace(completion, denials=denials.cut(completion.denials))
    return completion


def _beyond(completion: Completion, limits: Limits) -> str:
    """Say of what there is more than a runtime of ours lets through, besides the output; "" if of nothing."""
    done = completion
    if not (done.failure or done.patch or done.asks or done.logs or done.progress or done.checkpoint):
        return ""  # as from most tasks
    handed: list[str | bytes] = [*completion.patch, *completion.patch.values(), completion.checkpoint or b""]
    handed += [part for ask in completion.asks for part in astuple(ask) if isinstance(part, str | bytes)]
    handed += [name for ask in completion.asks if isinstance(ask, WaitFor) for name in ask.signals]
    logged = [part for line in completion.logs for part in (line.message, line.metadata)]
    failure = completion.failure
    told: list[str | bytes] = [failure.code, failure.message, failure.stack, failure.details] if failure else []
    told += [report.message for report in completion.progress]
    for what, there, most in (
        ("asks", len(completion.asks), MAX_ASKS),
        ("log lines", len(completion.logs), limits.log_lines),
        ("reports of progress", len(completion.progress), _PROGRESS_MAX),
        (
            "bytes of context values, asks and checkpoint",
            _size(handed),
            _BYTES_EACH * limits.output_bytes + _SMALL_CHANGE,
        ),
        ("bytes of log lines", _size(logged), _BYTES_EACH * limits.log_bytes),
        ("bytes of failure and progress", _size(told), _BYTES_EACH * limits.output_bytes + _TOLD_BYTES_MAX),
    ):
        if there > most:
            return f"the sandbox gave {there} {what}; there can be {most}"
    return ""


def _misnamed(completion: Completion) -> str:
    """Codes are counted, logged and matched by name."""
    failure = completion.failure
    if failure is None or (
        not failures.refuse_author_code(failure.code) if failure.authored else failure.code in failures.MEANINGS
    ):
        return ""
    return f"the sandbox gave a failure the code {failure.code[:100]!r}, which it cannot have"


def _size(parts: Sequence[str | bytes]) -> int:
    return sum(map(len, parts))


def _not_all_json(completion: Completion) -> str:
    values = [completion.output, *completion.patch.values()]
    if completion.checkpoint is not None:
        values.append(completion.checkpoint)
    if completion.failure is not None:
        values.append(completion.failure.details)
    values += [line.metadata for line in completion.logs if line.metadata]
    for ask in completion.asks:
        values += [getattr(ask, field) for field in ("input", "inputs", "state") if hasattr(ask, field)]
    for value in values:
        if wrong := not_json(value):
            return f"the result is {wrong}"
    return ""
