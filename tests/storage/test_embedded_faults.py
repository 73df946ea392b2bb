"""A disk that fails under the embedded store:

Clear errors, nothing changed, and the store goes on when the disk does.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.storage.bodies import get, number, put, rows
from windlass.storage import offline
from windlass.storage.embedded import EmbeddedStorage
from windlass.storage.embedded_groups import Groups
from windlass.storage.opening import open_embedded
from windlass.storage.port import (
    CommitUnknown,
    Storage,
    StorageError,
    StoreFull,
    StoreReadOnly,
    Transaction,
    Watch,
)

_O_DSYNC = os.O_DSYNC


def data_files(directory: Path) -> dict[bool, int]:
    """The open files of LMDB's data: {synced on each write (its root page): file descriptor}."""
    found: dict[bool, int] = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{name}") == str(directory / "data.mdb"):
                flags = Path(f"/proc/self/fdinfo/{name}").read_text().split("flags:")[1].split()[0]
                found[bool(int(flags, 8) & _O_DSYNC)] = int(name)
    return found


@contextlib.contextmanager
def full(opened: int) -> Iterator[None]:
    """Every write to this open file fails for want of room."""
    device = os.open("/dev/full", os.O_RDWR)
    kept = os.dup(opened)
    os.dup2(device, opened)
    try:
        yield
    finally:
        os.dup2(kept, opened)
        os.close(kept)
        os.close(device)


async def increment(tx: Transaction) -> int:
    seen = number(await tx.get(b"n"))
    tx.set(b"n", b"%d" % (seen + 1))
    tx.set(b"row-%d" % seen, b"")
    return seen


