"""The local backends for the conformance suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.storage.backends import Backend
from windlass.storage.memory import MemoryWorld
from windlass.storage.opening import open_embedded
from windlass.storage.port import Storage


@asynccontextmanager
async def memory(_: Path) -> AsyncIterator[Storage]:
    storage = MemoryWorld().open()
    try:
        yield storage
    finally:
        await storage.close()


@asynccontextmanager
async def embedded(directory: Path) -> AsyncIterator[Storage]:
    storage = open_embedded(directory / "store")
    try:
        yield storage
    finally:
        await storage.close()


@asynccontextmanager
async def strict(directory: Path) -> AsyncIterator[Storage]:
    storage = open_embedded(directory / "store", strict=True)
    try:
        yield storage
    finally:
        await storage.close()


BACKENDS = [
    Backend("memory", memory),
    Backend("embedded", embedded, interleaves=False),
    Backend("embedded-strict", strict),
]
