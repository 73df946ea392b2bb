"""What is particular to the PostgreSQL backend: opening, lost connections, fences, groups, the counters' arithmetic."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.storage.backends_postgres import fresh_url, missing, shared_server
from tests.storage.bodies import get, put, rows
from tests.storage.records import found, write_records
from windlass.storage.own_writes import counter_sum
from windlass.storage.port import StorageError, StoreFormat, Transaction, Watch
from windlass.storage.postgres import PostgresStorage, open_postgres
from windlass.storage.postgres_connections import Connection, connect, parse_url, words

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest_asyncio.fixture
async def store() -> AsyncIterator[tuple[PostgresStorage, Connection]]:
    """A store, and a connection of the test's own to its schema."""
    url = fresh_url()
    storage = await open_postgres(url, watch_poll_seconds=0.05)
    connection = await connect(parse_url(url), "test")
    yield storage, connection
    await storage.close()
    await connection.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("mysql://somewhere/db", "does not begin with postgres://"),
        ("postgres:///db?schema=Robert;--", "schema name"),
        ("postgres:///db?deadline=soon", "soon"),
        ("postgres:///db?readers=0", "above 0"),
    ],
)
async def test_url_that_is_not_understood(url: str, why: str) -> None:
    with pytest.raises(StorageError, match=why):
        await open_postgres(url)


def test_url_of_a_unix_socket() -> None:
    options = parse_url("postgres://u:p@/db?host=/run/pg&schema=s&deadline=3&sslmode=disable")
    assert options.dsn == "postgres://u:p@/db?host=%2Frun%2Fpg&sslmode=disable"
    assert (options.schema, options.deadline) == ("s", 3.0)


async def test_unknown_role_is_refused() -> None:
    with pytest.raises(StorageError, match=r"refuses the connection.*nobody_here"):
        await open_postgres(shared_server().url().replace("windlass@", "nobody_here@"))


async def test_store_of_another_format_is_refused(store: tuple[PostgresStorage, Connection]) -> None:
    _, connection = store
    schema = await connection.fetchval("SELECT current_schema")
    await connection.execute("UPDATE about SET value = '99'")
    with pytest.raises(StoreFormat, match="99"):
        await open_postgres(shared_server().url(schema=schema))


async def test_schema_of_somebody_else_is_refused(store: tuple[PostgresStorage, Connection]) -> None:
    _, connection = store
    await connection.execute("CREATE SCHEMA theirs CREATE TABLE things (id int)")
    with pytest.raises(StoreFormat, match="theirs has tables"):
        await open_postgres(shared_server().url(schema="theirs"))


async def test_many_open_a_new_store_at_once() -> None:
    url = fresh_url()
    storages = await asyncio.gather(*(open_postgres(url) for _ in range(4)))
    await put(storages[0], {b"k": b"v"})
    assert [await get(storage, b"k") for storage in storages] == [b"v"] * 4
    for storage in storages:
        await storage.close()


async def test_connections_cut_under_load(store: tuple[PostgresStorage, Connection]) -> None:
    """As by an operator or a proxy: commits whose answers are lost are found out, and done once."""
    storage, connection = store
    writing = asyncio.create_task(write_records(storage, writers=20, rounds=30))
    cut = 0
    for _ in range(5):
        async with connection.transaction():  # stop the next commit where it can be cut, so that none is missed
            await connection.execute("LOCK TABLE turn IN EXCLUSIVE MODE")
            await _waiting_for_turn(connection, 1)
            cut += await connection.fetchval(_CUT)
    done = await writing
    assert cut >= 5
    assert len(done) == 600
    assert await found(storage) == (done, 600)


_CUT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name IN ('windlass committer', 'windlass reader') AND backend_type = 'client backend'
  AND pid IN (SELECT pid FROM pg_locks WHERE relation = 'turn'::regclass)
