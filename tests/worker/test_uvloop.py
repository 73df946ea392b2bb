"""The worker's process runs on uvloop; the other tests run on the standard loop, whose timers know more."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from windlass.worker.composition import composed
from windlass.worker.journal import Journal
from windlass.worker.settings import WorkerSettings


def test_a_worker_that_is_late_arms_its_clock_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a SIGSTOP: what was due is past. uvloop's handle for a past time has no `when`."""

    async def late() -> None:
        settings = WorkerSettings(runtimes=("javascript",), slots=1)
        async with composed(settings, Journal()) as worker:
            past = asyncio.get_running_loop().time() - 1
            monkeypatch.setattr(worker.session, "due_s", lambda: past)
            worker._arm()
            worker._arm()
            monkeypatch.undo()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(late())
