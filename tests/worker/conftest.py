"""Engines and workers for the tests of this folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.worker.fake_engine import FakeEngine
from windlass.worker.composition import composed
from windlass.worker.driver import Worker
from windlass.worker.journal import Journal
from windlass.worker.settings import WorkerSettings

StartWorker = Callable[..., Awaitable[tuple[Worker, asyncio.Task[None]]]]


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    """An engine with a lease long enough not to matter."""
    async with FakeEngine() as running:
        yield running


@pytest.fixture
async def start_worker() -> AsyncIterator[StartWorker]:
    """Starts workers in this process: `worker, running = await start_worker(engine.address, slots=1)`."""
    async with AsyncExitStack() as stack:

        async def start(*engines: str, **settings: Any) -> tuple[Worker, asyncio.Task[None]]:
            chosen = {"runtimes": ("javascript",), "slots": 1, "drain_s": 5.0, **settings}
            worker = await stack.enter_async_context(composed(WorkerSettings(engines=engines, **chosen), Journal()))
            running = asyncio.create_task(worker.run())
            stack.push_async_callback(_end, running)
            return worker, running

        yield start


async def _end(running: asyncio.Task[None]) -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
