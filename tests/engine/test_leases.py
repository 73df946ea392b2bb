"""Leases: who holds a task, when it is taken back, and what then counts. Time is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.engine.cluster import Failing, TestWorker, result_of
from tests.engine.documents import one_task
from tests.engine.served import Served, refusal_of, refused, serving, value
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb

HOLD = TestWorker.HOLD
#: Retried at once, so that no test waits.
AT_ONCE = {"initial_delay": "0s", "max_attempts": 3}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(lease_us=5_000_000) as engine:
        await engine.register(one_task())
        yield engine


async def holding(served: Served, name: str = "w1", runs: int = 1, **more: Any) -> TestWorker:
    """A worker that holds the tasks of this many fresh runs."""
    worker = await served.worker(lambda task: HOLD, name=name)
    for _ in range(runs):
        await served.start("task", **more)
    await worker.until(lambda: len(worker.held) == runs)
    return worker


async def beat(worker: TestWorker, number: int = 1) -> None:
    """The worker's heartbeat, recorded."""
    worker.link.receive(pb.StreamTasksRequest(heartbeat=pb.WorkerHeartbeat(number=number)))
    await worker.link.settle()


def reason(rejected: pb.RejectedTask) -> str:
    return str(refusal_of(rejected.error).info.reason)


async def complete(served: Served, task: pb.Task, answer: Any) -> pb.CompleteTasksResponse:
    request = pb.CompleteTasksRequest(results=[result_of(task, answer)])
    response: pb.CompleteTasksResponse = await served.workers.CompleteTasks(request)
    return response


async def test_a_silent_worker_loses_its_tasks_and_its_late_result_is_refused(served: Served) -> None:
    silent = await holding(served)
    (task,) = silent.held
    served.advance(6)
    with pytest.raises(Exception, match="lapsed"):
        await silent._task  # type: ignore[misc]  # the stream ends with SESSION_NOT_FOUND
    good = await served.worker(lambda task: "second", name="w2")
    run = await served.closed(task.run_id)
    assert value(run.context["done"]) == "second"
    assert good.seen[0].task_token != task.task_token
    (late,) = (await complete(served, task, "first")).rejected
    assert reason(late) in ("LEASE_LOST", "RUN_CLOSED")
    assert value((await served.run(task.run_id)).context["done"]) == "second"


async def test_a_late_result_is_refused_while_the_task_waits_again(served: Served) -> None:
    silent = await holding(served)
    (task,) = silent.held
    served.advance(6)
    await served.engine.sessions.turn()
    before = await served.run(task.run_id)
    (late,) = (await complete(served, task, "first")).rejected
    assert reason(late) == "LEASE_LOST"
    assert await served.run(task.run_id) == before


async def test_heartbeats_keep_the_lease(served: Served) -> None:
    worker = await holding(served)
    for number in range(5):
        served.advance(4)
        await beat(worker, number)
        await served.engine.sessions.turn()
    worker.finish(worker.held[0], 1)
    await worker.until(lambda: bool(worker.accepted))


async def test_a_worker_that_comes_back_in_time_keeps_what_it_holds(served: Served) -> None:
    worker = await holding(served, runs=2)
    kept, lost_on_the_way = worker.held
    await worker.vanish()
    again = TestWorker(served.engine, lambda task: HOLD, name="w1")
    again.held = [kept]
    await again.connect(resume=worker.session_id)
    await again.until(lambda: bool(again.session_id))
    assert again.session_id == worker.session_id
    await again.until(lambda: len(again.seen) == 1)  # what never arrived is sent anew, not counted as an attempt used
    assert again.seen[0].run_id == lost_on_the_way.run_id
    again.finish(kept, 7)
    assert value((await served.closed(kept.run_id)).context["done"]) == 7


async def test_leases_that_a_worker_comes_back_with_are_watched(served: Served) -> None:
    """Also by an engine that has nothing else to watch, as after a restart, and so sleeps."""
    worker = await holding(served)
    await worker.vanish()
    watched = asyncio.Event()
    served.engine.dispatch.on_held = watched.set
    again = TestWorker(served.engine, lambda task: HOLD, name="w1")
    again.held = worker.held
    await again.connect(resume=worker.session_id)
    await asyncio.wait_for(watched.wait(), 10)


