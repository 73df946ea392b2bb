"""PostgreSQL with several processes on one store, and with a server that is killed or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import windlass.storage.postgres
from tests.storage.backends_postgres import fresh_url, missing
from tests.storage.bodies import get, put
from tests.storage.postgres_server import PostgresServer
from tests.storage.records import COUNTER, do_once, found, write_records
from windlass.storage.backoff import Conflict
from windlass.storage.own_writes import counter_value
from windlass.storage.port import CommitUnknown, Storage, Transaction, Unavailable, Watch
from windlass.storage.postgres import open_postgres

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """One that a test may kill."""
    with PostgresServer() as server:
        yield server


async def test_two_processes_count_exactly_and_ring_each_other() -> None:
    url = fresh_url()
    storage = await open_postgres(url)
    watch = await storage.transact(_watching)
    command = [sys.executable, "-m", "tests.storage.postgres_process", url, "60"]
    processes = [await asyncio.create_subprocess_exec(*command, cwd=ROOT) for _ in range(2)]
    assert [await process.wait() for process in processes] == [0, 0]
    await asyncio.wait_for(watch.wait(), 10)
    assert await get(storage, b"read") == b"120"
    assert counter_value(await get(storage, b"added")) == 120
    await storage.close()


async def _watching(tx: Transaction) -> Watch:
    return tx.watch(b"bell")


async def test_server_killed_under_load(server: PostgresServer) -> None:
    storage = await open_postgres(server.url(deadline=30))
    watch = await storage.transact(_watching)
    writing = asyncio.create_task(write_records(storage, writers=20, rounds=200))
    for _ in range(3):
        await _progress(storage, writing, by=100)
        assert not writing.done(), "not enough to do for three kills"
        server.kill()
        await asyncio.to_thread(server.start)
    done = await writing
    assert len(done) == 20 * 200, "the deadline is far longer than the server was away"
    assert await found(storage) == (done, len(done))
    await asyncio.wait_for(watch.wait(), 10)  # lost in a crash: rung, so that its owner looks
    await storage.close()


async def _progress(storage: Storage, writing: asyncio.Task[set[bytes]], *, by: int) -> None:
    """Until so many more records are there: each look is a transaction of its own."""
    before = counter_value(await get(storage, COUNTER))
    while not writing.done() and counter_value(await get(storage, COUNTER)) < before + by:  # noqa: ASYNC110 - each look takes its time
        await asyncio.sleep(0)


async def test_server_away_is_answered_and_found_again(server: PostgresServer) -> None:
    storage = await open_postgres(server.url(deadline=0.5))
    await do_once(storage, b"record/1")
    server.kill()
    with pytest.raises(Unavailable, match="deadline"):
        await do_once(storage, b"record/2")
    with pytest.raises(Unavailable):
        await get(storage, b"record/1")
    server.start()
    await _available(storage)
    await do_once(storage, b"record/2")
    assert await found(storage) == ({b"record/1", b"record/2"}, 2)
    await storage.close()


async def test_reads_after_a_lost_connection_are_answered_and_keep_no_reader(server: PostgresServer) -> None:
    """Reads made side by side go on after one of them failed. Each of the few readers must come back."""

    async def stubborn(tx: Transaction) -> None:
        for key in (b"a", b"b", b"c"):
            with contextlib.suppress(Conflict):
                await asyncio.wait_for(tx.get(key), 10)
                raise AssertionError("the server is away")
        raise Conflict("enough")

    storage = await open_postgres(server.url(deadline=1, readers=1))
    server.kill()
    with pytest.raises(Unavailable):
        await storage.transact(stubborn)
    server.start()
    await _available(storage)
    assert await asyncio.wait_for(get(storage, b"a"), 10) is None
    await storage.close()


async def test_server_that_hangs_is_answered_and_found_again(server: PostgresServer) -> None:
    async def blind(tx: Transaction) -> None:
        tx.set(b"blind", b"")

    storage = await open_postgres(server.url(deadline=0.5))
    await put(storage, {b"k": b"v"})
    server.suspend()
    outcomes = await asyncio.gather(get(storage, b"k"), storage.transact(blind), return_exceptions=True)
    server.resume()
    assert [type(outcome) for outcome in outcomes] == [Unavailable, CommitUnknown]
    await _available(storage)
    assert await storage.settle(b"blind") in (None, b"")
    assert await get(storage, b"k") == b"v"
    await storage.close()


async def _available(storage: Storage) -> None:
    """Until a commit gets through again: no restart of ours is needed for that."""

    async def touch(tx: Transaction) -> None:
        tx.add_write_conflict_key(b"touched")

    while True:
        try:
            await storage.transact(touch)
            return
        except (Unavailable, CommitUnknown):
            continue


async def test_opening_a_server_that_is_not_there(server: PostgresServer) -> None:
    url = server.url().replace("windlass@", "windlass:secret@")
    server.kill()
    with pytest.raises(Unavailable, match="no answer from PostgreSQL at /postgres") as caught:
        await open_postgres(url)
    assert "secret" not in str(caught.value)
    server.start()
    storage = await windlass.storage.postgres.open_postgres(url)
    await storage.close()
