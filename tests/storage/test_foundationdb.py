"""What is particular to the FoundationDB backend: opening, prefixes, watches beside writes, misuse, the library
itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import fdb
import fdb.tuple
import pytest
import pytest_asyncio

from tests.storage.backends_foundationdb import over_fake
from tests.storage.bodies import get, put, rows
from tests.storage.fdb_fake import BAD_FILE, MISSING_FILE, FakeLibrary
from tests.storage.fdb_fake_cluster import Cluster
from windlass.storage.foundationdb import FoundationDBStorage
from windlass.storage.foundationdb_client import Database
from windlass.storage.foundationdb_library import ClientLibraryMissing, FoundationError, Library
from windlass.storage.foundationdb_open import about_at, open_foundationdb, open_foundationdb_url, rows_at
from windlass.storage.foundationdb_transaction import FoundationWatch
from windlass.storage.port import StorageError, StoreFormat, Transaction, TransactionTooLarge, Unavailable, Watch


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[Cluster]:
    cluster = Cluster(1)
    yield cluster
    cluster.close()


async def test_two_installations_share_a_cluster(cluster: Cluster) -> None:
    one = await open_foundationdb("f", prefix=b"one/", native=FakeLibrary(cluster))
    two = await open_foundationdb("f", prefix=b"one/d", native=FakeLibrary(cluster))

    async def stamped(tx: Transaction) -> None:
        tx.set_versionstamped_key(b"q/", b"/s", b"mine")

    await put(one, {b"k": b"1"})
    await put(two, {b"k": b"2", b"l": b"2"})
    await one.transact(stamped)
    assert await rows(two) == [(b"k", b"2"), (b"l", b"2")]
    (first, second) = await rows(one)
    assert first == (b"k", b"1")
    assert (second[0][:2], len(second[0]), second[0][-2:], second[1]) == (b"q/", 14, b"/s", b"mine")
    await one.close()
    await two.close()


@pytest.mark.parametrize("prefix", [b"windlass/", b"with\0zero", b"\xff"])
async def test_prefix_is_packed_as_the_tuple_layer_does(prefix: bytes) -> None:
    assert rows_at(prefix) == fdb.tuple.pack((prefix,)) + b"d"


async def test_store_is_found_again(cluster: Cluster) -> None:
    first = await open_foundationdb("f", prefix=b"p/", native=FakeLibrary(cluster))
    await put(first, {b"k": b"v"})
    await first.close()
    again = await open_foundationdb("f", prefix=b"p/", native=FakeLibrary(cluster))
    assert await get(again, b"k") == b"v"
    await again.close()


async def test_store_of_another_format_is_refused(cluster: Cluster) -> None:
    native = FakeLibrary(cluster)
    database = Database("f", timeout_ms=1000, max_retry_delay_ms=10, native=native)
    await put(FoundationDBStorage(database, about_at(b"p/")), {b"format": b"99"})
    with pytest.raises(StoreFormat, match="99"):
        await open_foundationdb("f", prefix=b"p/", native=FakeLibrary(cluster))
    await put(FoundationDBStorage(database, rows_at(b"q/")), {b"somebody": b"else's"})
    with pytest.raises(StoreFormat, match="not of a Windlass store"):
        await open_foundationdb("f", prefix=b"q/", native=FakeLibrary(cluster))
    await database.close()


async def test_cluster_that_does_not_answer_is_named(cluster: Cluster) -> None:
    cluster.go_away()
    native = FakeLibrary(cluster)
    with pytest.raises(Unavailable, match=r"named in my\.cluster within 0\.2 s.*Healthy"):
        await open_foundationdb("my.cluster", start_seconds=0.2, native=native)
    await asyncio.to_thread(cluster.network.drained)
    assert native.left_over == 0


@pytest.mark.parametrize("name", [MISSING_FILE, BAD_FILE])
async def test_unusable_cluster_file_is_named(name: str, cluster: Cluster) -> None:
    with pytest.raises(StorageError, match=f"cluster file {name} is missing or not a cluster file"):
        await open_foundationdb(name, native=FakeLibrary(cluster))


@pytest.mark.parametrize("prefix", [b"", b"p" * 65])
async def test_unusable_prefix(prefix: bytes, cluster: Cluster) -> None:
    with pytest.raises(StorageError, match="1 to 64 bytes"):
        await open_foundationdb("f", prefix=prefix, native=FakeLibrary(cluster))


async def test_missing_client_library_is_explained() -> None:
    with pytest.raises(ClientLibraryMissing, match=r"libfdb_nowhere\.so cannot be loaded.*foundationdb-clients"):
        Library("libfdb_nowhere.so")


@pytest.mark.parametrize("url", ["foundationdb://host/f", "foundationdb:///f?prefx=x"])
async def test_url_that_is_not_understood(url: str) -> None:
    with pytest.raises(StorageError, match="is not of the form"):
        await open_foundationdb_url(url)


@pytest.mark.parametrize("deadline", ["0", "0.0001", "-1", "soon", "nan", "inf"])
async def test_deadline_that_would_be_none(deadline: str) -> None:
    """To the client library, zero milliseconds are no bound at all: every call would wait for ever."""
    with pytest.raises(StorageError, match="deadline"):
        await open_foundationdb_url(f"foundationdb:///f?deadline={deadline}")


async def test_library_of_another_series_is_explained() -> None:
    """As one that lacks a function: the C library stands in for it."""
    with pytest.raises(ClientLibraryMissing, match=r"libc\.so\.6 .*7\.3"):
        Library("libc.so.6")


async def test_watch_of_a_caller_that_was_cancelled_keeps_no_place() -> None:
    """Its commit had come through, so that the library's watch was armed, and nobody could give it up any more."""

    async def body(tx: Transaction) -> Watch:
        return tx.watch(b"bell")

    async with over_fake() as (storage, cluster):
        calling = asyncio.create_task(storage.transact(body))
        await asyncio.sleep(0)  # up to its commit
        cluster.network.drained()  # on the loop's thread: the answer has come, and the caller is not told yet
        assert len(cluster.watches) == 1
        calling.cancel()
        await asyncio.wait([calling])
        assert calling.cancelled()
        await asyncio.to_thread(cluster.network.drained)
        assert storage.pending == 0


