"""Versionstamped keys: unique, and in the order of commits."""

from __future__ import annotations

import asyncio

from tests.storage.backends import Backend
from tests.storage.bodies import rows
from windlass.storage.port import Storage, Transaction


async def append(storage: Storage, value: bytes) -> None:
    async def body(tx: Transaction) -> None:
        tx.set_versionstamped_key(b"q/", b"", value)

    await storage.transact(body)


async def test_stamp_is_ten_bytes_between_prefix_and_suffix(storage: Storage) -> None:
    async def body(tx: Transaction) -> None:
        tx.set_versionstamped_key(b"q/", b"/one", b"1")
        tx.set_versionstamped_key(b"q/", b"/two", b"2")
        tx.set_versionstamped_key(b"index/", b"", b"3")

    await storage.transact(body)
    first, second = await rows(storage, b"q/", b"q0")
    (third,) = await rows(storage, b"index/", b"index0")
    stamp = first[0][2:12]
    assert first == (b"q/" + stamp + b"/one", b"1")
    assert second == (b"q/" + stamp + b"/two", b"2")
    assert third == (b"index/" + stamp, b"3")


async def test_sequential_appends_keep_their_order(storage: Storage) -> None:
    values = [b"%d" % place for place in range(20)]
    for value in values:
        await append(storage, value)
    assert [value for _, value in await rows(storage, b"q/", b"q0")] == values


async def test_concurrent_appends_are_all_there(backend: Backend, storage: Storage) -> None:
    values = [b"%03d" % place for place in range(2 * backend.crowd)]
    await asyncio.gather(*(append(storage, value) for value in values))
    found = await rows(storage, b"q/", b"q0")
    assert sorted(value for _, value in found) == values


async def test_an_acknowledged_append_stays_before_a_later_one(backend: Backend, storage: Storage) -> None:
    """Each of several writers waits for its append before its next: all their orders are kept."""

    async def writer(name: int) -> None:
        for place in range(8):
            await append(storage, b"%d/%d" % (name, place))

    await asyncio.gather(*(writer(name) for name in range(backend.crowd // 5)))
    found = [value for _, value in await rows(storage, b"q/", b"q0")]
    for name in range(backend.crowd // 5):
        assert [value for value in found if value.startswith(b"%d/" % name)] == [b"%d/%d" % (name, p) for p in range(8)]


async def test_order_is_that_of_the_values_read(backend: Backend, storage: Storage) -> None:
    """Commit order seen through data: each transaction appends the count it read and raises it."""

    async def body(tx: Transaction) -> None:
        seen = int(await tx.get(b"n") or b"0")
        tx.set(b"n", b"%d" % (seen + 1))
        tx.set_versionstamped_key(b"q/", b"", b"%d" % seen)

    await asyncio.gather(*(storage.transact(body) for _ in range(backend.crowd)))
    found = [int(value) for _, value in await rows(storage, b"q/", b"q0")]
    assert found == list(range(backend.crowd))
