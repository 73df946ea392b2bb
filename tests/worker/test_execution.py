"""How many tasks a worker takes at once, and who has a say in that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from windlass.runtimes import port
from windlass.runtimes.python import PythonHandlers
from windlass.runtimes.python_context import TaskContext
from windlass.runtimes.python_handlers import HandlerRegistry, handler
from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.execution import Execution
from windlass.worker.journal import Journal
from windlass.worker.modules import ModuleCache


class Liar:
    """Slots whose child was taken over: it is done at once, and says what it likes of that."""

    def __init__(self, *completions: port.Completion) -> None:
        self.completions = iter(completions)

    def submit(
        self, activation: port.Activation, on_note: Callable[[port.TrustedNote], None] | None = None
    ) -> asyncio.Future[port.Completion]:
        answer: asyncio.Future[port.Completion] = asyncio.get_running_loop().create_future()
        answer.set_result(next(self.completions))
        return answer

    def cancel(self, key: port.TaskKey, reason: str = "") -> bool:
        return False


@pytest.mark.parametrize("wall_us", [10**15, -(10**15)])
async def test_what_a_child_says_of_its_time_is_held_to_what_went_by(wall_us: int) -> None:
    """Else one task could decide for a long while how many tasks of others are taken."""
    journal = Journal()
    liar = Liar(port.Completion(usage=port.Usage(wall_us=wall_us)))
    execution = Execution(liar, None, ModuleCache(None, journal), journal, slots=1)
    answered = asyncio.Event()
    execution.attach(lambda _: answered.set(), print, nothing, nothing)
    execution.start(wire.Task(task_token=b"a", runtime="javascript"), asyncio.get_running_loop().time())
    await answered.wait()
    assert execution.capacity > 1
    assert 0 <= execution.tally.busy_s < 60
    await execution.close()


async def test_codes_that_authors_invent_do_not_pile_up_in_the_worker() -> None:
    codes = ["KNOWN", *(f"C{n}" for n in range(1_000)), "x" * 5_000, "KNOWN"]
    journal = Journal()
    liar = Liar(*(port.failed(code, "") for code in codes))
    execution = Execution(liar, None, ModuleCache(None, journal), journal, slots=1)
    answers: asyncio.Queue[object] = asyncio.Queue()
    execution.attach(answers.put_nowait, print, nothing, nothing)
    for number in range(len(codes)):
        execution.start(wire.Task(task_token=b"%d" % number, runtime="javascript"), asyncio.get_running_loop().time())
    for _ in codes:
        await answers.get()
    failed = execution.tally.failed
    assert (len(failed), failed["KNOWN"], sum(failed.values())) == (101, 2, len(codes))
    await execution.close()


@handler("files.read")
async def read_file(ctx: TaskContext) -> str:
    """The system gives the name of a file that is no UTF-8 with half of a surrogate pair in it."""
    ctx.progress(0.5, "reading caf\udce9")
    return "read"


async def test_a_report_that_is_no_text_does_not_cost_the_task_its_answer() -> None:
    journal = Journal()
    handlers = PythonHandlers(HandlerRegistry([read_file]))
    execution = Execution(None, handlers, ModuleCache(None, journal), journal, slots=1)
    answers: asyncio.Queue[Any] = asyncio.Queue()
    notes: list[wire.TaskHeartbeat] = []
    execution.attach(answers.put_nowait, notes.append, nothing, nothing)
    task = wire.Task(task_token=b"a", runtime="python", handler="files.read")
    execution.start(task, asyncio.get_running_loop().time())
    async with asyncio.timeout(20):
        assert (await answers.get()).output == b'"read"'
    assert b"reading caf" in notes[0].progress
    await execution.close()
    await handlers.close()


async def test_a_task_whose_code_cannot_be_had_for_an_unforeseen_reason_is_given_back() -> None:
    async def failing(namespace: str, digest: str) -> bytes:
        raise MemoryError

    journal = Journal()
    execution = Execution(Liar(), None, ModuleCache(None, journal), journal, slots=1)
    answers: asyncio.Queue[Any] = asyncio.Queue()
    execution.attach(answers.put_nowait, print, failing, nothing)
    task = wire.Task(task_token=b"a", runtime="javascript", module_digest="0" * 64)
    execution.start(task, asyncio.get_running_loop().time())
    async with asyncio.timeout(5):
        assert (await answers.get()).reason == wire.RELEASE_REASON_UNABLE
    await execution.close()


async def nothing(namespace: str, digest: str) -> Any:
    raise AssertionError((namespace, digest))
