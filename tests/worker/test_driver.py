"""A worker against an engine over a real socket, with real JavaScript in the real jail."""

from __future__ import annotations

import asyncio
import json

import grpc
import pytest
from google.rpc import code_pb2

from tests.runtimes.guests import ECHO, assemble, compile_bomb
from tests.runtimes.test_compiling import until_busy
from tests.worker.conftest import StartWorker
from tests.worker.fake_engine import FakeEngine, status
from windlass.runtimes.jail_pool import SlotPool
from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.contact import Unreachable

DOUBLE = b"input.n * 2"
COUNT = b"let n = 0; while (n < input) n++; n"
FOREVER = b"while (true);"


async def done(*stored: object) -> None:
    for each in stored:
        await asyncio.wait_for(each.done.wait(), 30)  # type: ignore[attr-defined]


async def test_tasks_run_and_their_results_arrive(engine: FakeEngine, start_worker: StartWorker) -> None:
    await start_worker(engine.address, slots=2)
    many = [engine.submit("javascript", code=DOUBLE, input=b'{"n": %d}' % n) for n in range(50)]
    await done(*many)
    assert [json.loads(each.result.output) for each in many if each.result] == [2 * n for n in range(50)]
    assert engine.rejections == []


async def test_the_code_sees_its_task_and_asks_come_back(engine: FakeEngine, start_worker: StartWorker) -> None:
    await start_worker(engine.address)
    code = b"""
        ctx.set("seen", {run: ctx.runId, attempt: ctx.attempt, key: ctx.idempotencyKey, order: ctx.get("order")});
        ctx.log("info", "hello", {n: 1});
        ctx.route("left");
    """
    stored = engine.submit("javascript", code=code, context={"order": b'{"id": 7}'}, path="a/#3")
    await done(stored)
    assert stored.result is not None
    assert not stored.result.HasField("failure"), stored.result.failure
    run_id = stored.task.run_id
    assert json.loads(stored.result.context_patch["seen"]) == {
        "run": run_id,
        "attempt": 1,
        "key": f"{run_id}:1:a/#3",
        "order": {"id": 7},
    }
    assert stored.result.asks.route == "left"
    assert [line.message for line in stored.result.logs] == ["hello"]


async def test_failures_have_the_runtimes_names(engine: FakeEngine, start_worker: StartWorker) -> None:
    await start_worker(engine.address)
    thrown = engine.submit("javascript", code=b"throw new Error('no')")
    endless = engine.submit("javascript", code=FOREVER, timeout_s=0.2)
    unknown = engine.submit("javascript", module_digest="0" * 64)
    malformed = engine.submit("javascript", module_digest="../../etc/passwd")
    absent = engine.submit("cobol", code=b"STOP RUN.")
    await done(thrown, endless, unknown, malformed, absent)
    codes = [each.result.failure.code for each in (thrown, endless, unknown, malformed, absent) if each.result]
    assert codes == ["USER_ERROR", "TIMEOUT", "MODULE_MISSING", "MODULE_MISSING", "RUNTIME_UNSUPPORTED"]


async def test_a_cancel_interrupts_a_task_that_does_not_cooperate(
    engine: FakeEngine, start_worker: StartWorker
) -> None:
    await start_worker(engine.address)
    stored = engine.submit("javascript", code=FOREVER)
    await engine.until(lambda: bool(stored.session))
    engine.cancel(stored, wire.CANCEL_REASON_CANCELLED)
    await done(stored)
    assert stored.result is not None
    assert stored.result.failure.code == "CANCELLED"


async def test_a_lost_lease_stops_the_task_and_nothing_is_reported(
    engine: FakeEngine, start_worker: StartWorker
) -> None:
    worker, _ = await start_worker(engine.address)
    stored = engine.submit("javascript", code=FOREVER)
    await asyncio.wait_for(worker.busy.wait(), 30)
    engine.cancel(stored, wire.CANCEL_REASON_LOST)
    clean = engine.submit("javascript", code=DOUBLE, input=b'{"n": 4}')
    await done(clean)
    assert stored.result is None
    assert worker.session.working == 0


async def test_a_broken_stream_loses_no_result_and_doubles_none(engine: FakeEngine, start_worker: StartWorker) -> None:
    worker, _ = await start_worker(engine.address, slots=2)
    many = []
    for n in range(60):
        many.append(engine.submit("javascript", code=DOUBLE, input=b'{"n": %d}' % n))
        if n % 15 == 7:
            await engine.until(lambda: worker.session.registered)
            engine.break_streams()
    await done(*many)
    assert [json.loads(each.result.output) for each in many if each.result] == [2 * n for n in range(60)]
    assert len({register.instance_id for register in engine.registers}) == 1
    assert len(engine.sessions) == 1


