"""A pool comes to its end also where the system has no room for more threads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.runtimes.guests import PATIENT, script
from windlass.runtimes.jail_pool import SlotPool
from windlass.runtimes.jail_settings import JailSettings


async def no_more_threads(*_: Any) -> Any:
    raise RuntimeError("can't start new thread")


async def test_a_child_ends_though_no_thread_can_be_started_that_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = SlotPool(JailSettings(slots=1, spares=1, runtimes=("javascript",)))
    await pool.start()
    assert (await pool.run(script("1", limits=PATIENT))).output == b"1"
    monkeypatch.setattr(asyncio, "to_thread", no_more_threads)
    async with asyncio.timeout(20):
        await pool.close()