"""


async def test_commit_that_was_lost_while_it_waited(store: tuple[PostgresStorage, Connection]) -> None:
    """Its call stands in the queue for the lock when its connection goes: the next session waits behind it."""
    storage, connection = store
    told: list[tuple[bool, bytes | None]] = []

    async def body(tx: Transaction) -> None:
        held = await tx.get(b"record")
        told.append((tx.maybe_committed, held))
        if held is None:
            tx.set(b"record", b"done")
            tx.add(b"counter", 1)

    async with connection.transaction():
        await connection.execute("LOCK TABLE turn IN EXCLUSIVE MODE")
        lost = asyncio.create_task(storage.transact(body))
        await _waiting_for_turn(connection, 1)
        storage._committer._connection.terminate()  # type: ignore[union-attr]
        await _waiting_for_turn(connection, 2)
    await lost
    assert told == [(False, None), (True, b"done")]
    assert await get(storage, b"counter") == counter_sum(None, 1)


async def _waiting_for_turn(connection: Connection, count: int) -> None:
    query = "SELECT count(*) FROM pg_locks WHERE relation = 'turn'::regclass AND NOT granted"
    while await connection.fetchval(query) < count:  # noqa: ASYNC110 - the server tells nobody
        await asyncio.sleep(0.005)


async def test_session_that_was_struck_out_cannot_commit(store: tuple[PostgresStorage, Connection]) -> None:
    storage, connection = store
    await connection.execute("DELETE FROM sessions")
    attempts = 0

    async def body(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        tx.set(b"attempt-%d" % attempts, b"")

    await storage.transact(body)
    assert await rows(storage) == [(b"attempt-2", b"")]


async def test_reads_older_than_what_is_remembered_run_again(store: tuple[PostgresStorage, Connection]) -> None:
    storage, connection = store
    attempts = 0

    async def body(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        await tx.get(b"k")
        tx.set(b"mine", b"")
        if attempts == 1:
            await put(storage, {b"other": b""})
            await connection.execute("UPDATE head SET floor = version")

    await storage.transact(body)
    assert attempts == 2


async def test_what_is_read_after_a_lost_connection_is_of_one_state(store: tuple[PostgresStorage, Connection]) -> None:
    """The connection goes between two reads, and another engine commits: the body runs again, as a whole."""
    storage, connection = store
    await put(storage, {b"a": b"1", b"b": b"1"})
    attempts = 0

    async def body(tx: Transaction) -> tuple[bytes | None, bytes | None]:
        nonlocal attempts
        attempts += 1
        first = await tx.get(b"a")
        if attempts == 1:
            await _cut_readers(storage, connection)
            await put(storage, {b"a": b"2", b"b": b"2"})
        return first, await tx.get(b"b")

    assert await storage.read(body) == (b"2", b"2")


async def _cut_readers(storage: PostgresStorage, connection: Connection) -> None:
    for reader in [reader.connection for reader in storage._snapshots._all if reader.connection is not None]:
        gone = asyncio.Event()
        reader.add_termination_listener(lambda _connection, gone=gone: gone.set())
        await connection.execute("SELECT pg_terminate_backend($1)", reader.get_server_pid())
        await gone.wait()


async def test_commits_are_serializable(store: tuple[PostgresStorage, Connection]) -> None:
    """The isolation level that a call runs under, as the server tells it from inside."""
    storage, connection = store
    await connection.execute("CREATE TABLE seen (level text)")
    await connection.execute(
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO seen VALUES (current_setting('transaction_isolation')); RETURN NULL; END $$;"
        "CREATE TRIGGER look AFTER INSERT ON rows FOR EACH STATEMENT EXECUTE FUNCTION look()"
    )
    await put(storage, {b"k": b"v"})
    assert await connection.fetchval("SELECT level FROM seen") == "serializable"


async def test_one_bad_apple_does_not_spoil_the_group(store: tuple[PostgresStorage, Connection]) -> None:
    """What the server refuses for one transaction's sake, it refuses to that one alone."""
    storage, connection = store
    await connection.execute("ALTER TABLE rows ADD CONSTRAINT sound CHECK (value <> 'bad')")
    writes = [put(storage, {b"%d" % n: b"bad" if n == 3 else b"good"}) for n in range(8)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [n for n, outcome in enumerate(outcomes) if outcome is not None] == [3]
    assert isinstance(outcomes[3], StorageError)
    assert "sound" in str(outcomes[3])
    assert len(await rows(storage)) == 7


async def test_serialization_failures_run_again(store: tuple[PostgresStorage, Connection]) -> None:
    """As when somebody writes the tables behind our back: three times in a row the server asks for another attempt."""
    storage, connection = store
    await put(storage, {b"k": b"0"})
    await connection.execute(
        "CREATE SEQUENCE failures; CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF nextval('failures') <= 3 THEN RAISE EXCEPTION 'as if' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$;"
        "CREATE TRIGGER fail AFTER INSERT ON rows FOR EACH STATEMENT EXECUTE FUNCTION fail()"
    )
    await put(storage, {b"k": b"1"})
    assert await get(storage, b"k") == b"1"
    assert await connection.fetchval("SELECT last_value FROM failures") == 4


async def test_watch_rings_though_its_notification_was_lost(store: tuple[PostgresStorage, Connection]) -> None:
    storage, connection = store

    async def watching(tx: Transaction) -> Watch:
        return tx.watch(b"bell")

    watch = await storage.transact(watching)
    await connection.execute("DELETE FROM watches")  # fired, and nobody heard
    await asyncio.wait_for(watch.wait(), 5)


async def test_cancelled_watches_leave_no_rows(store: tuple[PostgresStorage, Connection]) -> None:
    storage, connection = store

    async def watching(tx: Transaction) -> Watch:
        return tx.watch(b"bell")

    (await storage.transact(watching)).cancel()
    while await connection.fetchval("SELECT count(*) FROM watches"):  # noqa: ASYNC110 - the server tells nobody
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("held", [None, b"", b"\x01", b"\xff" * 8, b"\xfe\xff\xff\xff\xff\xff\xff\x7f", b"123456789"])
@pytest.mark.parametrize("number", [0, 1, -1, 2**63 - 1, -(2**63), 2**64 + 5])
async def test_counters_as_everywhere(
    held: bytes | None, number: int, store: tuple[PostgresStorage, Connection]
) -> None:
    storage, _ = store
    if held is not None:
        await put(storage, {b"k": held})

    async def add(tx: Transaction) -> None:
        tx.add(b"k", number)

    await storage.transact(add)
    assert await get(storage, b"k") == counter_sum(held, number)


async def test_closing_twice_and_use_after(store: tuple[PostgresStorage, Connection]) -> None:
    storage, _ = store
    await storage.close()
    await storage.close()
    with pytest.raises(StorageError, match="closed"):
        await get(storage, b"k")


async def test_driver_errors_do_not_leak(store: tuple[PostgresStorage, Connection]) -> None:
    storage, connection = store
    await connection.execute("ALTER TABLE rows RENAME TO elsewhere")
    with pytest.raises(StorageError, match="PostgreSQL refused"):
        await get(storage, b"k")
    with pytest.raises(StorageError, match="PostgreSQL refused"):
        await put(storage, {b"k": b"v"})


def test_an_error_without_words_is_named_in_the_log() -> None:
    assert words(TimeoutError()) == "TimeoutError"  # what asyncio says of a server that does not answer
    assert words(OSError("no route")) == "no route"
