"""Work put off by two transactions of the same microsecond: both parts are kept."""

from __future__ import annotations

from tests.engine.cluster import running_engine
from windlass.engine import keys
from windlass.engine.core.commands import Cancel
from windlass.engine.unit import Unit


async def test_two_units_of_one_microsecond_put_off_work_for_one_run() -> None:
    async with running_engine() as engine:
        await engine.timers.stop()
        now = engine.clock.now_us() + 1_000_000

        async def put_off(unit: Unit) -> None:
            unit.now_us = now
            unit.put_off("default", "r", Cancel(source="user"))

        for _ in range(2):
            await engine.transition.run(put_off)
        begin = keys.timers(0)
        rows = await engine.storage.read(lambda tr: tr.get_range(begin, keys.end(begin)))
        assert len([key for key, _ in rows if keys.unpack(key)[4] == "r"]) == 2