async def test_a_worker_that_comes_back_too_late_is_told_what_it_lost(served: Served) -> None:
    worker = await holding(served)
    (task,) = worker.held
    await worker.vanish()
    served.advance(6)
    await served.engine.sessions.turn()
    request = pb.RegisterWorkerRequest(worker_id="w1", resume_session_id=worker.session_id)
    request.held_task_tokens.append(task.task_token)
    response = await served.workers.RegisterWorker(request)
    assert not response.resumed
    assert list(response.lost_task_tokens) == [task.task_token]


async def test_returned_tasks_go_to_others_at_once_and_do_not_count(served: Served) -> None:
    await served.register(one_task("once", retry={"max_attempts": 1}))
    worker = await served.worker(lambda task: HOLD, credits=1)
    run_id = await served.start("once")
    for turn in range(8):
        await worker.until(lambda turn=turn: len(worker.seen) == turn + 1)  # type: ignore[misc]
        task = worker.held.pop()
        release = pb.TaskRelease(task_token=task.task_token, reason=pb.RELEASE_REASON_DRAINED)
        worker.link.receive(pb.StreamTasksRequest(releases=[release], credits=1))
    await worker.until(lambda: len(worker.seen) == 9)
    worker.finish(worker.held[0], "in the end")
    assert (await served.closed(run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def test_a_task_that_crashes_its_slot_again_and_again_becomes_an_incident(served: Served) -> None:
    await served.register(one_task("poison", retry={**AT_ONCE, "max_attempts": 0}))
    worker = await served.worker(lambda task: HOLD, credits=1)
    run_id = await served.start("poison")
    for crash in range(1, 6):
        await worker.until(lambda: bool(worker.held))
        assert len(worker.seen) == crash
        release = pb.TaskRelease(
            task_token=worker.held.pop().task_token, reason=pb.RELEASE_REASON_CRASHED, message="slot died of SIGSEGV"
        )
        worker.link.receive(pb.StreamTasksRequest(releases=[release], credits=1))
        await worker.link.settle()
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_INCIDENT
    (incident,) = (await served.runs.ListIncidents(run_pb.ListIncidentsRequest(run_id=run_id))).incidents
    assert incident.code == "CRASH_LOOP"
    assert "SIGSEGV" in incident.message


async def test_a_lost_lease_of_an_at_most_once_task_is_an_incident_and_no_second_attempt(served: Served) -> None:
    document = one_task("pay")
    document["states"]["work"]["task"]["at_most_once"] = True
    await served.register(document)
    worker = await served.worker(lambda task: HOLD)
    run_id = await served.start("pay")
    await worker.until(lambda: bool(worker.held))
    served.advance(6)
    await served.engine.sessions.turn()
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_INCIDENT
    other = await served.worker(lambda task: 1, name="w2")
    retry = run_pb.ResolveIncidentRequest(
        run_id=run_id,
        incident_id=(await served.runs.ListIncidents(run_pb.ListIncidentsRequest())).incidents[0].incident_id,
        action=run_pb.ResolveIncidentRequest.ACTION_SKIP,
        output=common_pb2.Payload(data=b'"was paid"'),
    )
    await served.runs.ResolveIncident(retry)
    assert value((await served.closed(run_id)).context["done"]) == "was paid"
    assert not other.seen


async def test_an_attempt_over_its_time_is_judged_by_the_engine_too(served: Served) -> None:
    await served.register(one_task("quick", timeouts={"start_to_close": "10s"}, retry=AT_ONCE))
    worker = await served.worker(lambda task: HOLD)
    run_id = await served.start("quick")
    for attempt in (1, 2, 3):
        await worker.until(lambda n=attempt: len(worker.seen) == n)  # type: ignore[misc]
        assert worker.seen[-1].timeout.seconds == 10
        for _ in range(4):  # the worker is alive all the while
            served.advance(4)
            await beat(worker)
        await served.engine.deadlines.turn()
    run = await served.closed(run_id)
    assert (run.state, run.failure.code) == (common_pb2.RUN_STATE_FAILED, "START_TO_CLOSE_TIMEOUT")
    await worker.until(lambda: len(worker.cancels) == 3)
    assert {cancel.reason for cancel in worker.cancels} == {pb.CANCEL_REASON_TIMED_OUT}
    (late,) = (await complete(served, worker.held[0], "late")).rejected
    assert reason(late) in ("LEASE_LOST", "RUN_CLOSED")


async def test_a_task_that_stops_its_heartbeats_is_timed_out_and_leaves_its_checkpoint(served: Served) -> None:
    timeouts = {"heartbeat": "3s", "start_to_close": "1h"}
    document = one_task("steady", task={"runtime": "python", "handler": "echo"}, timeouts=timeouts, retry=AT_ONCE)
    await served.register(document)
    worker = await served.worker(lambda task: HOLD)
    run_id = await served.start("steady")
    await worker.until(lambda: bool(worker.held))
    (task,) = worker.held
    for step in range(3):
        served.advance(2)
        mark = pb.TaskHeartbeat(task_token=task.task_token, checkpoint=str(step).encode(), progress=b'{"at":1}')
        worker.link.receive(pb.StreamTasksRequest(task_heartbeats=[mark], heartbeat=pb.WorkerHeartbeat(number=step)))
        await worker.link.settle()
        await served.engine.deadlines.turn()
    assert len(worker.seen) == 1
    served.advance(4)
    await beat(worker)
    await worker.until(lambda: len(worker.seen) == 2)
    assert worker.seen[1].checkpoint == b"2"
    assert worker.seen[1].attempt == 2
    worker.finish(worker.held[1], 1)
    assert (await served.closed(run_id)).state == common_pb2.RUN_STATE_COMPLETED


async def test_a_task_that_waits_too_long_for_a_worker_times_out(served: Served) -> None:
    await served.register(one_task("urgent", timeouts={"schedule_to_start": "30s"}, retry=AT_ONCE))
    run_id = await served.start("urgent")
    served.advance(31)
    run = await served.closed(run_id)
    assert run.failure.code == "SCHEDULE_TO_START_TIMEOUT"


async def test_a_heartbeat_after_the_result_changes_nothing(served: Served) -> None:
    worker = await holding(served)
    (task,) = worker.held
    worker.finish(task, 1)
    await served.closed(task.run_id)
    before = await served.run(task.run_id)
    mark = pb.TaskHeartbeat(task_token=task.task_token, checkpoint=b"9")
    worker.link.receive(pb.StreamTasksRequest(task_heartbeats=[mark]))
    await worker.until(lambda: bool(worker.cancels))
    assert worker.cancels[0].reason == pb.CANCEL_REASON_LOST
    assert await served.run(task.run_id) == before


async def test_the_same_result_again_is_accepted_again(served: Served) -> None:
    worker = await holding(served)
    (task,) = worker.held
    for answer in ("first", "other"):
        response = await complete(served, task, answer)
        assert list(response.accepted_task_tokens) == [task.task_token]
    assert value((await served.run(task.run_id)).context["done"]) == "first"


async def test_results_of_one_message_share_a_fate_only_where_they_must(served: Served) -> None:
    worker = await holding(served, runs=3)
    first, second, third = worker.held
    await served.runs.TerminateRun(run_pb.TerminateRunRequest(run_id=second.run_id))
    results = [result_of(first, 1), result_of(second, 2), result_of(third, 3), pb.TaskResult(task_token=b"forged")]
    response = await served.workers.CompleteTasks(pb.CompleteTasksRequest(results=results))
    assert list(response.accepted_task_tokens) == [first.task_token, third.task_token]
    told = {each.task_token: reason(each) for each in response.rejected}
    assert told[b"forged"] == "BAD_TASK_TOKEN"
    assert told[second.task_token] in ("RUN_CLOSED", "LEASE_LOST")


async def test_output_that_is_no_json_fails_the_attempt(served: Served) -> None:
    worker = await holding(served)
    (task,) = worker.held
    result = pb.TaskResult(task_token=task.task_token, output=b"{nope")
    response = await served.workers.CompleteTasks(pb.CompleteTasksRequest(results=[result]))
    run = await served.run(task.run_id)
    assert response.rejected or run.failure.code
    assert b"{nope" not in [bytes(each) for each in run.context.values()]


# Whose turn it is


async def test_tasks_go_round_among_the_workers(served: Served) -> None:
    workers = [await served.worker(lambda task: HOLD, name=f"w{n}", credits=50) for n in range(3)]
    for _ in range(30):
        await served.start("task")
    for worker in workers:
        await worker.until(lambda w=worker: len(w.held) == 10)  # type: ignore[misc]


async def test_a_worker_without_credit_is_passed_over(served: Served) -> None:
    busy = await served.worker(lambda task: HOLD, name="busy", credits=1)
    free = await served.worker(lambda task: HOLD, name="free", credits=50)
    for _ in range(10):
        await served.start("task")
    await free.until(lambda: len(free.held) == 9)
    assert len(busy.held) == 1


async def test_a_backlog_is_served_by_priority_then_age(served: Served) -> None:
    order = [await served.start("task", priority=priority) for priority in (5, 1, 9, 5, 9)]
    worker = await served.worker(lambda task: HOLD, credits=5)
    await worker.until(lambda: len(worker.held) == 5)
    assert [order.index(task.run_id) for task in worker.held] == [2, 4, 0, 3, 1]


async def test_a_worker_takes_only_what_its_queues_and_runtimes_allow(served: Served) -> None:
    await served.register(one_task("wasm", task={"runtime": "python", "handler": "nobody-has-it"}))
    stranger = await served.worker(lambda task: 1, name="stranger", queues=("other",))
    first, second = await served.start("task"), await served.start("wasm")
    worker = await served.worker(lambda task: 1, name="right")
    await served.closed(first)
    assert not stranger.seen
    assert (await served.run(second)).state == common_pb2.RUN_STATE_RUNNING
    assert [task.run_id for task in worker.seen] == [first]


async def test_a_retry_is_tried_after_its_delay(served: Served) -> None:
    await served.register(one_task("flaky", retry={"initial_delay": "10s", "jitter": 0, "multiplier": 2}))
    failures = iter([True, True, False])

    def flaky(task: pb.Task) -> Any:
        if next(failures):
            raise Failing("FLAKY")
        return "ok"

    worker = await served.worker(flaky)
    run_id = await served.start("flaky")
    for wait, attempts in ((9, 1), (2, 2), (18, 2), (3, 3)):
        served.advance(wait)
        await beat(worker)
        await served.engine.timers.turn()
        await asyncio.sleep(0)
        assert len(worker.seen) in (attempts, attempts - 1) if wait in (2, 3) else len(worker.seen) <= attempts
    assert (await served.closed(run_id)).state == common_pb2.RUN_STATE_COMPLETED
    assert [task.attempt for task in worker.seen] == [1, 2, 3]


async def test_a_namespace_that_is_not_there_takes_no_workers(served: Served) -> None:
    request = pb.RegisterWorkerRequest(worker_id="w", namespace="nowhere")
    await refused(served.workers.RegisterWorker(request), "NAMESPACE_NOT_FOUND")


async def test_a_worker_that_stops_an_at_most_once_task_leaves_an_incident_and_no_second_attempt(
    served: Served,
) -> None:
    document = one_task("pay")
    document["states"]["work"]["task"]["at_most_once"] = True
    await served.register(document)
    worker = await served.worker(lambda task: HOLD)
    run_id = await served.start("pay")
    await worker.until(lambda: bool(worker.held))
    token = worker.held.pop().task_token
    release = pb.TaskRelease(task_token=token, reason=pb.RELEASE_REASON_INTERRUPTED, message="the worker had to stop")
    worker.link.receive(pb.StreamTasksRequest(releases=[release], credits=1))
    await worker.link.settle()
    assert (await served.run(run_id)).state == common_pb2.RUN_STATE_INCIDENT
