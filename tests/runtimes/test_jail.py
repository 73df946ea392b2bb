"""The jail seen from the worker: deadlines, cancelling, crashes, broken children, batches, namespaces."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.runtimes.guests import ECHO, MIB, PATIENT, SHORT, calling, module, script, task
from tests.runtimes.probe_child import BEYOND
from windlass.runtimes import failures
from windlass.runtimes.jail_frames import BadFrame, Done, FrameBuffer, decode_from_child, encode_frame
from windlass.runtimes.jail_pool import SlotPool
from windlass.runtimes.jail_settings import JailBroken, JailIncomplete, JailSettings
from windlass.runtimes.port import Activation, Completion, Limits, Note, Progress, digest_of
from windlass.runtimes.prepared_cache import PreparedCache

PROBE = Path(__file__).parent / "probe_child.py"
LONG = Limits(wall_us=60_000_000)


def probe(attempt: str, **fields: Any) -> Activation:
    """Return an activation that makes the probe try something."""
    return script(attempt, runtime="probe", limits=fields.pop("limits", PATIENT), **fields)


@asynccontextmanager
async def slots(mode: str = "", cache: PreparedCache | None = None, **settings: Any) -> AsyncIterator[SlotPool]:
    """A pool of its own, of probe children."""
    known: dict[str, Any] = {
        "slots": 1,
        "spares": 1,
        "runtimes": ("javascript", "probe"),
        "grace_us": 100_000,
        "command": (sys.executable, "-I", str(PROBE), mode),
    }
    pool = SlotPool(JailSettings(**{**known, **settings}), cache)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def code_of(completion: Completion) -> str:
    """Return the failure's code."""
    return completion.failure.code if completion.failure else "OK"


async def test_report_says_what_holds(pool: SlotPool) -> None:
    report = pool.report()
    assert [layer.name for layer in report.layers] == [
        "process",
        "namespaces",
        "user",
        "landlock",
        "rlimits",
        "seccomp",
    ]
    assert all(layer.detail for layer in report.layers)
    assert {info.name for info in report.runtimes} == {"javascript", "wasm"}
    assert "process" not in report.inactive
    assert "rlimits" not in report.inactive


@pytest.mark.parametrize("guest", ["for(;;);", "new Array(4294967295).join('x')", "(async()=>{for(;;)await 1})()"])
async def test_running_task_is_cancelled_without_its_help(pool: SlotPool, guest: str) -> None:
    activation = script(guest, limits=LONG)
    answer = pool.submit(activation)
    done, _ = await asyncio.wait({answer}, timeout=0.2)
    assert not done
    assert pool.cancel(activation.task.key, "no longer wanted")
    completion = await answer
    assert completion.failure is not None
    assert (completion.failure.code, completion.failure.message) == (failures.CANCELLED, "no longer wanted")
    assert not pool.cancel(activation.task.key)
    assert (await pool.run(script("1", limits=PATIENT))).output == b"1"


async def test_running_module_is_cancelled_without_its_help(pool: SlotPool) -> None:
    progress = calling(
        "progress", "f64 i32 i32", "(call $call (f64.const 0.5) (i32.const 0) (i32.const 0)) (loop (br 0))", {}
    )
    activation = module(progress, limits=LONG)
    notes: asyncio.Queue[Note] = asyncio.Queue()
    answer = pool.submit(activation, notes.put_nowait)
    assert await notes.get() == Progress(0.5, "")
    assert pool.cancel(activation.task.key)
    assert code_of(await answer) == failures.CANCELLED


async def test_cancelling_the_caller_cancels_the_task() -> None:
    async with slots() as pool:
        running = asyncio.create_task(pool.run(script("for(;;);", limits=LONG)))
        done, _ = await asyncio.wait({running}, timeout=0.2)
        assert not done
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await pool.run(script("1", limits=PATIENT))).output == b"1"


async def test_task_that_waits_is_cancelled_before_it_runs() -> None:
    async with slots() as pool:
        first, second = script("for(;;);", limits=LONG), script("for(;;);", limits=LONG)
        answers = [pool.submit(first), pool.submit(second)]
        assert pool.cancel(second.task.key)
        assert code_of(await answers[1]) == failures.CANCELLED
        assert not answers[0].done()
        assert pool.cancel(first.task.key)
        assert code_of(await answers[0]) == failures.CANCELLED


