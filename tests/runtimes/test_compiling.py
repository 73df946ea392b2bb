"""Compiling modules beside the slots: who waits for whom, when it ends, and what is remembered of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.runtimes.guests import ECHO, PATIENT, compile_bomb, constant, memory_bomb, module, script, text_data
from tests.runtimes.test_jail import LONG, code_of, slots
from windlass.runtimes import failures
from windlass.runtimes.jail_frames import Checked, FromChild, Prepare, Prepared
from windlass.runtimes.jail_jobs import PoolJob
from windlass.runtimes.jail_pool import SlotPool
from windlass.runtimes.jail_prepare import REFUSED_SECONDS, Preparation
from windlass.runtimes.jail_settings import JailSettings
from windlass.runtimes.port import Activation, Completion, Problem, failed
from windlass.runtimes.prepared_cache import PreparedCache

WASM = ("javascript", "wasm")


def bomb(number: int) -> Activation:
    """Return an activation of a module that takes the compiler long. Each number is another one."""
    return module(compile_bomb(number), limits=LONG)


async def until_busy(pool: SlotPool, count: int) -> None:
    """Wait until so many children are at work."""
    while pool.report().busy != count:  # noqa: ASYNC110 - the pool tells nobody
        await asyncio.sleep(0.001)


async def test_tasks_go_on_while_a_module_takes_long_to_compile() -> None:
    """Every slot is free for them."""
    async with slots(runtimes=WASM) as pool:
        bombs = [pool.submit(bomb(number)) for number in range(2)]
        for number in range(3):
            assert (await pool.run(script(f"{number} + 1", limits=PATIENT))).failure is None
            assert not any(bomb.done() for bomb in bombs)


async def test_module_does_not_wait_until_bombs_are_compiled() -> None:
    async with slots(runtimes=WASM) as pool:
        bombs = [pool.submit(bomb(number)) for number in range(3)]
        assert (await pool.run(module(ECHO, input=b"7", limits=PATIENT))).output == b"7"
        assert not bombs[-1].done()


async def test_module_that_takes_long_is_compiled_all_the_same() -> None:
    async with slots(runtimes=WASM, prepare_first_us=100_000) as pool:
        assert (await pool.run(bomb(1))).output == b"1"
        assert pool.report().children_killed == 2  # after the first time, and after the second, when it was large


async def test_module_that_takes_too_long_to_compile_is_told_so() -> None:
    async with slots(runtimes=WASM, prepare_wall_us=100_000) as pool:
        completion = await pool.run(bomb(3))
    assert completion.failure is not None
    assert completion.failure.code == failures.TIMEOUT
    assert completion.failure.message == "the module could not be compiled within 0.1 s"


async def test_module_that_needs_too_much_memory_to_compile_harms_nobody() -> None:
    async with slots(runtimes=WASM, prepare_bytes_max=256 << 20) as pool:
        assert code_of(await pool.run(module(memory_bomb(), limits=LONG))) == failures.SANDBOX_CRASHED
        assert (await pool.run(module(ECHO, input=b"7", limits=PATIENT))).output == b"7"


async def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    async with slots(runtimes=WASM) as pool:
        first, second = bomb(1), bomb(2)
        answers = [pool.submit(first), pool.submit(second)]
        await until_busy(pool, 1)
        assert pool.report().queued == 1
        assert pool.cancel(second.task.key)
        await answers[1]
        while pool.report().queued:  # noqa: ASYNC110 - the pool tells nobody
            await asyncio.sleep(0.001)
        assert pool.report().busy == 1  # the first one is at work
        assert not pool.report().children_killed


async def test_a_module_that_takes_longer_than_its_task_may_is_there_for_the_next_attempt() -> None:
    async with slots(runtimes=WASM, prepare_first_us=100_000) as pool:
        for _ in range(2):  # the first time is over without a task, so the second attempt begins with the long one
            late = bomb(1)
            answer = pool.submit(late)
            await until_busy(pool, 1)
            assert pool.cancel(late.task.key)
            await answer
            await until_busy(pool, 0)
        done = pool.report().tasks_done
        assert (await pool.run(bomb(1))).output == b"1"
        assert pool.report().tasks_done == done + 1  # nothing was compiled for it
        assert pool.report().children_killed == 2


async def test_a_task_is_given_back_while_others_are_compiled_and_not_while_its_own_is() -> None:
    async with slots(runtimes=WASM) as pool:
        first, second = bomb(1), bomb(2)
        answers = [pool.submit(first), pool.submit(second)]
        await until_busy(pool, 1)
        assert not pool.withdraw(first.task.key)
        assert pool.withdraw(second.task.key)
        assert code_of(await answers[1]) == failures.CANCELLED
        assert not answers[0].done()


async def test_same_module_is_compiled_once_for_many(pool: SlotPool) -> None:
    text = constant("1", data="(data (i32.const 9000) " + text_data("compiled once") + ")")
    before = pool.report().tasks_done
    answers = await asyncio.gather(*(pool.run(module(text, limits=PATIENT)) for _ in range(10)))
    assert all(answer.output == b"1" for answer in answers)
    assert pool.report().tasks_done - before == 11


def test_a_namespace_with_large_modules_does_not_push_out_those_of_others() -> None:
    cache = PreparedCache(memory_bytes_max=1_000)
    cache.put("small/wasm/1/plain/a", b"x" * 100)
    for number in range(50):
        cache.put(f"large/wasm/1/plain/{number}", b"x" * 300)
    assert cache.get("small/wasm/1/plain/a")
    assert cache.get("large/wasm/1/plain/49")
    assert cache.get("large/wasm/1/plain/0") is None


async def test_compiled_code_that_cannot_be_kept_on_disk_runs_all_the_same(tmp_path: Path) -> None:
    """A full disk, or a folder that was cleared away, is no matter of the task's; and whoever waits gets an answer."""
    folder = tmp_path / "prepared"
    async with slots(cache=PreparedCache(folder), runtimes=WASM) as pool:
        folder.rmdir()
        answers = [await pool.run(module(ECHO, input=b"7", limits=PATIENT)) for _ in range(2)]
    assert [answer.output for answer in answers] == [b"7", b"7"]


