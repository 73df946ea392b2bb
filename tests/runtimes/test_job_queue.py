"""The order in which jobs of different namespaces get the places that there are."""

from __future__ import annotations

from windlass.runtimes.jail_frames import Prepare
from windlass.runtimes.jail_jobs import LONG_LANE, RUN_LANE, JobQueue, PoolJob


def job(number: int, lane: str) -> PoolJob:
    return PoolJob(number, Prepare(number, "wasm", b"", "", 0), lane, 1)


def taken(queue: JobQueue, *lanes: str) -> list[int]:
    """Take what comes first of these lanes until nothing is left of them."""
    numbers = []
    while heads := [job for job in queue.heads() if job.lane in lanes]:
        numbers.append(queue.pop(heads[0].lane).number)
    return numbers


async def test_namespaces_take_turns_for_the_one_place_that_compiles() -> None:
    """Else twenty modules that take the compiler for ever keep all others from being compiled."""
    for lane in (LONG_LANE, "prepare/"):
        queue = JobQueue()
        mine, yours, late = (f"{lane}{name}" for name in ("mine", "yours", "late"))
        for number in range(5):
            queue.append(job(number, mine))
        queue.append(job(5, yours))
        queue.append(job(6, yours))
        assert queue.pop(queue.heads()[0].lane).number == 0
        queue.append(job(7, late))
        assert taken(queue, mine, yours, late) == [5, 7, 1, 6, 2, 3, 4]


async def test_tasks_and_other_places_keep_their_order() -> None:
    queue = JobQueue()
    for number, lane in enumerate((f"{RUN_LANE}a", f"{LONG_LANE}a", f"{RUN_LANE}b", "prepare/a", f"{LONG_LANE}b")):
        queue.append(job(number, lane))
        queue.append(job(number + 10, lane))
    queue.pop(f"{LONG_LANE}a")
    queue.pop(f"{RUN_LANE}a")
    assert [job.number for job in queue.heads()] == [2, 3, 4, 10, 11]
    assert taken(queue, f"{RUN_LANE}a", f"{RUN_LANE}b") == [2, 10, 12]
