"""FoundationDB for the conformance suite: over the stand-in, and over a real cluster if one is named."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.storage.backends import Backend
from tests.storage.fdb_fake import FakeLibrary
from tests.storage.fdb_fake_cluster import Cluster, Faults
from windlass.storage.foundationdb import FoundationDBStorage
from windlass.storage.foundationdb_open import open_foundationdb
from windlass.storage.port import Storage, Transaction

CLUSTER_FILE = os.environ.get("WINDLASS_TEST_FDB_CLUSTER_FILE", "")
SEED = int(os.environ.get("WINDLASS_TEST_SEED", "0") or 0) or int.from_bytes(os.urandom(4), "big")
_numbers = itertools.count()


@asynccontextmanager
async def over_fake(
    faults: Faults | None = None, *, deadline_seconds: float = 10.0
) -> AsyncIterator[tuple[FoundationDBStorage, Cluster]]:
    """A store over a stand-in of its own, with its seed printed. At the end nothing of it may be left over."""
    seed = SEED + next(_numbers)
    print(f"FoundationDB stand-in: WINDLASS_TEST_SEED={seed}")  # pytest shows it when the test fails
    cluster = Cluster(seed)
    native = FakeLibrary(cluster)
    storage = await open_foundationdb("fdb.cluster", native=native, deadline_seconds=deadline_seconds)
    cluster.faults = faults or Faults()
    try:
        yield storage, cluster
    finally:
        await storage.close()
        cluster.close()
    assert native.left_over == 0, "futures or transactions were not destroyed"


@asynccontextmanager
async def stand_in(_: Path) -> AsyncIterator[Storage]:
    async with over_fake() as (storage, _cluster):
        yield storage


@asynccontextmanager
async def aging(_: Path) -> AsyncIterator[tuple[Storage, Callable[[float], None]]]:
    async with over_fake(deadline_seconds=60) as (storage, cluster):
        storage.use_clock(cluster.network.now)
        yield storage, cluster.network.advance


@asynccontextmanager
async def real(_: Path) -> AsyncIterator[Storage]:
    storage = await open_foundationdb(CLUSTER_FILE, prefix=b"windlass-test/%s/" % uuid.uuid4().hex.encode())

    async def remove(tx: Transaction) -> None:
        tx.clear_range(b"\0", b"\xff")

    try:
        yield storage
    finally:
        await storage.transact(remove)
        await storage.close()


#: Without a cluster file the real thing is left out here, and one test says so: see test_foundationdb_cluster.
BACKENDS = [
    Backend("foundationdb-stand-in", stand_in, aging=aging),
    *([Backend("foundationdb", real)] if CLUSTER_FILE else []),
]