@pytest.mark.parametrize(
    ("attempt", "story"),
    [
        ("segfault", "SIGSEGV"),
        ("abort", "SIG"),
        ("exit 7", "exit code 7"),
        ("garbage", "garbage"),
        ("huge_frame", "garbage"),
        ("forged_answer", "nobody asked"),
        ("ready_again", "nobody asked"),
        ("wrong_kind", "nobody asked"),
        ("recalled_nothing", "nobody asked"),
        ("note_on_another", "nothing that runs"),
        ("endless_words", "without end"),
    ],
)
async def test_crash_is_tried_once_more_and_then_named(attempt: str, story: str) -> None:
    async with slots() as pool:
        completion = await pool.run(probe(attempt))
        assert completion.failure is not None
        assert completion.failure.code == failures.SANDBOX_CRASHED
        assert story in completion.failure.message
        assert pool.report().children_crashed == 2
        assert (await pool.run(script("1", limits=PATIENT))).output == b"1"


async def test_crash_harms_nobody_who_shared_the_crossing() -> None:
    async with slots(batch_us=10_000_000) as pool:
        for attempt in ("pid", "segfault"):
            pool._durations.learn(digest_of(attempt.encode()), 10)
        answers = [pool.submit(probe("segfault" if number == 5 else "pid")) for number in range(12)]
        codes = [code_of(await answer) for answer in answers]
    assert codes == ["OK"] * 5 + [failures.SANDBOX_CRASHED] + ["OK"] * 6


async def test_what_a_child_says_of_itself_counts_once() -> None:
    async with slots(spares=0) as pool:
        known = pool.report()
        answer = pool.submit(probe("ready_again"))
        while not pool.report().children_crashed:
            assert (pool.report().runtimes, pool.report().layers) == (known.runtimes, known.layers)
            await asyncio.sleep(0)
        assert (pool.report().runtimes, pool.report().layers) == (known.runtimes, known.layers)
        assert code_of(await answer) == failures.SANDBOX_CRASHED


@pytest.mark.parametrize(
    ("attempt", "outcome"),
    [("answer_and_stay", "OK"), ("answer_what_was_taken_back", failures.SANDBOX_CRASHED)],
)
async def test_child_that_keeps_what_was_taken_back_loses_its_slot(attempt: str, outcome: str) -> None:
    async with slots() as pool, asyncio.timeout(10):
        for _ in range(3):
            await pool.run(probe(attempt))
        first, behind = (pool.submit(probe(attempt, input=text, limits=LONG)) for text in (b"true", b"false"))
        assert (await behind).output == b'"short"'
        assert code_of(await first) == outcome


async def test_what_is_no_json_is_not_passed_on() -> None:
    async with slots() as pool:
        assert code_of(await pool.run(probe("not_json"))) == failures.BAD_OUTPUT


async def test_what_is_beyond_the_limits_is_not_passed_on() -> None:
    async with slots() as pool:
        for name in BEYOND.keys() - {"not_json"}:
            completion = await pool.run(probe(name))
            assert code_of(completion) == failures.OUTPUT_TOO_LARGE, name
            assert "; there can be " in (completion.failure.message if completion.failure else ""), name


async def test_codes_that_no_failure_can_have_are_not_passed_on() -> None:
    async with slots() as pool:
        for name in ("long_code", "borrowed_code"):
            completion = await pool.run(probe(name))
            assert code_of(completion) == failures.BAD_OUTPUT
            assert completion.failure is not None
            assert len(completion.failure.message) < 200


