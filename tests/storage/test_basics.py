"""Reading and writing, one transaction at a time."""

from __future__ import annotations

import pytest

from tests.storage.bodies import get, put, rows
from windlass.storage.port import Rows, Storage, StorageError, Transaction

ABC = {b"a": b"1", b"b": b"2", b"c": b"3", b"d": b"4"}


async def test_value_is_there_after_transact(storage: Storage) -> None:
    await put(storage, {b"k": b"v", b"empty": b""})
    assert await get(storage, b"k") == b"v"
    assert await get(storage, b"empty") == b""
    assert await get(storage, b"missing") is None


async def test_transact_gives_the_body_s_result(storage: Storage) -> None:
    await put(storage, {b"k": b"v"})

    async def body(tx: Transaction) -> bytes | None:
        return await tx.get(b"k")

    assert await storage.transact(body) == b"v"
    assert await storage.read(body) == b"v"


async def test_body_may_be_a_lone_read(storage: Storage) -> None:
    await put(storage, {b"k": b"v"})
    assert await storage.read(lambda tx: tx.get(b"k")) == b"v"


async def test_reads_are_started_together_and_awaited_later(storage: Storage) -> None:
    await put(storage, ABC)

    async def body(tx: Transaction) -> tuple[bytes | None, Rows, bytes | None]:
        first, some, last = tx.get(b"a"), tx.get_range(b"b", b"d"), tx.get(b"d")
        return await first, await some, await last

    assert await storage.transact(body) == (b"1", [(b"b", b"2"), (b"c", b"3")], b"4")


async def test_ranges(storage: Storage) -> None:
    await put(storage, ABC)
    assert await rows(storage, b"b", b"d") == [(b"b", b"2"), (b"c", b"3")]
    assert await rows(storage, b"b", b"d\0") == [(b"b", b"2"), (b"c", b"3"), (b"d", b"4")]
    assert await rows(storage, b"", b"\xff") == sorted(ABC.items())
    assert await rows(storage, limit=2) == [(b"a", b"1"), (b"b", b"2")]
    assert await rows(storage, limit=9) == sorted(ABC.items())
    assert await rows(storage, reverse=True) == sorted(ABC.items(), reverse=True)
    assert await rows(storage, limit=2, reverse=True) == [(b"d", b"4"), (b"c", b"3")]
    assert await rows(storage, b"b", b"d", limit=1, reverse=True) == [(b"c", b"3")]
    assert await rows(storage, b"bb", b"bc") == []
    assert await rows(storage, b"d", b"b") == []
    assert await rows(storage, b"e", b"\xff", reverse=True) == []


async def test_large_range_comes_whole(storage: Storage) -> None:
    many = {b"m%05d" % number: b"x" * 100 for number in range(3000)}
    await put(storage, many)
    assert await rows(storage, b"m", b"n") == sorted(many.items())
    assert await rows(storage, b"m", b"n", limit=2500) == sorted(many.items())[:2500]
    assert await rows(storage, b"m", b"n", limit=2500, reverse=True) == sorted(many.items(), reverse=True)[:2500]


async def test_clear(storage: Storage) -> None:
    await put(storage, ABC)

    async def body(tx: Transaction) -> None:
        tx.clear(b"a")
        tx.clear(b"missing")
        tx.clear_range(b"c", b"d")
        tx.clear_range(b"d", b"b")

    await storage.transact(body)
    assert await rows(storage) == [(b"b", b"2"), (b"d", b"4")]


async def test_counters(storage: Storage) -> None:
    async def body(tx: Transaction) -> None:
        tx.add(b"up", 5)
        tx.add(b"down", -3)
        tx.add(b"up", 2)

    await storage.transact(body)
    await storage.transact(body)
    assert await get(storage, b"up") == (14).to_bytes(8, "little")
    assert await get(storage, b"down") == (-6).to_bytes(8, "little", signed=True)


async def test_body_that_raises_commits_nothing(storage: Storage) -> None:
    async def body(tx: Transaction) -> None:
        tx.set(b"k", b"v")
        raise LookupError("no such run")

    with pytest.raises(LookupError, match="no such run"):
        await storage.transact(body)
    assert await get(storage, b"k") is None


async def test_read_refuses_to_write(storage: Storage) -> None:
    async def body(tx: Transaction) -> None:
        tx.set(b"k", b"v")

    with pytest.raises(StorageError):
        await storage.read(body)
    assert await get(storage, b"k") is None


async def test_transaction_is_useless_after_its_body(storage: Storage) -> None:
    async def body(tx: Transaction) -> Transaction:
        tx.set(b"k", b"v")
        return tx

    tx = await storage.transact(body)
    with pytest.raises(StorageError):
        tx.set(b"late", b"")
    with pytest.raises(StorageError):
        await tx.get(b"k")


async def test_commit_versions_rise(storage: Storage) -> None:
    async def body(tx: Transaction) -> Transaction:
        tx.set(b"k", b"v")
        return tx

    async def look(tx: Transaction) -> Transaction:
        await tx.get(b"k")
        return tx

    first, second = await storage.transact(body), await storage.transact(body)
    assert 0 < first.commit_version < second.commit_version
    assert (await storage.transact(look)).commit_version == 0


async def test_settle_tells_what_the_key_holds(storage: Storage) -> None:
    await put(storage, {b"k": b"v"})
    assert await storage.settle(b"k") == b"v"
    assert await storage.settle(b"missing") is None


async def test_close_twice_and_use_after(storage: Storage) -> None:
    await put(storage, {b"k": b"v"})
    await storage.close()
    await storage.close()
    with pytest.raises(StorageError):
        await put(storage, {b"k": b"w"})
