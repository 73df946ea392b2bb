"""Against a real FoundationDB cluster, where one is named."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from tests.storage.backends_foundationdb import CLUSTER_FILE
from tests.storage.bodies import get, put, rows
from windlass.storage.foundationdb_open import open_foundationdb
from windlass.storage.port import Transaction, Unavailable, Watch


@pytest.mark.skipif(
    not CLUSTER_FILE,
    reason="no FoundationDB cluster: set WINDLASS_TEST_FDB_CLUSTER_FILE to the cluster file of a 7.3 cluster, "
    "and the conformance suite runs on it too",
)
async def test_real_cluster(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the stand-in cannot show: the library loads, answers, conflicts, rings, and says that nobody answers."""
    prefix = b"windlass-test/%s/" % uuid.uuid4().hex.encode()
    storage = await open_foundationdb(CLUSTER_FILE, prefix=prefix)
    other = await open_foundationdb(CLUSTER_FILE, prefix=prefix)
    watch = await storage.transact(_watching)

    async def increment(tx: Transaction) -> None:
        tx.set(b"n", b"%d" % (int(await tx.get(b"n") or 0) + 1))

    await asyncio.gather(*(store.transact(increment) for store in (storage, other) for _ in range(20)))
    assert await get(storage, b"n") == b"40"
    await put(other, {b"bell": b"rung"})
    await asyncio.wait_for(watch.wait(), 5)
    assert await storage.settle(b"missing") is None
    assert [key for key, _ in await rows(other)] == [b"bell", b"n"]
    await storage.transact(_remove_everything)
    for store in (storage, other):
        await store.close()
        assert store.pending == 0

    nowhere = tmp_path_factory.mktemp("nowhere") / "fdb.cluster"
    nowhere.write_text("nobody:nobody@127.0.0.1:1")
    with pytest.raises(Unavailable, match="no answer from the FoundationDB cluster"):
        await open_foundationdb(nowhere, start_seconds=0.5)


async def _watching(tx: Transaction) -> Watch:
    return tx.watch(b"bell")


async def _remove_everything(tx: Transaction) -> None:
    tx.clear_range(b"\0", b"\xff")