@pytest.mark.parametrize(
    "body",
    [
        b"\x93\x03\x01\xdd\x01\0\0\0" + b"\x91\xa0" * (1 << 24),  # Checked
        b"\x92\x05\xdd\x01\0\0\0" + b"\x01" * (1 << 24),  # Recalled
        b"\x93\x01\x01\x94\xc0\xc4\x011\x80\xdd\x01\0\0\0" + b"\x92\xa5route\xa0" * (1 << 22),  # Done, with asks
        b"\x93\x01\x01\x93\xc0\xc4\x011\xdf\x01\0\0\0" + b"\xa0\xc4\0" * (1 << 22),  # Done, with a patch
    ],
)
def test_what_takes_much_more_room_than_its_frame_is_not_made(body: bytes) -> None:
    with pytest.raises(BadFrame, match="of length <="):
        decode_from_child(body)


async def test_child_that_does_not_listen_is_killed() -> None:
    async with slots("deaf") as pool:
        completion = await pool.run(script("1", input=b'"' + b"x" * (8 * MIB) + b'"', limits=SHORT))
        assert code_of(completion) == failures.TIMEOUT


async def test_child_that_cannot_start_is_told_with_its_last_words() -> None:
    with pytest.raises(JailBroken, match="no such library"):
        async with slots("dies"):
            pass


async def test_program_that_is_not_there_is_told() -> None:
    with pytest.raises(JailBroken, match="cannot be started"):
        async with slots(command=("/nowhere/python",)):
            pass


async def test_missing_layer_is_fatal_only_when_required() -> None:
    async with slots("no-seccomp") as pool:
        assert pool.report().inactive == ("seccomp",)
        assert (await pool.run(script("1", limits=PATIENT))).output == b"1"
    with pytest.raises(JailIncomplete, match="seccomp"):
        async with slots("no-seccomp", required=frozenset({"seccomp", "rlimits"})):
            pass
    with pytest.raises(JailIncomplete, match="moat"):
        async with slots(required=frozenset({"moat"})):
            pass


async def test_children_are_replaced_after_their_share() -> None:
    async with slots(recycle_after=3) as pool:
        pids = [(await pool.run(probe("pid"))).output for _ in range(7)]
    assert pids[0] == pids[1] == pids[2] != pids[3]
    assert pids[3] == pids[4] == pids[5] != pids[6]


async def test_children_never_serve_two_namespaces() -> None:
    async with slots(slots=2) as pool:
        seen: dict[str, set[bytes]] = {"a": set(), "b": set(), "c": set()}
        for _ in range(3):
            for namespace, pids in seen.items():
                pids.add((await pool.run(probe("pid", task=task(namespace=namespace)))).output)
    assert not seen["a"] & seen["b"]
    assert not seen["b"] & seen["c"]
    assert not seen["a"] & seen["c"]


async def test_tasks_behind_a_straggler_move_to_another_slot() -> None:
    """Code that was always short is batched; when it is long for once, those behind it do not wait."""
    async with slots(slots=2, batch_us=1_000_000) as pool:
        source = "if (input) for(;;); 1"
        for _ in range(3):
            await pool.run(script(source, limits=PATIENT))
        slow = script(source, input=b"1", limits=LONG)
        answers = [pool.submit(slow), *(pool.submit(script(source, limits=PATIENT)) for _ in range(20))]
        for answer in answers[1:]:
            assert (await answer).output == b"1"
        assert not answers[0].done()
        pool.cancel(slow.task.key)
        assert code_of(await answers[0]) == failures.CANCELLED


async def test_batch_answers_each_as_it_finishes(pool: SlotPool) -> None:
    activations = [script(f"{number} * 2", limits=PATIENT) for number in range(30)]
    outputs = {index: completion.output async for index, completion in pool.run_batch(activations)}
    assert outputs == {number: b"%d" % (number * 2) for number in range(30)}


