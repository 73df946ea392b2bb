"""A process that commits as fast as it can and says so, until it is killed. Run by `test_crashes`.

Each transaction writes six rows that belong together, counts itself, and appends to a log; its id is printed after it
was acknowledged. One `write` per line, so that a line that came out whole was meant.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys

from windlass.storage.opening import open_embedded
from windlass.storage.port import Storage, Transaction

ROWS = 6
CALLERS = 32


async def load(storage: Storage, first: int) -> None:
    ids = itertools.count(first)

    async def caller() -> None:
        while True:
            await one(storage, next(ids))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def one(storage: Storage, who: int) -> None:
    async def body(tx: Transaction) -> None:
        for place in range(ROWS):
            tx.set(b"row/%08d/%d" % (who, place), b"%d" % who + bytes(200))
        tx.set(b"count", b"%d" % (int(await tx.get(b"count") or b"0") + 1))
        tx.set_versionstamped_key(b"log/", b"", b"%d" % who)

    await storage.transact(body)
    os.write(sys.stdout.fileno(), b"%d\n" % who)


async def main(directory: str, first: int) -> None:
    await load(open_embedded(directory), first)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