@pytest.mark.parametrize("strict", [False, True])
async def test_full_disk_fails_the_group_and_all_built_on_it(strict: bool, tmp_path: Path) -> None:
    storage = open_embedded(tmp_path, strict=strict)
    await storage.transact(increment)
    with full(data_files(tmp_path)[False]):
        outcomes = await asyncio.gather(*(storage.transact(increment) for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreFull}
    assert await get(storage, b"n") == b"1"
    assert len(await rows(storage)) == 2
    # Room again: nothing was lost, and it goes on where it was.
    assert await storage.transact(increment) == 1
    await storage.close()
    assert offline.check(tmp_path).rows == 3


async def test_group_that_forms_while_the_disk_fails(tmp_path: Path) -> None:
    """Waves of callers, the disk full for some of them: what was acknowledged is there, what was refused is not."""
    storage = open_embedded(tmp_path)
    acknowledged: list[int] = []
    refused = 0

    async def caller(turns: int) -> None:
        nonlocal refused
        for _ in range(turns):
            try:
                acknowledged.append(await storage.transact(increment))
            except StoreFull:
                refused += 1

    callers = [asyncio.create_task(caller(30)) for _ in range(8)]
    await until(lambda: len(acknowledged) >= 40)
    with full(data_files(tmp_path)[False]):
        await until(lambda: refused >= 40)
    await asyncio.gather(*callers)
    assert sorted(acknowledged) == list(range(240 - refused))
    assert number(await get(storage, b"n")) == len(acknowledged)
    await storage.close()
    assert offline.check(tmp_path).rows == len(acknowledged) + 1


async def until(reached: Callable[[], bool]) -> None:
    """Give the callers turns of the loop until they have come so far."""
    while not reached():  # noqa: ASYNC110 - what is waited for is a count that the callers make
        await asyncio.sleep(0)


async def test_watches_of_a_failed_group(tmp_path: Path) -> None:
    storage = open_embedded(tmp_path)

    async def arm(tx: Transaction) -> Watch:
        return tx.watch(b"n")

    async def write_and_arm(tx: Transaction) -> None:
        tx.set(b"other", b"")
        armed.append(tx.watch(b"n"))

    armed: list[Watch] = []
    before = await storage.transact(arm)
    with full(data_files(tmp_path)[False]), pytest.raises(StoreFull):
        await asyncio.gather(storage.transact(write_and_arm), storage.transact(increment))
    # The one from before says "look again", and finds nothing new; the one of the failed transaction is lost.
    await before.wait()
    assert await get(storage, b"n") is None
    with contextlib.suppress(StorageError):
        await armed[0].wait()
    await storage.close()


async def test_root_page_that_cannot_be_written(tmp_path: Path) -> None:
    """LMDB refuses to go on after that; the store opens it anew, and callers see one failed commit."""
    storage = open_embedded(tmp_path)
    await storage.transact(increment)
    broken = data_files(tmp_path)[True]
    device = os.open("/dev/full", os.O_RDWR)
    os.dup2(device, broken)
    os.close(device)
    with pytest.raises(StoreFull):
        await storage.transact(increment)
    assert await get(storage, b"n") == b"1"
    assert await storage.transact(increment) == 1
    await storage.close()
    assert offline.check(tmp_path).rows == 3


async def test_store_that_fails_by_itself_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fault of a disk is known that does this; a bug, or want of memory, might."""
    groups = Groups(tmp_path, 1 << 20)
    storage = EmbeddedStorage(groups)
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context["message"]))
    monkeypatch.setattr(groups, "_look", _no_memory)
    outcomes = await asyncio.gather(*(storage.transact(increment) for _ in range(3)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {CommitUnknown}
    for call in (storage.transact(increment), get(storage, b"n")):
        with pytest.raises(StorageError, match="must be opened anew"):
            await call
    assert len(complaints) == 1
    await storage.close()
    again = open_embedded(tmp_path)
    assert await get(again, b"n") == b"3"
    await again.close()


def _no_memory() -> None:
    raise MemoryError("no memory for a snapshot")


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def filled(storage: Storage) -> int:
    """Write until it is refused; returns how many rows were acknowledged."""
    for place in range(1000):
        try:
            await put(storage, {b"fill-%03d" % place: bytes(100_000)})
        except StoreFull:
            return place
    raise AssertionError("it never got full")


async def test_file_that_may_not_grow(tmp_path: Path) -> None:
    """A write that is cut off half-way, as a real file system does when it runs out of room."""
    storage = open_embedded(tmp_path)
    with file_size_limit(2_000_000 + 1234):
        acknowledged = await filled(storage)
        await storage.transact(increment)
    assert len(await rows(storage, b"fill", b"g")) == acknowledged
    await put(storage, {b"fill-more": bytes(100_000)})
    await storage.close()
    assert offline.check(tmp_path).rows == acknowledged + 3


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


async def test_small_file_system(small_file_system: Path) -> None:
    storage = open_embedded(small_file_system)
    acknowledged = await filled(storage)
    assert len(await rows(storage, b"fill", b"g")) == acknowledged
    await storage.transact(clear_all)
    # LMDB uses pages again two commits after they were freed: until then a crash may still want them.
    await storage.transact(increment)
    await storage.transact(increment)
    assert await filled(storage) > 0
    await storage.close()
    offline.check(small_file_system)


async def clear_all(tx: Transaction) -> None:
    tx.clear_range(b"\0", b"\xff")


@pytest.fixture
def unwritable() -> Iterator[Path]:
    """A directory this process may read and not write; root gives up its rights for the time."""
    directory = Path(tempfile.mkdtemp(prefix="windlass-unwritable-"))
    directory.chmod(0o555)
    was_root = os.geteuid() == 0
    try:
        if was_root:
            os.seteuid(65534)
        yield directory
    finally:
        if was_root:
            os.seteuid(0)
        directory.chmod(0o755)
        directory.rmdir()


async def test_directory_that_cannot_be_written(unwritable: Path) -> None:
    with pytest.raises(StoreReadOnly, match=os.strerror(errno.EACCES)):
        open_embedded(unwritable)
    with pytest.raises(StoreReadOnly):
        open_embedded(unwritable / "below")