async def test_an_engine_that_restarts_finds_its_worker_with_what_it_held(
    engine: FakeEngine, start_worker: StartWorker
) -> None:
    worker, _ = await start_worker(engine.address)
    slow = engine.submit("javascript", code=COUNT, input=b"20000000")
    await asyncio.wait_for(worker.busy.wait(), 30)
    await engine.stop()
    await engine.start()
    await done(slow)
    assert slow.epoch == 1  # not run a second time
    assert slow.token in [token for register in engine.registers for token in register.held_task_tokens]


@pytest.mark.parametrize(
    "gone", [(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"), (grpc.StatusCode.ABORTED, "SESSION_REPLACED")]
)
async def test_a_lapsed_or_replaced_session_is_followed_by_a_new_one(
    engine: FakeEngine, start_worker: StartWorker, gone: tuple[grpc.StatusCode, str]
) -> None:
    engine.gone = gone
    worker, _ = await start_worker(engine.address)
    stored = engine.submit("javascript", code=FOREVER, timeout_s=60)
    await asyncio.wait_for(worker.busy.wait(), 30)
    first = worker.session.session_id
    engine.modules[stored.task.module_digest] = FOREVER
    engine.lapse(first)
    await engine.until(lambda: stored.epoch == 2)
    assert worker.session.session_id != first
    engine.cancel(stored, wire.CANCEL_REASON_CANCELLED)
    await done(stored)
    assert engine.rejections == []


async def test_a_mute_engine_is_left_and_its_tasks_stop_before_the_lease_ends(start_worker: StartWorker) -> None:
    async with FakeEngine(lease_s=1.5, interval_s=0.3) as engine, FakeEngine(lease_s=1.5, interval_s=0.3) as other:
        worker, _ = await start_worker(engine.address, other.address)
        stored = engine.submit("javascript", code=FOREVER, timeout_s=60)
        await asyncio.wait_for(worker.busy.wait(), 30)
        engine.mute = True
        await other.until(lambda: other.registers)
        assert other.registers[0].resume_session_id
        assert list(other.registers[0].held_task_tokens) == [stored.token]
        clean = other.submit("javascript", code=DOUBLE, input=b'{"n": 1}')
        await done(clean)


async def test_tasks_stop_when_no_engine_can_renew_the_lease(start_worker: StartWorker) -> None:
    async with FakeEngine(lease_s=1.0, interval_s=0.3) as engine:
        worker, _ = await start_worker(engine.address)
        engine.submit("javascript", code=FOREVER, timeout_s=60)
        await asyncio.wait_for(worker.busy.wait(), 30)
        stop_at_s = worker.session.lease.stop_at_s
        await engine.stop()
        await asyncio.wait_for(worker.idle.wait(), 10)
        assert asyncio.get_running_loop().time() >= stop_at_s


async def test_a_refused_result_becomes_a_failure_that_says_why(engine: FakeEngine, start_worker: StartWorker) -> None:
    engine.refuse_with = status(code_pb2.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE", "2000000 bytes; the limit is 1000000")
    await start_worker(engine.address)
    stored = engine.submit("javascript", code=DOUBLE, input=b'{"n": 1}')
    await done(stored)
    assert stored.result is not None
    assert stored.result.failure.code == "PAYLOAD_TOO_LARGE"
    assert "limit" in stored.result.failure.message


async def test_drain_finishes_what_runs_takes_no_more_and_ends_the_session(
    engine: FakeEngine, start_worker: StartWorker
) -> None:
    worker, running = await start_worker(engine.address)
    await done(engine.submit("javascript", code=COUNT, input=b"1"))  # now the code is at hand
    slow = engine.submit("javascript", code=COUNT, input=b"5000000")
    await asyncio.wait_for(worker.busy.wait(), 30)
    session_id = worker.session.session_id
    worker.drain()
    late = engine.submit("javascript", code=DOUBLE, input=b'{"n": 1}')
    await asyncio.wait_for(running, 30)
    assert slow.done.is_set()
    assert not late.done.is_set()
    assert not late.session
    assert engine.left == [session_id]


async def test_a_drain_that_takes_too_long_gives_the_task_back(engine: FakeEngine, start_worker: StartWorker) -> None:
    worker, running = await start_worker(engine.address, drain_s=0.2)
    stored = engine.submit("javascript", code=FOREVER, timeout_s=60)
    jail = worker.execution._jail
    assert isinstance(jail, SlotPool)
    await until_busy(jail, 1)
    worker.drain()
    await asyncio.wait_for(running, 30)
    assert [release.reason for release in stored.releases] == [wire.RELEASE_REASON_INTERRUPTED]


async def test_a_worker_that_holds_something_comes_back_soon(engine: FakeEngine, start_worker: StartWorker) -> None:
    worker, _ = await start_worker(engine.address)
    engine.submit("javascript", code=FOREVER, timeout_s=60)
    await asyncio.wait_for(worker.busy.wait(), 30)
    pauses: list[float] = []

    def next_s(most_s: float) -> float:
        pauses.append(most_s)
        return 0.0

    worker._backoff.next_s = next_s  # type: ignore[method-assign, assignment]  # the pause itself is a matter of chance
    engine.break_streams()
    await engine.until(lambda: len(engine.registers) == 2)
    assert pauses == [engine.lease_s * 0.2]


async def test_a_draining_engine_is_left_for_another(engine: FakeEngine, start_worker: StartWorker) -> None:
    async with FakeEngine() as other:
        worker, _ = await start_worker(engine.address, other.address)
        await engine.until(lambda: worker.session.registered)
        engine.drain()
        await other.until(lambda: other.registers)
        await done(other.submit("javascript", code=DOUBLE, input=b'{"n": 1}'))


async def test_a_worker_that_is_pointed_at_nothing_says_so(start_worker: StartWorker) -> None:
    _, running = await start_worker("127.0.0.1:9", first_contact_s=0.3)
    with pytest.raises(Unreachable, match=r"no engine at 127\.0\.0\.1:9"):
        await running


async def test_progress_and_checkpoint_reach_the_engine_before_the_result(
    engine: FakeEngine, start_worker: StartWorker
) -> None:
    await start_worker(engine.address)
    stored = engine.submit(
        "javascript", code=b'ctx.progress(0.5, "half"); ctx.heartbeat({at: 3}); throw new Error("x")'
    )
    await done(stored)
    notes = [note for note in engine.notes if note.task_token == stored.token]
    assert notes, (stored, engine.notes)
    assert any(note.checkpoint and json.loads(note.checkpoint) == {"at": 3} for note in notes)
    assert any(note.progress and json.loads(note.progress)["message"] == "half" for note in notes)


async def test_tasks_that_wait_behind_long_ones_are_given_back_and_no_more_are_taken(
    engine: FakeEngine, start_worker: StartWorker
) -> None:
    worker, _ = await start_worker(engine.address)
    while worker.execution.capacity == 1:  # tasks are taken several at a time as soon as they were seen to be short
        await done(*(engine.submit("javascript", code=COUNT, input=b"1") for _ in range(40)))
    stuck = engine.submit("javascript", code=COUNT, input=b"1e15", timeout_s=60)
    behind = [engine.submit("javascript", code=COUNT, input=b"1") for _ in range(5)]
    await engine.until(
        lambda: all(each.releases for each in behind if each.epoch) and any(each.epoch for each in behind)
    )
    assert worker.execution.capacity == 1
    assert stuck.epoch == 1
    async with asyncio.timeout(30):
        heir, _ = await start_worker(engine.address, worker_id="heir")
        await done(*behind)
    assert {release.reason for each in behind for release in each.releases} == {wire.RELEASE_REASON_DRAINED}
    assert heir.execution.tally.succeeded == 5


async def test_a_worker_says_what_it_offers_whenever_it_registers(
    engine: FakeEngine, start_worker: StartWorker
) -> None:
    await start_worker(engine.address, offer={"gpu": 2, "memory": 16384})
    await done(engine.submit("javascript", code=DOUBLE, input=b'{"n": 1}'))
    assert [dict(each.offered_units) for each in engine.registers] == [{"gpu": 2, "memory": 16384}]


async def test_a_goodbye_is_heard_out_although_the_stream_ends_before_it_is_answered(
    engine: FakeEngine, start_worker: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    worker, running = await start_worker(engine.address)
    await worker.contact.wait()
    engine.goodbyes.clear()
    worker.drain()
    await worker.alone.wait()
    engine.goodbyes.set()
    await running
    assert len(engine.left) == 1
    assert not [record.message for record in caplog.records if record.levelname == "WARNING"]


async def test_what_waits_for_the_code_of_others_to_be_compiled_is_given_back_in_time(
    engine: FakeEngine, start_worker: StartWorker
) -> None:
    """Its own time is not spent on that: it comes again, here or elsewhere, with all of it."""
    worker, _ = await start_worker(engine.address, slots=2, runtimes=("javascript", "wasm"))
    bomb = engine.submit("wasm", code=compile_bomb(1), timeout_s=60)
    jail = worker.execution._jail
    assert isinstance(jail, SlotPool)
    await until_busy(jail, 1)
    new = engine.submit("wasm", code=assemble(ECHO), input=b"7", timeout_s=1)
    await done(new)
    assert new.result is not None
    assert new.result.output == b"7"
    assert {release.reason for release in new.releases} == {wire.RELEASE_REASON_DRAINED}
    assert bomb.result is None
    assert not bomb.releases
