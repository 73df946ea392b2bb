"""A worker that cannot run a task gives it back as UNABLE: another one gets it, and it does not bounce."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engine.cluster import TestWorker
from tests.engine.documents import one_task
from tests.engine.served import Served, serving, value
from windlass.engine.core.limits import UNABLE_US
from windlass.v1 import admin_service_pb2 as admin_pb
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb

HOLD = TestWorker.HOLD


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        await engine.register(one_task(retry={"max_attempts": 1}))
        yield engine


async def unable(worker: TestWorker, message: str = "module 7a cannot be fetched") -> None:
    """The worker gives back the task it holds, and has the slot free again."""
    await worker.until(lambda: bool(worker.held))
    token = worker.held.pop().task_token
    release = pb.TaskRelease(task_token=token, reason=pb.RELEASE_REASON_UNABLE, message=message)
    worker.link.receive(pb.StreamTasksRequest(releases=[release], credits=1))
    await worker.until(lambda: token in worker.accepted)


async def explained(served: Served, run_id: str) -> run_pb.Explanation:
    response = await served.runs.ExplainRun(run_pb.ExplainRunRequest(run_id=run_id))
    (found,) = response.explanations
    return found  # type: ignore[no-any-return]


async def look_again(served: Served, worker: TestWorker, seconds: float) -> None:
    """Time passes, and the claims loop looks at what it had set aside."""
    served.clock.at_us += int(seconds * 1e6)
    await served.engine.claims.maintain(5)


async def test_a_task_goes_to_a_worker_that_can_run_it(served: Served) -> None:
    first = await served.worker(lambda task: HOLD, name="first", credits=1)
    run_id = await served.start("task")
    await first.until(lambda: bool(first.held))
    await served.worker(lambda task: "done by the other", name="other", credits=1)
    await unable(first)
    run = await served.closed(run_id)
    assert value(run.context["done"]) == "done by the other"
    assert len(first.seen) == 1


async def test_it_does_not_bounce_to_the_same_worker_and_explain_says_why(served: Served) -> None:
    lone = await served.worker(lambda task: HOLD, name="lone", credits=2)
    run_id = await served.start("task")
    await unable(lone)
    for _ in range(3):
        await look_again(served, lone, 2)
    assert len(lone.seen) == 1
    reason = await explained(served, run_id)
    assert reason.kind == "queued"
    assert "worker lone cannot run it: module 7a cannot be fetched" in reason.summary
    assert "every worker that serves it lacks something" in reason.summary
    assert "start one that has it" in reason.advice
    other = await served.start("task")
    await lone.until(lambda: len(lone.seen) == 2)
    assert lone.seen[1].run_id == other, "what lies behind it does not wait"
    history = await served.runs.GetHistory(run_pb.GetHistoryRequest(run_id=run_id))
    assert "AttemptEnded" in [event.type for event in history.events]


async def test_a_worker_that_comes_later_gets_it(served: Served) -> None:
    lone = await served.worker(lambda task: HOLD, name="lone", credits=2)
    run_id = await served.start("task")
    await unable(lone)
    await look_again(served, lone, 0)
    await served.worker(lambda task: "late", name="late", credits=1)
    await look_again(served, lone, 2)
    assert value((await served.closed(run_id)).context["done"]) == "late"


async def test_after_a_while_the_worker_is_asked_again(served: Served) -> None:
    lone = await served.worker(lambda task: HOLD, name="lone", credits=2)
    run_id = await served.start("task")
    await unable(lone)
    await look_again(served, lone, 0)
    await look_again(served, lone, UNABLE_US / 1e6 + 1)
    await lone.until(lambda: len(lone.seen) == 2)
    task = lone.held[0]
    assert (task.run_id, task.attempt) == (run_id, 1), "giving back does not count as an attempt"
    lone.finish(task, "it had come")
    assert (await served.closed(run_id)).state == common_pb2.RUN_STATE_COMPLETED


@pytest.mark.parametrize("year_s", [1_000_000_000, 2_500_000_000])
async def test_it_is_a_minute_by_the_wall_clock_whatever_clock_the_run_has(served: Served, year_s: int) -> None:
    namespace = admin_pb.Namespace(name="sim", virtual_time=True)
    namespace.current_time.seconds = year_s
    await served.admin.CreateNamespace(admin_pb.CreateNamespaceRequest(namespace=namespace))
    await served.register(one_task(), ns="sim")
    lone = await served.worker(lambda task: HOLD, credits=2, namespace="sim")
    await served.start("task", namespace="sim")
    await unable(lone)
    for _ in range(3):
        await look_again(served, lone, 2)
    assert len(lone.seen) == 1
    await look_again(served, lone, UNABLE_US / 1e6)
    await lone.until(lambda: len(lone.seen) == 2)


async def test_many_are_looked_at_less_often_and_only_their_own_queue_reads_over_them(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass.engine.claims.UNABLE_MANY", 2)
    lone = await served.worker(lambda task: HOLD, name="lone", credits=2)
    for _ in range(4):
        await served.start("task")
        await unable(lone)
        await look_again(served, lone, 0)
    claims, now_us = served.engine.claims, served.clock.now_us()
    first_us = now_us - now_us % 1_000_000
    assert [(until - first_us) / 1e6 for until, _ in claims._aside.values()] == [2, 2, 3, 3]
    assert sorted(claims._aside_of.values()) == [4]
    await served.worker(lambda task: "late", name="late", credits=4)
    await look_again(served, lone, 4)
    assert (claims._aside, claims._aside_of) == ({}, {})
