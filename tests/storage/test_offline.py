"""What `windlass storage check | dump | backup | compact` stand on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.bodies import get, put, rows
from tests.storage.test_embedded_faults import file_size_limit
from windlass.storage import offline
from windlass.storage.opening import open_embedded
from windlass.storage.port import StorageError, StoreFormat, StoreFull, StoreLocked, Transaction

ROWS = {b"row-%04d" % place: b"%d" % place * 50 for place in range(2000)}


async def make(directory: Path) -> None:
    storage = open_embedded(directory)
    await put(storage, ROWS)
    await storage.close()


def test_check_counts_a_sound_store(tmp_path: Path) -> None:
    asyncio.run(make(tmp_path))
    report = offline.check(tmp_path)
    assert report.rows == len(ROWS)
    assert report.key_bytes == sum(map(len, ROWS))
    assert report.value_bytes == sum(map(len, ROWS.values()))
    assert report.version == 1
    assert report.file_bytes == (tmp_path / "data.mdb").stat().st_size


def test_check_finds_damage(tmp_path: Path) -> None:
    asyncio.run(make(tmp_path))
    data = tmp_path / "data.mdb"
    with data.open("r+b") as file:
        file.seek(data.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xa5" * 4096)
    with pytest.raises(StoreFormat, match="damaged"):
        offline.check(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    for call in (offline.check, offline.compact, offline.count, lambda path: list(offline.dump(path))):
        with pytest.raises(StoreFormat, match="no store"):
            call(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def in_another_process(statement: str) -> None:
    """LMDB must not have one store open twice in one process."""
    program = f"from pathlib import Path; from windlass.storage import offline; {statement}"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=True)


async def test_beside_a_running_engine(tmp_path: Path) -> None:
    """Backup and dump see one snapshot, while the engine goes on; check and compact refuse."""
    await make(tmp_path / "store")
    storage = open_embedded(tmp_path / "store")

    async def busy() -> None:
        for turn in range(200):
            await put(storage, {b"a": b"%d" % turn, b"z": b"%d" % turn})

    writing = asyncio.create_task(busy())
    for turn in range(3):
        target = tmp_path / f"backup-{turn}"
        await in_another_process(f"offline.backup(Path({str(tmp_path / 'store')!r}), Path({str(target)!r}))")
        copied = dict(offline.dump(target))
        assert copied.get(b"a") == copied.get(b"z")
        assert ROWS.items() <= copied.items()
    await in_another_process(f"assert len(list(offline.dump(Path({str(tmp_path / 'store')!r}), b'row', b's'))) == 2000")
    await writing
    for refused in (offline.check, offline.compact):
        with pytest.raises(StoreLocked):
            refused(tmp_path / "store")
    await storage.close()


async def test_backup_opens_as_a_store(tmp_path: Path) -> None:
    await make(tmp_path / "store")
    offline.backup(tmp_path / "store", tmp_path / "backup")
    with pytest.raises(StorageError, match="holds a store already"):
        offline.backup(tmp_path / "store", tmp_path / "backup")
    storage = open_embedded(tmp_path / "backup")
    assert dict(await rows(storage)) == ROWS
    await put(storage, {b"more": b""})
    await storage.close()
    assert offline.check(tmp_path / "backup").version == 2


def test_backup_without_room_leaves_nothing(tmp_path: Path) -> None:
    asyncio.run(make(tmp_path / "store"))
    with file_size_limit(40_000), pytest.raises(StoreFull):
        offline.backup(tmp_path / "store", tmp_path / "backup")
    assert not (tmp_path / "backup" / "data.mdb").exists()


async def test_compact_gives_back_free_pages(tmp_path: Path) -> None:
    storage = open_embedded(tmp_path)

    async def grow_and_shrink(tx: Transaction) -> None:
        tx.clear_range(b"big", b"bih")

    await put(storage, {b"big-%d" % place: bytes(90_000) for place in range(50)})
    await storage.transact(grow_and_shrink)
    await put(storage, {b"k": b"v"})
    await storage.close()
    before, after = offline.compact(tmp_path)
    assert after < before / 20
    assert sorted(os.listdir(tmp_path)) == ["data.mdb", "windlass.lock"]
    again = open_embedded(tmp_path)
    assert await get(again, b"k") == b"v"
    await put(again, {b"k": b"w"})
    await again.close()
    assert offline.check(tmp_path).version == 4
