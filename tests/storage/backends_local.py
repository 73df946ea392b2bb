"""The local backends for the conformance suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.storage.backends import Backend
from windlass.storage.embedded import EmbeddedStorage
from windlass.storage.embedded_files import MAP_BYTES
from windlass.storage.embedded_groups import Groups
from windlass.storage.embedded_strict import StrictEmbeddedStorage
from windlass.storage.memory import MemoryWorld
from windlass.storage.opening import open_embedded
from windlass.storage.optimistic import OptimisticStorage
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


@asynccontextmanager
async def aging_memory(_: Path) -> AsyncIterator[tuple[Storage, Callable[[float], None]]]:
    async with _with_clock(MemoryWorld().open()) as made:
        yield made


@asynccontextmanager
async def aging_embedded(directory: Path) -> AsyncIterator[tuple[Storage, Callable[[float], None]]]:
    clock = Clock()
    storage = EmbeddedStorage(Groups(directory / "store", MAP_BYTES), clock.now)
    try:
        yield storage, clock.forward
    finally:
        await storage.close()


@asynccontextmanager
async def aging_strict(directory: Path) -> AsyncIterator[tuple[Storage, Callable[[float], None]]]:
    async with _with_clock(StrictEmbeddedStorage(Groups(directory / "store", MAP_BYTES))) as made:
        yield made


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def now(self) -> float:
        return self._seconds

    def forward(self, seconds: float) -> None:
        self._seconds += seconds


@asynccontextmanager
async def _with_clock(storage: OptimisticStorage) -> AsyncIterator[tuple[Storage, Callable[[float], None]]]:
    clock = Clock()
    storage.now = clock.now  # type: ignore[method-assign]
    try:
        yield storage, clock.forward
    finally:
        await storage.close()


BACKENDS = [
    Backend("memory", memory, aging=aging_memory),
    Backend("embedded", embedded, interleaves=False, aging=aging_embedded),
    Backend("embedded-strict", strict, aging=aging_strict),
]
