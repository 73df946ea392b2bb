"""Timers are due by the wall clock, and the loop sleeps by another one."""

from __future__ import annotations

from tests.engine.documents import delayed
from tests.engine.served import serving
from windlass.engine.clock import SLEW, Clock
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


class SetClock(Clock):
    """A wall clock that may be set, and one that may not."""

    wall_us, ticks_us = 1_700_000_000_000_000, 5_000

    def read_us(self) -> int:
        return self.wall_us

    def read_ticks_us(self) -> int:
        return self.ticks_us

    def pass_us(self, time_us: int) -> int:
        self.wall_us, self.ticks_us = self.wall_us + time_us, self.ticks_us + time_us
        return self.now_us()


HOUR_US = 3_600_000_000


def test_time_goes_on_at_half_the_pace_when_the_wall_clock_was_set_back_until_it_has_caught_up() -> None:
    clock = SetClock()
    begin = clock.now_us()
    assert clock.pass_us(1000) == begin + 1000
    clock.wall_us -= HOUR_US
    assert clock.now_us() == begin + 1000, "never back"
    assert clock.pass_us(1000) == begin + 1000 + 1000 // SLEW, "and never still"
    assert clock.pass_us(3 * HOUR_US) == clock.wall_us, "the wall clock has caught up"


def test_time_follows_the_wall_clock_at_once_when_it_is_set_forward() -> None:
    clock = SetClock()
    begin = clock.now_us()
    clock.wall_us += HOUR_US
    assert clock.now_us() == begin + HOUR_US
