"""What a second engine's process does in the tests: opens the store, counts, and rings."""

from __future__ import annotations

import asyncio
import sys

from tests.storage.bodies import put
from windlass.storage.port import Transaction
from windlass.storage.postgres import open_postgres


async def count(url: str, times: int) -> None:
    """Add to two counters in each transaction, one read and written, one added to; `times` transactions in all."""
    storage = await open_postgres(url)

    async def body(tx: Transaction) -> None:
        tx.set(b"read", b"%d" % (int(await tx.get(b"read") or 0) + 1))
        tx.add(b"added", 1)

    async def counter(share: int) -> None:
        for _ in range(share):
            await storage.transact(body)

    await asyncio.gather(*(counter(times // 5) for _ in range(5)))
    await put(storage, {b"bell": b"rung"})
    await storage.close()


if __name__ == "__main__":
    asyncio.run(count(sys.argv[1], int(sys.argv[2])))
