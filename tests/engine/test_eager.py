"""The first task of a run comes with the answer to its start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.engine.cluster import TestWorker
from tests.engine.documents import one_task
from tests.engine.plain import CODE, chain, complete, nothing_more_for, phase, poll, register, start
from tests.engine.served import Served, refusal_of, refused, seconds, serving, value
from windlass.engine import eager
from windlass.engine.connected import UNHEARD_US
from windlass.storage.memory import Faults, MemoryWorld
from windlass.v1 import admin_service_pb2 as admin_pb
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb

HOLD = TestWorker.HOLD
UNHEARD_SECONDS = UNHEARD_US / 1e6


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        await engine.register(one_task())
        await engine.register(chain(3))
        yield engine


# With the start


async def test_a_run_of_three_tasks_takes_four_calls(served: Served) -> None:
    session = await register(served)
    started = await start(served, session, "chain", {"n": 7})
    assert started.created
    assert (started.task.run_id, started.task.state, started.task.attempt) == (started.run.run_id, "s0", 1)
    assert value(started.task.input) == {"n": 7}
    task, states = started.task, ["s0"]
    for _ in range(2):
        done = await complete(served, session, task, max_tasks=1)
        assert list(done.accepted_task_tokens) == [task.task_token]
        (task,) = done.tasks
        states.append(task.state)
    assert not (await complete(served, session, task, max_tasks=1)).tasks
    run = await served.closed(started.run.run_id)
    assert (run.state, states) == (common_pb2.RUN_STATE_COMPLETED, ["s0", "s1", "s2"])


async def test_a_worker_on_a_stream_gets_the_task_with_the_answer_and_spends_no_credit(served: Served) -> None:
    worker = await served.worker(lambda task: HOLD, credits=1)
    await worker.until(lambda: bool(worker.session_id))
    started = await start(served, worker.session_id)
    usual = await served.start("task")
    await worker.until(lambda: len(worker.seen) == 1)
    assert (started.task.run_id, worker.seen[0].run_id) == (started.run.run_id, usual)
    results = [pb.TaskResult(task_token=started.task.task_token, output=b"2")]
    worker.link.receive(pb.StreamTasksRequest(results=results))
    assert value((await served.closed(started.run.run_id)).context["done"]) == 2
    session = served.engine.dispatch.connected[worker.session_id]
    assert (session.credits, session.reserved, len(session.held)) == (0, 0, 1)


async def test_of_several_first_tasks_one_comes_back_and_the_others_go_their_way(served: Served) -> None:
    branches = {"a": {"task": CODE}, "b": {"task": CODE}}
    state = {"parallel": {"branches": branches}, "next": "end"}
    await served.register({"workflow": "two", "initial": "a", "states": {"a": state, "end": {}}})
    session = await register(served)
    started = await start(served, session, "two")
    (other,) = await poll(served, session)
    assert {started.task.path, other.path} == {"a", "b"}


async def test_a_child_is_not_the_run_that_was_started(served: Served) -> None:
    state = {"spawn": "task", "next": "end"}
    await served.register({"workflow": "parent", "initial": "a", "states": {"a": state, "end": {}}})
    session = await register(served)
    assert not (await start(served, session, "parent")).HasField("task")
    assert len(await poll(served, session, 20)) == 1


async def unknown(served: Served) -> str:
    return "nobody"


async def elsewhere(served: Served) -> str:
    return await register(served, queues=["other"])


async def drained(served: Served) -> str:
    session = await register(served)
    await served.workers.DrainWorker(pb.DrainWorkerRequest(session_id=session))
    return session


async def of_another_kind(served: Served) -> str:
    request = pb.RegisterWorkerRequest(worker_id="w", slots=1)
    request.runtimes.add(name="wasm", version="1")
    return str((await served.workers.RegisterWorker(request)).session_id)


@pytest.mark.parametrize("whose", [unknown, elsewhere, drained, of_another_kind])
async def test_a_session_that_cannot_have_the_task_changes_nothing(served: Served, whose: Any) -> None:
    started = await start(served, await whose(served))
    assert (started.created, started.HasField("task")) == (True, False)
    assert await phase(served, started.run.run_id) == "queued"


async def test_a_start_for_later_brings_no_task(served: Served) -> None:
    session = await register(served)
    assert not (await start(served, session, start_delay=seconds(60))).HasField("task")
    assert not (await start(served, session, paused=True)).HasField("task")
    assert not (await start(served, session, validate_only=True)).HasField("task")


async def test_the_task_takes_its_units_like_any_other(served: Served) -> None:
    await served.register(one_task("gpu", task={**CODE, "needs": {"gpu": 1}}))
    session = await register(served, offered_units={"gpu": 1})
    first = await start(served, session, "gpu")
    second = await start(served, session, "gpu")
    assert (first.HasField("task"), second.HasField("task")) == (True, False)
    (waited,) = (await complete(served, session, first.task, max_tasks=1)).tasks or await poll(served, session, 20)
    assert waited.run_id == second.run.run_id


async def test_a_start_that_is_refused_gives_back_what_it_took(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    await served.register(one_task("gpu", task={**CODE, "needs": {"gpu": 1}}))
    session = await register(served, offered_units={"gpu": 1})
    monkeypatch.setattr("windlass.engine.starting._remember", _fails)
    await refused(start(served, session, "gpu"), "INTERNAL")
    monkeypatch.undo()
    assert (await start(served, session, "gpu")).HasField("task")


def _fails(*_: object) -> None:
    raise RuntimeError("as a defect would")


async def test_only_a_start_by_itself_has_an_answer_that_carries_a_task(served: Served) -> None:
    request = run_pb.StartRunRequest(workflow="task", workflow_id="x", eager_session_id=await register(served))
    (result,) = (await served.runs.StartRuns(run_pb.StartRunsRequest(requests=[request]))).results
    assert refusal_of(result.error).fields() == ["eager_session_id"]
    waiting = served.runs.StartAndWaitRun(run_pb.StartAndWaitRunRequest(start=request))
    assert (await refused(waiting, "INVALID_FIELD")).fields() == ["eager_session_id"]
    signal = run_pb.SignalWithStartRunRequest(start=request, signal_name="go")
    await refused(served.runs.SignalWithStartRun(signal), "INVALID_FIELD")


# Answers that are lost


async def test_a_task_that_nothing_is_heard_of_is_sent_once_more(served: Served) -> None:
    session = await register(served)
    started = await start(served, session)
    served.advance(UNHEARD_SECONDS - 0.5)
    await nothing_more_for(served, session)
    served.advance(0.6)
    (again,) = await poll(served, session, 20)
    assert again.SerializeToString(deterministic=True) == started.task.SerializeToString(deterministic=True)
    served.advance(UNHEARD_SECONDS)
    await nothing_more_for(served, session)
    await complete(served, session, again)
    await served.closed(started.run.run_id)


async def test_it_comes_with_the_next_poll_however_short_that_is(served: Served) -> None:
    """Polls may all be over before the engine looks at its leases by itself."""
    session = await register(served)
    started = await start(served, session)
    await served.engine.deadlines.stop()
    served.advance(UNHEARD_SECONDS)
    (again,) = await poll(served, session, 0.001)
    assert again.task_token == started.task.task_token
    assert not await poll(served, session, 0.001)


async def test_it_comes_with_the_answer_to_results_unless_it_is_among_these(served: Served) -> None:
    session = await register(served)
    started = [(await start(served, session)).task for _ in range(2)]
    await served.engine.deadlines.stop()
    served.advance(UNHEARD_SECONDS)
    tasks = (await complete(served, session, started[0], max_tasks=2)).tasks
    assert [task.task_token for task in tasks] == [started[1].task_token]


async def test_it_is_sent_again_for_a_credit_and_not_before_there_is_one(served: Served) -> None:
    worker = await served.worker(lambda task: HOLD, credits=1)
    await worker.until(lambda: bool(worker.session_id))
    started = await start(served, worker.session_id)
    await served.start("task")
    await worker.until(lambda: len(worker.seen) == 1)
    served.advance(UNHEARD_SECONDS)
    await served.engine.deadlines.turn()
    connected = served.engine.dispatch.connected[worker.session_id]
    assert (len(worker.seen), connected.credits) == (1, 0)
    worker.finish(worker.seen[0], 1)
    await worker.until(lambda: len(worker.seen) == 2)
    assert worker.seen[1].task_token == started.task.task_token
    assert connected.credits == 0


async def test_a_worker_that_drains_is_sent_it_to_give_it_back(served: Served) -> None:
    worker = await served.worker(lambda task: HOLD)
    await worker.until(lambda: bool(worker.session_id))
    started = await start(served, worker.session_id)
    worker.link.receive(pb.StreamTasksRequest(drain=True, credits=-16))
    served.advance(UNHEARD_SECONDS)
    await worker.until(lambda: bool(worker.seen))
    assert worker.seen[0].task_token == started.task.task_token


async def test_it_is_sent_again_on_a_stream_too(served: Served) -> None:
    worker = await served.worker(lambda task: 5)
    await worker.until(lambda: bool(worker.session_id))
    started = await start(served, worker.session_id)
    served.advance(UNHEARD_SECONDS)
    assert value((await served.closed(started.run.run_id)).context["done"]) == 5
    assert [task.task_token for task in worker.seen] == [started.task.task_token]


async def heartbeat(served: Served, session: str, task: pb.Task) -> None:
    beat = pb.TaskHeartbeat(task_token=task.task_token)
    await served.workers.HeartbeatTasks(pb.HeartbeatTasksRequest(session_id=session, heartbeats=[beat]))


@pytest.mark.parametrize("sign", [heartbeat, complete])
async def test_a_sign_of_life_says_that_it_arrived(served: Served, sign: Callable[..., Any]) -> None:
    session = await register(served)
    started = await start(served, session)
    await sign(served, session, started.task)
    served.advance(UNHEARD_SECONDS)
    await nothing_more_for(served, session)


async def test_a_repeated_start_finds_its_run_whatever_session_it_names(served: Served) -> None:
    session = await register(served)
    first = await start(served, session, request_id="r1")
    again = await start(served, "another", request_id="r1")
    assert (again.run.run_id, again.HasField("task")) == (first.run.run_id, False)
    served.advance(UNHEARD_SECONDS)
    assert [task.task_token for task in await poll(served, session, 20)] == [first.task.task_token]


async def test_a_task_too_large_for_the_answer_comes_with_a_poll(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eager, "TASK_BYTES_MAX", 100_000)
    session = await register(served)
    started = await start(served, session, given={"text": "x" * 200_000})
    assert not started.HasField("task")
    (task,) = await poll(served, session, 20)
    assert task.run_id == started.run.run_id
    served.advance(UNHEARD_SECONDS)
    await nothing_more_for(served, session)


async def test_a_session_that_ends_meanwhile_leaves_the_task_to_others(served: Served) -> None:
    session = await register(served)
    dispatch = served.engine.dispatch
    deliver = dispatch.deliver

    def gone_before_delivery(after: Any) -> None:
        dispatch.disconnect(session, dispatch.connected[session].outlet)
        dispatch.deliver = deliver  # type: ignore[method-assign]
        deliver(after)

    dispatch.deliver = gone_before_delivery  # type: ignore[method-assign]
    started = await start(served, session)
    assert not started.HasField("task")
    await served.engine.sessions.end(session, "gone")
    other = await register(served)
    (task,) = await poll(served, other, 20)
    assert task.run_id == started.run.run_id


async def test_a_start_whose_commit_is_unknown_leaves_no_lease_behind(served: Served) -> None:
    faults = Faults()
    async with serving(MemoryWorld(faults=faults).open(shared=True)) as engine:
        await engine.register(one_task())
        session = await register(engine)
        faults.unknown_landed = 1.0
        await refused(start(engine, session, request_id="r1"), "COMMIT_UNKNOWN")
        faults.unknown_landed = 0.0
        started = await start(engine, session, request_id="r1")
        assert not started.HasField("task")
        tasks: list[pb.Task] = []
        while not tasks:
            engine.advance(2)
            await engine.engine.sessions.turn()
            tasks = await poll(engine, session)
        assert tasks[0].run_id == started.run.run_id


# The clock of leases


async def test_heartbeats_go_by_the_wall_clock_whatever_clock_the_run_has(served: Served) -> None:
    """A namespace whose own time stands far in the past: its tasks have their time all the same."""
    namespace = admin_pb.Namespace(name="sim", virtual_time=True)
    namespace.current_time.seconds = 1_000_000_000
    await served.admin.CreateNamespace(admin_pb.CreateNamespaceRequest(namespace=namespace))
    task = {"runtime": "python", "handler": "steady"}
    await served.register(one_task(task=task, timeouts={"heartbeat": "1h"}), ns="sim")
    session = await register(served, namespace="sim", handlers=[common_pb2.StepType(handler="steady")])
    started = await start(served, session, namespace="sim")
    await served.engine.deadlines.turn()
    assert (await complete(served, session, started.task)).accepted_task_tokens
