"""Writers that do what the engine does, for tests that lose answers: an id made outside the body, a record that proves
the effect and is looked for first, and a counter that would tell if anything happened twice.
"""

from __future__ import annotations

import asyncio

from tests.storage.bodies import get, rows
from windlass.storage.own_writes import counter_value
from windlass.storage.port import CommitUnknown, Storage, Transaction, Unavailable

COUNTER = b"counter"


async def do_once(storage: Storage, record: bytes) -> None:
    """Write a record and count it, in one transaction."""

    async def body(tx: Transaction) -> None:
        if await tx.get(record) is None:
            tx.set(record, b"done")
            tx.add(COUNTER, 1)

    await storage.transact(body)


async def write_records(storage: Storage, *, writers: int, rounds: int, settle: bool = True) -> set[bytes]:
    """What was acknowledged, or found done afterwards."""
    done: set[bytes] = set()

    async def writer(name: int) -> None:
        for number in range(rounds):
            record = b"record/%d/%d" % (name, number)
            if await _did(storage, record, settle):
                done.add(record)

    await asyncio.gather(*(writer(name) for name in range(writers)))
    return done


async def _did(storage: Storage, record: bytes, settle: bool) -> bool:
    try:
        await do_once(storage, record)
    except CommitUnknown:
        return await (storage.settle(record) if settle else get(storage, record)) is not None
    except Unavailable:
        return False
    return True


async def found(storage: Storage) -> tuple[set[bytes], int]:
    """The records and what the counter says."""
    records = {key for key, _ in await rows(storage, b"record/", b"record0")}
    return records, counter_value(await get(storage, COUNTER))