async def test_one_in_five_hostile_loses_no_good_task(pool: SlotPool) -> None:
    bad = [
        script("for(;;);"),
        script("throw {toJSON(){for(;;);}}"),
        script("const a=[];for(;;)a.push(new Array(1000).fill(1))"),
        script("function f(){f()} f()"),
        module(calling("log", "i32 i32 i32", "(loop (br 0))", {})),
        module(b"\0asm\x01\0\0\0garbage"),
    ]
    answers: list[tuple[bytes | None, asyncio.Future[Completion]]] = []
    for number in range(100):
        if number % 5 == 0:
            answers.append((None, pool.submit(_again(bad[number // 5 % len(bad)]))))
        elif number % 2:
            answers.append((b"%d" % number, pool.submit(script("input", input=b"%d" % number, limits=PATIENT))))
        else:
            answers.append((b"%d" % number, pool.submit(module(ECHO, input=b"%d" % number, limits=PATIENT))))
    for expected, answer in answers:
        completion = await answer
        assert (completion.failure is None) == (expected is not None), completion
        if expected is not None:
            assert completion.output == expected


def _again(activation: Activation) -> Activation:
    return Activation(task=task(), runtime=activation.runtime, code=activation.code, limits=SHORT)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"runtime": "typescript"}, failures.RUNTIME_UNSUPPORTED),
        ({"runtime": "cobol"}, failures.RUNTIME_UNSUPPORTED),
        ({"code": b""}, failures.BAD_CODE),
        ({"code": b"1" * (11 * MIB)}, failures.BAD_CODE),
        ({"input": b"{"}, failures.BAD_INPUT),
        ({"input": b"NaN"}, failures.BAD_INPUT),
        ({"input": b"[" * 100_000 + b"]" * 100_000}, failures.BAD_INPUT),
        ({"input": b'"' + b"x" * (17 * MIB) + b'"'}, failures.BAD_INPUT),
        ({"context": b"[]"}, failures.BAD_INPUT),
        ({"config": b"\xff"}, failures.BAD_INPUT),
    ],
)
async def test_bad_activation_is_a_completion(pool: SlotPool, fields: dict[str, Any], code: str) -> None:
    completion = await pool.run(
        script("1", **{"limits": PATIENT, **fields}) if "code" not in fields else _coded(**fields)
    )
    assert code_of(completion) == code, completion
    assert completion.failure is not None
    assert completion.failure.message


def _coded(code: bytes) -> Activation:
    return script(code, limits=PATIENT)


async def test_children_die_with_the_worker() -> None:
    """A worker that is killed cannot end its children; they must end by themselves."""
    program = (
        "import asyncio, sys\n"
        "from windlass.runtimes.jail_pool import SlotPool\n"
        "from windlass.runtimes.jail_settings import JailSettings\n"
        "async def main():\n"
        "    pool = SlotPool(JailSettings(slots=2, runtimes=('javascript',)))\n"
        "    await pool.start()\n"
        "    print(*[child.pid for child in pool._nursery._alive], flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    assert worker.stdout is not None
    children = [os.pidfd_open(int(pid)) for pid in (await asyncio.to_thread(worker.stdout.readline)).split()]
    assert len(children) == 3
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    for child in children:
        ended, _, _ = await asyncio.to_thread(select.select, [child], [], [], 30)
        assert ended
        os.close(child)


def test_frames_are_capped_and_typed() -> None:
    buffer = FrameBuffer(cap_bytes=100)
    frame = encode_frame(Done(1, Completion()))
    assert [body for part in range(0, len(frame), 3) for body in buffer.feed(frame[part : part + 3])] == [frame[4:]]
    with pytest.raises(BadFrame, match="limit"):
        buffer.feed(b"\xff\xff\xff\x7f")
    for body in (b"", b"\xc1", b"\x93\x01", b"\x80", b"\x92\x63\x01", b"\x93\x01\xa1x\xc0", b"\x91" * 10_000):
        with pytest.raises(BadFrame):
            decode_from_child(body)


async def test_waiting_tasks_are_cancelled_one_by_one_behind_a_running_one() -> None:
    """Each cancel of a task that waits in the child is a Recall of its own; the child answers them all at once."""
    async with slots(batch_us=10_000_000) as pool:
        pool._durations.learn(digest_of(b"spin 0.01"), 10)
        activations = [probe("spin 0.01") for _ in range(12)]
        answers = [pool.submit(activation) for activation in activations]
        for activation in activations[2::2]:
            assert pool.cancel(activation.task.key)
        codes = [code_of(await answer) for answer in answers]
        assert codes == ["OK", "OK", *[failures.CANCELLED, "OK"] * 5]
        assert pool.report().children_crashed == 0
        assert (await pool.run(script("1", limits=PATIENT))).output == b"1"
