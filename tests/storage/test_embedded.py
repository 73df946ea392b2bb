"""What only the embedded store promises: groups, what is seen when, opening, growth."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import lmdb
import pytest
import pytest_asyncio

from tests.storage.bodies import get, number, put, rows
from windlass.storage.embedded import EmbeddedStorage
from windlass.storage.embedded_files import FORMAT_KEY
from windlass.storage.embedded_groups import Groups
from windlass.storage.embedded_strict import StrictEmbeddedStorage
from windlass.storage.opening import open_embedded
from windlass.storage.port import (
    BodySuspended,
    Counted,
    Storage,
    StorageError,
    StoreFormat,
    StoreLocked,
    Transaction,
    TransactionTooOld,
)


@pytest_asyncio.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = open_embedded(tmp_path / "store")
    yield storage
    await storage.close()


def begin(call: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
    """Run a call up to where it waits for the disk."""
    waits_for: asyncio.Future[Any] = call.send(None)
    # As a task does when it is given a future to wait for.
    waits_for._asyncio_future_blocking = False
    return waits_for


def end(call: Coroutine[Any, Any, Any]) -> Any:
    """The result of a call that does not wait any more."""
    try:
        call.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it still waits")


async def test_body_runs_at_once_and_sees_what_is_not_on_disk_yet(embedded: Storage) -> None:
    first = embedded.transact(increment)
    second = embedded.transact(increment)
    on_disk = begin(first)
    begin(second)
    # Nothing of it may be told to a reader, for a crash could still take it back.
    assert await get(embedded, b"n") is None
    await on_disk
    assert await get(embedded, b"n") == b"2"
    assert (end(first), end(second)) == (0, 1)


async def increment(tx: Transaction) -> int:
    seen = number(await tx.get(b"n"))
    tx.set(b"n", b"%d" % (seen + 1))
    return seen


async def test_body_that_wrote_nothing_waits_for_what_it_saw(embedded: Storage) -> None:
    async def look(tx: Transaction) -> bytes | None:
        return await tx.get(b"n")

    writing, looking = embedded.transact(increment), embedded.transact(look)
    on_disk = begin(writing)
    seen_on_disk = begin(looking)
    assert not seen_on_disk.done()
    await on_disk
    assert end(looking) == b"1"
    end(writing)
    # With nothing on its way there is nothing to wait for.
    assert end(embedded.transact(look)) == b"1"


def commits(directory: Path) -> int:
    with lmdb.open(str(directory / "store"), readonly=True, max_dbs=0) as environment:
        return int(environment.info()["last_txnid"])


COMMITS_OF = """
import asyncio, sys
from windlass.storage.opening import open_embedded
async def body(tx): tx.add(b"n", 1)
async def main(count, at_once):
    storage = open_embedded(sys.argv[1])
    for _ in range(count):
        await asyncio.gather(*(storage.transact(body) for _ in range(at_once)))
    await storage.close()
