"""The threads of synchronous handlers, which nobody can end from outside."""

from __future__ import annotations

import threading

import pytest

from tests.runtimes.guests import task
from windlass.runtimes import failures
from windlass.runtimes.port import Activation, Completion, Limits
from windlass.runtimes.python import PythonHandlers
from windlass.runtimes.python_handlers import HandlerRegistry, handler


def code_of(done: Completion) -> str:
    return done.failure.code if done.failure else "OK"


async def test_handlers_that_hang_leave_threads_to_those_that_come_after_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windlass.runtimes.python.LEFT_MAX", 2)
    freed = threading.Event()

    @handler("orders.hangs")
    def hangs() -> None:
        freed.wait()

    @handler("orders.quick")
    def quick() -> int:
        return 7

    python = PythonHandlers(HandlerRegistry([hangs, quick]), threads=1)
    hanging = Activation(task=task(), runtime="python", entry="orders.hangs", limits=Limits(wall_us=50_000))
    for _ in range(2):
        assert code_of(await python.run(hanging)) == failures.TIMEOUT
        assert (await python.run(Activation(task=task(), runtime="python", entry="orders.quick"))).output == b"7"
    assert code_of(await python.run(hanging)) == failures.TIMEOUT
    quickly = Activation(task=task(), runtime="python", entry="orders.quick", limits=Limits(wall_us=50_000))
    assert code_of(await python.run(quickly)) == failures.TIMEOUT, "they do not take all the threads that there are"
    freed.set()
    assert (await python.run(Activation(task=task(), runtime="python", entry="orders.quick"))).output == b"7"
    await python.close()