async def test_the_librarys_own_size_limit_has_its_name() -> None:
    """A long prefix makes a transaction too large for the cluster that is not too large by our count."""

    async def body(tx: Transaction) -> None:
        for number in range(40_000):
            tx.set(b"%05d" % number, b"v" * 160)

    async with over_fake() as (storage, _):
        with pytest.raises(TransactionTooLarge, match="2101"):
            await storage.transact(body)
        assert await rows(storage, limit=1) == []


async def test_watch_made_in_a_transaction_that_writes() -> None:
    async def write_and_watch(tx: Transaction) -> Watch:
        tx.set(b"bell", b"before")
        return tx.watch(b"bell")

    async with over_fake() as (storage, cluster):
        watch = await storage.transact(write_and_watch)
        assert len(cluster.watches) == 1
        await put(storage, {b"bell": b"after"})
        await asyncio.wait_for(watch.wait(), 5)


async def test_change_between_the_commit_and_the_arming_rings() -> None:
    """The watch of a writing transaction is armed by a second one; a change in between must not be lost."""

    async def write_and_watch(tx: Transaction) -> Watch:
        tx.set(b"mine", b"")
        return tx.watch(b"bell")

    class Late(FoundationDBStorage):
        async def _arm(self, unarmed: list[tuple[FoundationWatch, bytes | None]]) -> None:
            await put(self, {b"bell": b"changed"})
            await super()._arm(unarmed)

    async with over_fake() as (storage, _):
        storage.__class__ = Late
        watch = await storage.transact(write_and_watch)
        await asyncio.wait_for(watch.wait(), 5)


async def test_watch_that_cannot_be_armed_is_lost_and_the_commit_stands() -> None:
    async def write_and_watch(tx: Transaction) -> Watch:
        tx.set(b"mine", b"done")
        return tx.watch(b"bell")

    class Unlucky(FoundationDBStorage):
        async def _arm(self, unarmed: list[tuple[FoundationWatch, bytes | None]]) -> None:
            away()
            await super()._arm(unarmed)

    async with over_fake(deadline_seconds=0.2) as (storage, cluster):
        away = cluster.go_away
        storage.__class__ = Unlucky
        watch = await storage.transact(write_and_watch)
        with pytest.raises(Unavailable, match="could not be armed"):
            await watch.wait()
        cluster.come_back()
        assert await get(storage, b"mine") == b"done"


async def test_watches_survive_a_restart_and_one_too_many_is_lost() -> None:
    async with over_fake() as (storage, cluster):
        storage._database.set_max_watches(1)
        kept = await storage.transact(_watching)
        lost = await storage.transact(_watching)
        with pytest.raises(Unavailable, match="too many watches"):
            await lost.wait()
        cluster.restart()
        await put(storage, {b"bell": b"rung"})
        await asyncio.wait_for(kept.wait(), 5)


async def _watching(tx: Transaction) -> Watch:
    return tx.watch(b"bell")


async def test_task_left_over_from_the_body_cannot_spoil_the_commit() -> None:
    async with over_fake() as (storage, _):
        used = asyncio.Event()
        leftovers: list[asyncio.Task[None]] = []

        async def late(tx: Transaction) -> None:
            await used.wait()
            tx.set(b"late", b"")

        async def body(tx: Transaction) -> None:
            leftovers.append(asyncio.create_task(late(tx)))
            tx.set(b"k", b"v")

        await storage.transact(body)
        used.set()
        with pytest.raises(StorageError, match="left over"):
            await leftovers[0]
        assert await rows(storage) == [(b"k", b"v")]


async def test_native_transaction_is_guarded_during_its_commit(cluster: Cluster) -> None:
    """The library would report the commit as failed, although it happens."""
    database = Database("f", timeout_ms=1000, max_retry_delay_ms=10, native=FakeLibrary(cluster))
    transaction = database.begin()
    transaction.set(b"k", b"v")
    committing = asyncio.create_task(transaction.commit())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="after its commit began"):
        transaction.get(b"k")
    await committing
    transaction.close()
    with pytest.raises(RuntimeError, match="closed"):
        transaction.get(b"k")
    await database.close()


async def test_ranges_come_whole_whatever_the_chunks() -> None:
    expected = {b"row/%04d" % number: b"%d" % number for number in range(500)}
    async with over_fake() as (storage, _):
        await put(storage, expected)
        every = sorted(expected.items())
        assert await rows(storage) == every
        assert await rows(storage, reverse=True) == every[::-1]
        assert await rows(storage, limit=77) == every[:77]
        assert await rows(storage, limit=77, reverse=True) == every[::-1][:77]


async def test_error_that_no_attempt_can_cure_keeps_its_code() -> None:
    async with over_fake() as (storage, cluster):
        cluster.faults.reads = {2200: 1.0}
        with pytest.raises(StorageError, match="2200") as caught:
            await get(storage, b"k")
        assert isinstance(caught.value.__cause__, FoundationError)
