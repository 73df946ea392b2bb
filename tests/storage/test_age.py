"""A transaction that reads and goes on for more than five seconds is refused by all backends, by the same name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.storage.backends import Backend
from tests.storage.bodies import get, put
from windlass.storage.port import TRANSACTION_SECONDS_MAX, Storage, Transaction, TransactionTooOld

#: A store, and what puts its clock forward.
Aging = tuple[Storage, Callable[[float], None]]
YOUNG, OLD = TRANSACTION_SECONDS_MAX - 1, TRANSACTION_SECONDS_MAX + 1


@pytest_asyncio.fixture
async def aging(backend: Backend, tmp_path: Path) -> AsyncIterator[Aging]:
    if reason := backend.skip():
        pytest.skip(reason)
    assert backend.aging is not None  # see pytest_generate_tests
    async with backend.aging(tmp_path) as opened:
        await put(opened[0], {b"k": b"v"})
        yield opened


async def test_young_transactions_pass(aging: Aging) -> None:
    storage, forward = aging

    async def body(tx: Transaction) -> bytes | None:
        await tx.get(b"k")
        forward(YOUNG)
        return await tx.get(b"k")

    assert await storage.read(body) == b"v"
    assert await storage.transact(body) == b"v"


@pytest.mark.parametrize("way", ["read", "transact"])
async def test_read_at_an_old_snapshot(aging: Aging, way: str) -> None:
    storage, forward = aging
    attempts = 0

    async def body(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        await tx.get(b"k")
        forward(OLD)
        await tx.get(b"k")

    with pytest.raises(TransactionTooOld):
        await getattr(storage, way)(body)
    assert attempts <= 3  # what was too slow every time will be so again


async def test_commit_of_an_old_snapshot_changes_nothing(aging: Aging) -> None:
    storage, forward = aging

    async def body(tx: Transaction) -> None:
        await tx.get(b"k")
        tx.set(b"k", b"late")
        forward(OLD)

    with pytest.raises(TransactionTooOld):
        await storage.transact(body)
    assert await get(storage, b"k") == b"v"