asyncio.run(main(int(sys.argv[2]), int(sys.argv[3])))
"""


@pytest.mark.parametrize(("count", "at_once"), [(10, 1), (3, 100)])
def test_one_disk_commit_for_all_that_wait(count: int, at_once: int, tmp_path: Path) -> None:
    """A lone transaction gets one of its own; a hundred that come together share one."""
    command = [sys.executable, "-c", COMMITS_OF, str(tmp_path / "store")]
    subprocess.run([*command, "0", "0"], check=True)
    before = commits(tmp_path)
    subprocess.run([*command, str(count), str(at_once)], check=True)
    assert commits(tmp_path) == before + count


async def test_it_counts_transactions_and_the_commits_they_shared(embedded: Storage) -> None:
    await asyncio.gather(*(put(embedded, {b"%d" % place: b""}) for place in range(5)))
    await get(embedded, b"0")
    assert isinstance(embedded, Counted)
    assert embedded.counts() == {"transactions": 5, "commits": 1}


async def test_cancelled_caller_does_not_disturb_the_group(embedded: Storage) -> None:
    tasks = [asyncio.create_task(embedded.transact(increment)) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, int] * 5
    # A commit that was under way happens, whoever waits for it.
    assert await get(embedded, b"n") == b"10"


async def test_body_that_awaits_something_else(embedded: Storage) -> None:
    async def body(tx: Transaction) -> None:
        tx.set(b"k", b"v")
        await asyncio.sleep(0)

    with pytest.raises(BodySuspended):
        await embedded.transact(body)
    with pytest.raises(BodySuspended):
        await embedded.read(lambda tx: body(tx))
    assert await get(embedded, b"k") is None


async def test_body_that_runs_too_long(tmp_path: Path) -> None:
    seconds = 0.0
    storage = EmbeddedStorage(Groups(tmp_path, 1 << 20), clock=lambda: seconds)

    async def body(tx: Transaction, takes: float) -> None:
        nonlocal seconds
        tx.set(b"took", b"%d" % takes)
        seconds += takes

    await storage.transact(lambda tx: body(tx, 4))
    with pytest.raises(TransactionTooOld):
        await storage.transact(lambda tx: body(tx, 6))
    assert await get(storage, b"took") == b"4"
    await storage.close()


@pytest.mark.parametrize("strict", [False, True])
async def test_rows_and_versions_outlive_the_process(strict: bool, tmp_path: Path) -> None:
    async def append(tx: Transaction) -> None:
        tx.set_versionstamped_key(b"q/", b"", b"")

    for _ in range(3):
        storage = open_embedded(tmp_path, strict=strict)
        await storage.transact(append)
        await storage.close()
    storage = open_embedded(tmp_path)
    stamps = [int.from_bytes(key[2:10], "big") for key, _ in await rows(storage)]
    await storage.close()
    assert stamps == [1, 2, 3]


@pytest.mark.parametrize("strict", [False, True])
async def test_map_grows_unnoticed(strict: bool, tmp_path: Path) -> None:
    storage = open_embedded(tmp_path, strict=strict, map_bytes=1 << 20)
    value = bytes(50_000)

    async def fill(who: int) -> None:
        async def body(tx: Transaction) -> None:
            await tx.get_range(b"%03d" % who, b"\xff", limit=1)
            for place in range(10):
                tx.set(b"%03d/%d" % (who, place), value)

        await storage.transact(body)

    await asyncio.gather(*(fill(who) for who in range(40)))
    assert len(await rows(storage)) == 400
    await storage.close()
    assert (tmp_path / "data.mdb").stat().st_size > 20 << 20


HOLD_A_SNAPSHOT = """
import sys
from pathlib import Path
from windlass.storage.offline import Reader
reader = Reader(Path(sys.argv[1]))
print("holding", flush=True)
sys.stdin.read()
"""


def test_killed_reader_pins_nothing_after_the_next_open(tmp_path: Path) -> None:
    async def opened() -> None:
        storage = open_embedded(tmp_path)
        await put(storage, {b"k": b"v"})
        await storage.close()

    asyncio.run(opened())
    command = [sys.executable, "-c", HOLD_A_SNAPSHOT, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        # Someone else has the lock file open all the time, so that LMDB does not start a new one by itself.
        with lmdb.open(str(tmp_path), readonly=True) as bystander:
            process.kill()
            process.wait()
            assert str(process.pid) in bystander.readers()
            subprocess.run([sys.executable, "-c", COMMITS_OF, str(tmp_path), "1", "1"], check=True)
            assert str(process.pid) not in bystander.readers()


@pytest.mark.parametrize("open_as", [EmbeddedStorage, StrictEmbeddedStorage])
async def test_transactions_that_somebody_keeps_cost_no_reader(
    open_as: Callable[[Groups], Storage], tmp_path: Path
) -> None:
    """LMDB has room for some thousand readers; an exception that is kept refers to its transaction."""
    groups = Groups(tmp_path, 1 << 20)
    storage = open_as(groups)

    async def keep(tx: Transaction) -> Transaction:
        await tx.get(b"k")
        tx.set(b"k", b"")
        return tx

    kept = [await storage.transact(keep) for _ in range(20)]
    assert kept[-1].commit_version == 20
    # LMDB tells how many places were ever taken at once.
    assert groups.store.readers <= 3
    await storage.close()


async def test_second_opener_is_refused(tmp_path: Path) -> None:
    storage = open_embedded(tmp_path)
    with pytest.raises(StoreLocked, match="in use by process"):
        open_embedded(tmp_path)
    await put(storage, {b"k": b"v"})
    await storage.close()
    again = open_embedded(tmp_path)
    assert await get(again, b"k") == b"v"
    await again.close()


async def test_opener_in_another_process_is_refused(tmp_path: Path) -> None:
    storage = open_embedded(tmp_path)
    program = f"import asyncio; from tests.storage import test_embedded; test_embedded.refused({str(tmp_path)!r})"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=True)
    await storage.close()


def refused(directory: str) -> None:
    """Runs in the other process."""

    async def opening() -> None:
        with pytest.raises(StoreLocked):
            open_embedded(directory)

    asyncio.run(opening())


async def test_foreign_files_are_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "foreign")) as environment, environment.begin(write=True) as writing:
        writing.put(b"theirs", b"")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / "data.mdb").write_bytes(b"not a store " * 1000)
    for name in ("foreign", "garbage"):
        with pytest.raises(StoreFormat):
            open_embedded(tmp_path / name)
    # A refused store is not left locked.
    with pytest.raises(StoreFormat):
        open_embedded(tmp_path / "garbage")


async def test_other_format_version_is_refused(tmp_path: Path) -> None:
    await open_embedded(tmp_path).close()
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as writing:
        writing.put(FORMAT_KEY, b"windlass 99")
    with pytest.raises(StoreFormat, match="windlass 99"):
        open_embedded(tmp_path)


async def test_use_after_close(tmp_path: Path) -> None:
    storage = open_embedded(tmp_path)
    waiting = asyncio.create_task(put(storage, {b"k": b"v"}))
    await asyncio.sleep(0)
    await storage.close()
    await waiting
    with contextlib.suppress(StorageError):
        await get(storage, b"k")
        raise AssertionError("a closed store answered")
    again = open_embedded(tmp_path)
    assert await get(again, b"k") == b"v"
    await again.close()
