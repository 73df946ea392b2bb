"""Typed units: tasks that need some wait for a worker that has as many free, and nothing else waits for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest

from tests.engine.cluster import TestWorker, register, running_engine, start, wait
from tests.engine.documents import Document, one_task
from tests.engine.served import Served, refused, seconds, serving, value
from windlass.definition.compile import compile_canonical
from windlass.engine import keys
from windlass.engine.capacity import PASSED_MAX
from windlass.engine.core.units import kind_of
from windlass.engine.engine import Engine, Options
from windlass.engine.records import LeaseRecord, SessionRecord, unpack
from windlass.storage.memory import MemoryWorld
from windlass.storage.port import CommitUnknown
from windlass.v1 import common_pb2
from windlass.v1 import queue_service_pb2 as queue_pb
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb

HOLD = TestWorker.HOLD


def needing(name: str, needs: dict[str, int], **more: Any) -> Document:
    task = {"runtime": "javascript", "code": "input", "needs": needs}
    return one_task(name, task=task, **more)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(lease_us=5_000_000) as engine:
        await engine.register(one_task("plain"))
        await engine.register(needing("one", {"gpu": 1}))
        await engine.register(needing("two", {"gpu": 2, "memory": 4096}))
        yield engine


async def free(served: Served, name: str = "w1") -> dict[str, int]:
    """What a worker has free, as operators see it."""
    listed = await served.queues.ListWorkers(queue_pb.ListWorkersRequest())
    (worker,) = [each for each in listed.workers if each.worker_id == name]
    return {unit: amount - worker.used_units[unit] for unit, amount in worker.offered_units.items()}


async def explained(served: Served, run_id: str) -> run_pb.Explanation:
    response = await served.runs.ExplainRun(run_pb.ExplainRunRequest(run_id=run_id))
    (found,) = response.explanations
    return found  # type: ignore[no-any-return]


async def test_a_worker_gets_as_many_tasks_as_it_has_units_and_the_rest_when_these_are_free(served: Served) -> None:
    worker = await served.worker(lambda task: HOLD, offer={"gpu": 2})
    runs = [await served.start("one") for _ in range(3)]
    await worker.until(lambda: len(worker.held) == 2)
    assert await free(served) == {"gpu": 0}
    assert (await served.run(runs[2])).open_work[0].phase == "queued"
    worker.finish(worker.held[0], "first")
    await worker.until(lambda: len(worker.seen) == 3)
    assert worker.seen[2].run_id == runs[2]
    for task in list(worker.held):
        worker.finish(task, "done")
    for run_id in runs:
        await served.closed(run_id)
    assert await free(served) == {"gpu": 2}


async def test_what_needs_less_is_not_kept_waiting(served: Served) -> None:
    worker = await served.worker(lambda task: HOLD, offer={"gpu": 2, "memory": 4096})
    await served.start("one")
    large = await served.start("two")
    for name in ("plain", "one", "plain"):
        run_id = await served.start(name)
        await worker.until(lambda run_id=run_id: worker.seen[-1].run_id == run_id)  # type: ignore[misc]
    assert large not in [task.run_id for task in worker.seen]
    for task in list(worker.held):
        worker.finish(task, 1)
    await worker.until(lambda: worker.seen[-1].run_id == large)


async def test_a_queue_that_was_there_before_its_worker_is_found(served: Served) -> None:
    runs = [await served.start("two"), await served.start("plain")]
    bare = await served.worker(lambda task: 1, name="bare")
    await served.closed(runs[1])
    assert len(bare.seen) == 1
    await served.worker(lambda task: "large", name="able", offer={"gpu": 2, "memory": 8192})
    assert value((await served.closed(runs[0])).context["done"]) == "large"


async def test_a_step_that_follows_another_takes_over_its_units(served: Served) -> None:
    step = {"task": {"runtime": "javascript", "code": "1", "needs": {"gpu": 1}}}
    states = {"a": {**step, "next": "b"}, "b": {**step, "next": "end"}, "end": {}}
    await served.register({"workflow": "steps", "initial": "a", "states": states})
    await served.worker(lambda task: 1, offer={"gpu": 1})
    runs = [await served.start("steps") for _ in range(5)]
    for run_id in runs:
        await served.closed(run_id)
    assert await free(served) == {"gpu": 1}


async def test_explain_says_what_no_worker_offers_and_what_is_in_use(served: Served) -> None:
    waits = await served.start("two")
    assert "no worker is connected" in (await explained(served, waits)).summary
    small = await served.worker(lambda task: HOLD, name="small", offer={"gpu": 1})
    reason = await explained(served, waits)
    assert "no worker that can run it offers what it needs (gpu=2,memory=4096" in reason.summary
    assert "the most offered is gpu=1, memory=0" in reason.summary
    assert "--offer gpu=2 --offer memory=4096" in reason.advice
    await served.start("one")
    await small.until(lambda: bool(small.held))
    behind = await served.start("one")
    reason = await explained(served, behind)
    assert "it needs gpu=1, which is in use now: small has 0 of 1 gpu free" in reason.summary
    assert "it is the next in its queue" in reason.summary
    assert "wait, or start more workers" in reason.advice


async def test_explain_speaks_of_slots_when_the_units_are_there(served: Served) -> None:
    worker = await served.worker(lambda task: HOLD, credits=1, offer={"gpu": 9})
    await served.start("plain")
    await worker.until(lambda: bool(worker.held))
    reason = await explained(served, await served.start("one"))
    assert "all 1 slots of 1 able workers are busy" in reason.summary


async def test_queues_and_workers_are_shown_with_their_units(served: Served) -> None:
    await served.worker(lambda task: HOLD, name="a", offer={"gpu": 1})
    await served.worker(lambda task: HOLD, name="b")
    await served.start("two")
    shown = await served.queues.DescribeQueue(queue_pb.DescribeQueueRequest())
    (backlog,) = shown.backlogs
    assert (backlog.runtime, backlog.handler, dict(backlog.needs)) == ("javascript", "", {"gpu": 2, "memory": 4096})
    assert (backlog.queued, backlog.able_workers) == (1, 0)
    listed = await served.queues.ListWorkers(queue_pb.ListWorkersRequest())
    assert [dict(worker.offered_units) for worker in listed.workers] == [{"gpu": 1}, {}]


async def test_a_cancelled_task_and_a_silent_worker_give_their_units_back(served: Served) -> None:
    worker = await served.worker(lambda task: HOLD, offer={"gpu": 1})
    run_id = await served.start("one")
    await worker.until(lambda: bool(worker.held))
    after = await served.start("one")
    await served.runs.TerminateRun(run_pb.TerminateRunRequest(run_id=run_id))
    await worker.until(lambda: len(worker.seen) == 2)
    assert worker.seen[1].run_id == after
    served.advance(6)
    with pytest.raises(Exception, match="lapsed"):
        await worker._task  # type: ignore[misc]
    other = await served.worker(lambda task: "by another", name="other", offer={"gpu": 1})
    assert value((await served.closed(after)).context["done"]) == "by another"
    assert other.seen[0].run_id == after


async def test_a_withdrawn_task_leaves_the_queue_of_its_needs(served: Served) -> None:
    run_id = await served.start("two")
    head = keys.queue("default", "default", kind_of("javascript", "", "gpu=2,memory=4096"))
    rows = await served.engine.storage.read(lambda tr: tr.get_range(head, keys.end(head)))
    assert len(rows) == 1
    await served.runs.CancelRun(run_pb.CancelRunRequest(run_id=run_id))
    await served.closed(run_id)
    assert not await served.engine.storage.read(lambda tr: tr.get_range(head, keys.end(head)))


async def test_a_worker_that_reconnects_holds_what_its_leases_take(served: Served) -> None:
    worker = await served.worker(lambda task: HOLD, offer={"gpu": 2})
    for _ in range(2):
        await served.start("one")
    await worker.until(lambda: len(worker.held) == 2)
    kept, lost = worker.held
    await worker.vanish()
    waiting = await served.start("one")
    again = TestWorker(served.engine, lambda task: HOLD)
    again.held = [kept]
    await again.connect(resume=worker.session_id, offer={"gpu": 2})
    await again.until(lambda: len(again.seen) == 1)  # the one that was lost goes back, or the one that waited comes
    assert again.seen[0].run_id in (lost.run_id, waiting)
    assert await free(served) == {"gpu": 0}
    again.finish(kept, 1)
    await again.until(lambda: len(again.seen) == 2)
    assert await free(served) == {"gpu": 0}


async def test_a_result_that_was_recorded_while_its_worker_reconnected_frees_its_units(served: Served) -> None:
    worker = await served.worker(lambda task: HOLD, offer={"gpu": 1})
    await served.start("one")
    await worker.until(lambda: bool(worker.held))
    (task,) = worker.held
    await worker.vanish()
    again = TestWorker(served.engine, lambda task: HOLD)
    again.held = [task]
    await again.connect(resume=worker.session_id, offer={"gpu": 1})
    result = pb.TaskResult(task_token=task.task_token, output=b"1")
    await served.workers.CompleteTasks(pb.CompleteTasksRequest(results=[result]))  # by anyone who has the token
    again.finish(task, 1)
    await again.until(lambda: bool(again.accepted))
    assert await free(served) == {"gpu": 1}


async def test_a_refused_lease_gives_its_units_back(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = await served.worker(lambda task: HOLD, offer={"gpu": 1})
    real = served.engine.storage.transact
    failures = [1]

    async def transact(body: Any, **options: Any) -> Any:
        outcome = await real(body, **options)
        if served.engine.dispatch.connected[worker.session_id].reserved and failures:
            failures.pop()
            raise CommitUnknown("the answer was lost")  # the lease is in the store, and nobody delivers it
        return outcome

    await worker.until(lambda: bool(worker.session_id))
    monkeypatch.setattr(served.engine.storage, "transact", transact)
    with pytest.raises(grpc.aio.AioRpcError):
        await served.start("one")
    assert await free(served) == {"gpu": 1}
    await served.start("one")
    await worker.until(lambda: bool(worker.seen))
    assert await free(served) == {"gpu": 0}


async def test_the_lease_in_the_store_says_what_it_takes(served: Served) -> None:
    worker = await served.worker(lambda task: HOLD, offer={"gpu": 2, "memory": 4096})
    await served.start("two")
    await worker.until(lambda: bool(worker.held))
    rows = await served.engine.storage.read(lambda tr: tr.get_range(keys.all_leases(), keys.end(keys.all_leases())))
    assert [unpack(LeaseRecord, row[1]).needs for row in rows] == ["gpu=2,memory=4096"]


async def test_large_needs_are_not_starved_by_small_ones(served: Served) -> None:
    worker = await served.worker(lambda task: HOLD, offer={"gpu": 2, "memory": 4096})
    for _ in range(2):
        await served.start("one")
    await worker.until(lambda: len(worker.held) == 2)
    large = await served.start("two")
    small = [await served.start("one") for _ in range(3 * PASSED_MAX)]
    session = served.engine.dispatch.connected[worker.session_id]
    while worker.seen[-1].run_id != large:
        token = worker.held[0].task_token
        worker.finish(worker.held[0], 1)
        await worker.until(lambda token=token: token in worker.accepted)  # type: ignore[misc]
        await served.engine.claims.maintain(5)
        await worker.until(lambda: len(worker.held) == len(session.held))
        if len(worker.held) == 1 and worker.seen[-1].run_id != large:
            kept = (await explained(served, small[-1])).summary
            assert "w1 keeps it for a task that needs gpu=2,memory=4096 and was passed too often" in kept
    assert len(worker.seen) == 2 + PASSED_MAX + 1
    worker.finish(worker.held[0], 1)
    await worker.until(lambda: len(worker.held) == 2)


async def test_a_unary_worker_offers_units_too(served: Served) -> None:
    request = pb.RegisterWorkerRequest(worker_id="u1", slots=2, offered_units={"gpu": 1})
    request.runtimes.add(name="javascript", version="1")
    session = (await served.workers.RegisterWorker(request)).session_id
    runs = [await served.start("one") for _ in range(2)]
    poll = pb.PollTasksRequest(session_id=session, max_tasks=5, wait_timeout=seconds(20))
    (task,) = (await served.workers.PollTasks(poll)).tasks
    poll.wait_timeout.CopyFrom(seconds(0.05))
    assert not (await served.workers.PollTasks(poll)).tasks
    result = pb.TaskResult(task_token=task.task_token, output=b"1")
    await served.workers.CompleteTasks(pb.CompleteTasksRequest(session_id=session, results=[result]))
    poll.wait_timeout.CopyFrom(seconds(20))
    (second,) = (await served.workers.PollTasks(poll)).tasks
    assert {task.run_id, second.run_id} == set(runs)


async def test_a_standalone_task_may_need_units(served: Served) -> None:
    worker = await served.worker(lambda task: "done", offer={"gpu": 1})
    request = run_pb.StartTaskRequest(runtime="javascript", inline=b"1", needs={"gpu": 1})
    reply = await served.runs.StartTask(request)
    assert (await served.closed(reply.run.run_id)).state == common_pb2.RUN_STATE_COMPLETED
    assert len(worker.seen) == 1
    request.needs["Gpu"] = 1
    await refused(served.runs.StartTask(request), "INVALID_FIELD")


@pytest.mark.parametrize("offer", [{"GPU": 1}, {"": 1}, {"gpu": 0}, {"gpu": -1}, {"gpu": 10**12}, {"x" * 25: 1}])
async def test_a_wrong_offer_is_refused(served: Served, offer: dict[str, int]) -> None:
    refusal = await refused(
        served.workers.RegisterWorker(pb.RegisterWorkerRequest(worker_id="w", offered_units=offer)), "INVALID_FIELD"
    )
    assert "offered_units" in refusal.message
    many = pb.RegisterWorkerRequest(worker_id="w", offered_units={f"u{n}": 1 for n in range(33)})
    await refused(served.workers.RegisterWorker(many), "INVALID_FIELD")
    disguised = pb.RegisterWorkerRequest(worker_id="w")
    disguised.handlers.add(handler="train+gpu=1")
    await refused(served.workers.RegisterWorker(disguised), "INVALID_FIELD")


async def test_the_leases_are_counted_again_after_a_restart_of_the_engine() -> None:
    store = MemoryWorld().open(shared=False)
    async with running_engine(store) as first:
        await register(first, needing("one", {"gpu": 1}))
        worker = await TestWorker(first, lambda task: HOLD).connect(offer={"gpu": 2})
        for _ in range(2):
            await start(first, "one", {})
        await worker.until(lambda: len(worker.held) == 2)
        waiting = await start(first, "one", {})
    async with running_engine(store) as second:
        again = TestWorker(second, lambda task: HOLD)
        again.held = worker.held
        await again.connect(resume=worker.session_id, offer={"gpu": 2})
        await again.until(lambda: bool(again.session_id))
        capacity = second.dispatch.connected[again.session_id].capacity
        assert capacity is not None
        assert capacity.used() == {"gpu": 2}
        again.finish(again.held[0], 1)
        await again.until(lambda: bool(again.seen))
        assert again.seen[0].run_id == waiting
        assert capacity.used() == {"gpu": 2}


async def test_tasks_that_one_engine_queues_reach_the_worker_of_another() -> None:
    world = MemoryWorld()
    options = Options(member_us=3_000_000, lease_us=600_000_000)
    first, second = (Engine(world.open(), compile_canonical, options=options) for _ in range(2))
    await first.start()
    await second.start()
    try:
        await register(first, needing("one", {"gpu": 1}))
        worker = await TestWorker(second, lambda task: task.run_id).connect(offer={"gpu": 1})
        await TestWorker(first, lambda task: 1, name="bare").connect()
        runs = [await start(first, "one", {}) for _ in range(5)]
        for run_id in runs:
            assert (await wait(first, run_id)).state == common_pb2.RUN_STATE_COMPLETED
        assert sorted(task.run_id for task in worker.seen) == sorted(runs)
    finally:
        await first.stop()
        await second.stop()


def test_a_session_and_a_lease_of_the_first_version_still_open() -> None:
    lease = unpack(LeaseRecord, msgspec.msgpack.encode([3, 5, 7]))
    assert (lease.epoch, lease.needs) == (3, "")
    whole = SessionRecord("s", "w", "default", ("default",), ("javascript",), 2, 9)
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(whole))
    assert unpack(SessionRecord, msgspec.msgpack.encode(fields[:-1])).offer == {}
