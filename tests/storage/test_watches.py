"""Watches never miss a change, when they are used as the port says: arm, look again, wait."""

from __future__ import annotations

import asyncio

import pytest

from tests.storage.backends import Backend
from tests.storage.bodies import get, number, put
from windlass.storage.port import Storage, StorageError, Transaction, Unavailable, Watch

#: Far longer than any watch takes; only a watch that is broken waits so long.
SECONDS = 20


async def arm(storage: Storage, key: bytes) -> Watch:
    async def body(tx: Transaction) -> Watch:
        return tx.watch(key)

    return await storage.transact(body)


async def fired(watch: Watch) -> None:
    async with asyncio.timeout(SECONDS):
        await watch.wait()


@pytest.mark.parametrize("change", ["set", "clear", "clear_range", "add", "appear"])
async def test_fires_on(change: str, storage: Storage) -> None:
    if change != "appear":
        await put(storage, {b"k": b"v"})
    watch = await arm(storage, b"k")

    async def body(tx: Transaction) -> None:
        if change == "clear":
            tx.clear(b"k")
        elif change == "clear_range":
            tx.clear_range(b"a", b"z")
        elif change == "add":
            tx.add(b"k", 1)
        else:
            tx.set(b"k", b"w")

    await storage.transact(body)
    await fired(watch)


async def test_change_is_there_when_it_fires(storage: Storage) -> None:
    watch = await arm(storage, b"k")
    waiting = asyncio.create_task(fired(watch))
    await put(storage, {b"k": b"v"})
    await waiting
    assert await get(storage, b"k") == b"v"


async def test_does_not_fire_for_the_commit_that_arms_it_nor_for_others(storage: Storage) -> None:
    async def body(tx: Transaction) -> Watch:
        tx.set(b"k", b"v")
        return tx.watch(b"k")

    watch = await storage.transact(body)
    waiting = asyncio.ensure_future(watch.wait())
    await put(storage, {b"j": b"v", b"l": b"v"})
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    await put(storage, {b"k": b"w"})
    async with asyncio.timeout(SECONDS):
        await waiting


async def test_several_on_one_key_and_several_waiters(storage: Storage) -> None:
    watches = [await arm(storage, b"k") for _ in range(3)]
    waiting = [asyncio.create_task(fired(watch)) for watch in [*watches, *watches]]
    await put(storage, {b"k": b"v"})
    await asyncio.gather(*waiting)


async def test_never_misses_a_change(backend: Backend, storage: Storage) -> None:
    """No poll behind it: a watcher that misses the last change waits for ever."""
    last = 2 * backend.crowd

    async def watcher() -> int:
        looks = 0
        while True:
            watch = await arm(storage, b"n")
            looks += 1
            if number(await get(storage, b"n")) == last:
                watch.cancel()
                return looks
            await watch.wait()

    async def writer() -> None:
        for value in range(1, last + 1):
            await put(storage, {b"n": b"%d" % value})

    async with asyncio.timeout(3 * SECONDS):
        await asyncio.gather(writer(), *(watcher() for _ in range(5)))


async def test_cancelled_waiter_leaves_it_armed(storage: Storage) -> None:
    watch = await arm(storage, b"k")
    waiting = asyncio.create_task(watch.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await put(storage, {b"k": b"v"})
    await fired(watch)


async def test_cancel_is_harmless_at_any_time(storage: Storage) -> None:
    watch = await arm(storage, b"k")
    watch.cancel()
    watch.cancel()
    with pytest.raises(Unavailable):
        await fired(watch)
    other = await arm(storage, b"k")
    await put(storage, {b"k": b"v"})
    await fired(other)
    other.cancel()
    await fired(other)


async def test_is_lost_when_the_store_closes(storage: Storage) -> None:
    watch = await arm(storage, b"k")
    waiting = asyncio.create_task(fired(watch))
    await asyncio.sleep(0)
    await storage.close()
    with pytest.raises(Unavailable):
        await waiting


async def test_of_a_failed_transaction_is_lost(storage: Storage) -> None:
    kept: list[Watch] = []

    async def body(tx: Transaction) -> None:
        kept.append(tx.watch(b"k"))
        raise LookupError

    with pytest.raises(LookupError):
        await storage.transact(body)
    with pytest.raises(StorageError):
        await fired(kept[0])


async def test_of_an_attempt_that_is_retried_is_lost(interleaving: Storage) -> None:
    kept: list[Watch] = []

    async def body(tx: Transaction) -> None:
        kept.append(tx.watch(b"watched"))
        await tx.get(b"k")
        if len(kept) == 1:
            await put(interleaving, {b"k": b"v"})
        tx.set(b"mine", b"")

    await interleaving.transact(body)
    with pytest.raises(StorageError):
        await fired(kept[0])
    await put(interleaving, {b"watched": b"v"})
    await fired(kept[1])


async def test_fires_for_a_commit_that_came_together_with_its_own_and_after_it(
    backend: Backend, storage: Storage
) -> None:
    """Commits that share one call to the disk or the server are in an order all the same."""
    ran: list[Transaction] = []

    async def arming(tx: Transaction) -> Watch:
        ran.append(tx)
        tx.set(b"mine", b"")
        return tx.watch(b"k")

    async def setting(tx: Transaction) -> None:
        ran.append(tx)
        tx.set(b"k", b"v")

    async def clearing(tx: Transaction) -> None:
        ran.append(tx)
        tx.clear_range(b"k", b"l")

    for turn in range(backend.crowd):
        ran.clear()
        change = clearing if turn % 2 else setting
        watch, _ = await asyncio.gather(storage.transact(arming), storage.transact(change))
        if ran[-1].commit_version > ran[0].commit_version > 0:
            await fired(watch)
        watch.cancel()
