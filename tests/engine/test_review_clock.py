"""Timers are due by the wall clock, and the loop sleeps by another one."""

from __future__ import annotations

from tests.engine.documents import delayed
from tests.engine.served import serving
from windlass.storage.memory import MemoryWorld


async def test_a_machine_that_slept_does_not_make_its_timers_wait_as_long_again() -> None:
    async with serving(MemoryWorld().open(shared=False)) as served:
        await served.engine.timers.stop()
        assert await served.engine.timers.turn() is None, "without a timer there is nothing to look for"
        await served.register(delayed("8h"))
        await served.start("delay")
        asleep_s = await served.engine.timers.turn()
        assert asleep_s is not None
        assert 0 < asleep_s <= 60