class Compiler:
    """A preparation whose children answer what a test says, on a clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.lanes: list[str] = []
        self.answers: list[FromChild | Completion] = []
        self.preparation = Preparation(PreparedCache(), JailSettings(), self._job, lambda: self.now_s)

    def _job(self, request: Prepare, lane: str, wall_us: int) -> PoolJob:
        self.lanes.append(lane)
        job = PoolJob(1, request, lane, wall_us)
        job.settle(self.answers.pop(0))
        return job

    async def known_after(self, *answers: FromChild | Completion) -> bytes | Completion | None:
        """What is known of a module once its compiler gave these answers."""
        self.answers = list(answers)
        await self.preparation.make("name", module(ECHO), "realm")
        return self.preparation.known("name")


TOO_SLOW = failed(failures.TIMEOUT, "killed")


async def test_what_says_nothing_about_the_code_is_soon_forgotten() -> None:
    for answers in ((TOO_SLOW, TOO_SLOW), (failed(failures.SANDBOX_CRASHED, "died twice"),)):
        compiler = Compiler()
        assert isinstance(await compiler.known_after(*answers), Completion)
        compiler.now_s += REFUSED_SECONDS
        assert compiler.preparation.known("name") is None
        assert await compiler.known_after(Prepared(1, b"compiled")) == b"compiled"


async def test_what_is_wrong_with_the_code_is_remembered() -> None:
    compiler = Compiler()
    known = await compiler.known_after(Checked(1, (Problem("no such thing"),)))
    compiler.now_s += 1e9
    assert compiler.preparation.known("name") is known is not None


async def test_what_is_remembered_of_a_module_is_short() -> None:
    """A compiler that was taken over may say as much as a frame holds, of one module after the other."""
    known = await Compiler().known_after(Checked(1, (Problem("no"), Problem("x" * 1_000_000))))
    assert isinstance(known, Completion)
    assert known.failure is not None
    assert known.failure.message.startswith("no; xxx")
    assert len(known.failure.message) < 10_000


async def test_what_takes_long_goes_where_it_is_in_nobodys_way() -> None:
    compiler = Compiler()
    assert await compiler.known_after(TOO_SLOW, Prepared(1, b"compiled")) == b"compiled"
    assert compiler.lanes == ["prepare/realm", "long/realm"]
    await compiler.known_after(Prepared(1, b"compiled"))
    assert compiler.lanes[2:] == ["long/realm"]
