"""Short ways to say what a test does in a transaction of its own."""

from __future__ import annotations

from windlass.storage.port import Rows, Storage, Transaction

EVERYTHING = (b"\0", b"\xff")


async def put(storage: Storage, rows: dict[bytes, bytes]) -> None:
    async def body(tx: Transaction) -> None:
        for key, value in rows.items():
            tx.set(key, value)

    await storage.transact(body)


async def get(storage: Storage, key: bytes) -> bytes | None:
    async def body(tx: Transaction) -> bytes | None:
        return await tx.get(key)

    return await storage.read(body)


async def rows(
    storage: Storage, begin: bytes = b"\0", end: bytes = b"\xff", *, limit: int = 0, reverse: bool = False
) -> Rows:
    async def body(tx: Transaction) -> Rows:
        return await tx.get_range(begin, end, limit=limit, reverse=reverse)

    return await storage.read(body)


def number(value: bytes | None) -> int:
    return int(value or b"0")
