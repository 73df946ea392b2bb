"""Children and who sits in them: which child takes which job, in what order, and what is taken back from a slow one.

Pure bookkeeping: nothing here waits, sends or kills; `jail_pool` does what this says.

A seat is a child with the jobs that it was given and has not answered. The first of them runs, the others wait in the
child; a job that was taken back stays as a *ghost* until the child has confirmed, because it may have started it by
then, and a seat with a ghost is not idle. A seat belongs to a lane (the namespace) from its first job to its end.

Checking and compiling have seats of their own, beside the slots: a module that takes long to compile would else hold
up tasks that have nothing to do with it, for longer than its own task may take. There are two: one for what is soon
done, and one for what was not, so that a new module waits behind the first moments of others only. The latter's child
has grown large over what it did, and is ended after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from windlass.runtimes.jail_jobs import JobQueue, Kind, PoolJob
from windlass.runtimes.jail_settings import JailSettings
from windlass.runtimes.jail_slot import Child

#: The longest that answers of a child lie in its pipe while it has more to do.
GATHER_SECONDS_MAX: Final = 0.002


class Seat:
    """One child and its jobs."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.lane: str | None = None
        self.kind: Kind | None = None  #: which of the places it takes; None before its first job, like `lane`
        self.ready = False
        self.jobs: deque[PoolJob] = deque()
        #: Numbers of what was taken back, one set for each Recall that the child has not answered yet.
        self.recalls: deque[set[int]] = deque()
        self.done = 0
        #: How long `jobs` will take, as far as is known; infinity when one of them was never seen.
        self.expected_us = 0.0
        #: When the first of `jobs` began, by the loop's clock.
        self.began = 0.0
        self.last_used = 0.0

    @property
    def busy(self) -> bool:
        """Whether the child has anything to do."""
        return bool(self.jobs or self.recalls)

    def is_ghost(self, number: int) -> bool:
        """Tell whether `number` was taken back: then what the child says of it does not count."""
        return any(number in recall for recall in self.recalls)

    def lay_ghost(self, number: int) -> bool:
        """Take the end of a job that was taken back; once, for with each the time of the next one begins."""
        for recall in self.recalls:
            if number in recall:
                recall.discard(number)
                return True
        return False

    def give(self, jobs: list[PoolJob]) -> None:
        """Add jobs of one lane behind those it has; with none, count anew how long it has to do."""
        for job in jobs[:1]:
            self.lane, self.kind = job.lane, job.kind
        self.jobs.extend(jobs)
        self.expected_us = sum(job.expected_us for job in self.jobs)

    def take_first(self) -> PoolJob:
        """Take off the job that runs, or has just ended."""
        job = self.jobs.popleft()
        self.expected_us = sum(other.expected_us for other in self.jobs)
        return job

    def gather(self) -> None:
        """Listen again when about half of what it has to do is done; at once for its last job."""
        if len(self.jobs) > 1:
            self.child.leave_alone(min(self.expected_us / 2e6, GATHER_SECONDS_MAX))

    @property
    def fresh(self) -> bool:
        """Whether it is ready and was never used."""
        return self.ready and self.lane is None


class Seats:
    """All seats of a pool, and the rules by which jobs get one."""

    def __init__(self, settings: JailSettings) -> None:
        self._settings = settings
        self._seats: dict[Child, Seat] = {}

    def __iter__(self) -> Iterator[Seat]:
        return iter(tuple(self._seats.values()))

    def add(self, child: Child) -> Seat:
        """Seat a child that is starting."""
        seat = self._seats[child] = Seat(child)
        return seat

    def of(self, child: Child) -> Seat | None:
        """Return the seat of a child; None when it was given up."""
        return self._seats.get(child)

    def remove(self, seat: Seat) -> None:
        """Give the seat up: what its child still says does not count."""
        self._seats.pop(seat.child, None)

    def count(self) -> dict[str, int]:
        """Return how many seats are busy, idle, spare and starting."""
        return {
            "busy": sum(seat.busy for seat in self),
            "idle": sum(seat.lane is not None and not seat.busy for seat in self),
            "spare": sum(seat.fresh for seat in self),
            "starting": sum(not seat.ready for seat in self),
        }

    def place(self, queue: JobQueue) -> tuple[Seat, list[PoolJob]] | None:
        """Take jobs out of the queue for one seat, or return None when nothing fits now."""
        for job in queue.heads():
            seat = self._seat_for(job)
            if seat is not None:
                queue.pop(job.lane)
                return seat, [job, *self._companions(seat, job, queue)]
        return None

    def to_sacrifice(self) -> Seat | None:
        """Return an idle seat that must go before a seat of another lane may be opened, if there are too many."""
        return self._surplus("run") or self._surplus("aside") or self._surplus("long")

    def _surplus(self, kind: Kind) -> Seat | None:
        taken = [seat for seat in self if seat.kind == kind]
        idle = [seat for seat in taken if not seat.busy]
        return min(idle, key=lambda seat: seat.last_used) if len(taken) > self._places(kind) and idle else None

    def _places(self, kind: Kind) -> int:
        return self._settings.slots if kind == "run" else 1

    def children_wanted(self, waiting: bool) -> int:
        """Return how many more children should be started now."""
        count = self.count()
        room = waiting and sum(seat.busy and seat.kind == "run" for seat in self) < self._settings.slots
        return max(0, self._settings.spares + room - count["spare"] - count["starting"])

    def _seat_for(self, job: PoolJob) -> Seat | None:
        busy, fresh, joinable = 0, None, None
        for seat in self._seats.values():
            if seat.busy:
                busy += seat.kind == job.kind
                if seat.lane == job.lane and self._may_join(seat, job):
                    joinable = seat if joinable is None or len(seat.jobs) < len(joinable.jobs) else joinable
            elif seat.lane == job.lane:
                return seat
            elif seat.fresh:
                fresh = seat
        return fresh if busy < self._places(job.kind) else joinable

    def _may_join(self, seat: Seat, job: PoolJob) -> bool:
        """Whether the job may wait inside of a busy child, so that the child need not wait for us in between."""
        if seat.recalls or len(seat.jobs) >= self._settings.batch_max:
            return False
        if seat.done + len(seat.jobs) >= self._settings.recycle_after:
            return False
        return seat.expected_us + job.expected_us <= self._settings.batch_us

    def _companions(self, seat: Seat, first: PoolJob, queue: JobQueue) -> list[PoolJob]:
        """Return the jobs that go along with `first`: a fair share of the queue, and only what is known to be short."""
        share = min(self._settings.batch_max - 1 - len(seat.jobs), len(queue) // self._settings.slots)
        left_us = self._settings.batch_us - seat.expected_us - first.expected_us
        companions: list[PoolJob] = []
        while len(companions) < share and (job := queue.head(first.lane)) is not None:
            left_us -= job.expected_us
            if left_us < 0:
                break
            companions.append(queue.pop(job.lane))
        return companions
