"""`kill -9` in the middle of group commits, many times over one store: what was acknowledged is there, whole, and
nothing is half.

It does not test the sync itself, for what a killed process wrote is in the kernel's hands; that a commit is synced
before it is acknowledged is LMDB's documented order, and `test_commit_is_synced_before_it_is_acknowledged` looks at
the calls.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from shutil import which

import pytest

from tests.storage import crash_load
from tests.storage.bodies import get, number, rows
from windlass.storage import offline
from windlass.storage.opening import open_embedded

ROUNDS = 12
PROGRAM = Path(crash_load.__file__)


def run_until_killed(directory: Path, first: int, acknowledged: int) -> list[int]:
    """Start the load, kill it after so many acknowledgements; returns all that came out."""
    process = subprocess.Popen([sys.executable, str(PROGRAM), str(directory), str(first)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(acknowledged)]
    process.kill()
    lines += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    return [int(line) for line in lines if line.endswith(b"\n")]


async def whole_transactions(directory: Path) -> set[int]:
    """The ids of the transactions in the store, after checking that each is whole and counted and in the log once."""
    storage = open_embedded(directory)
    found = Counter(int(key.split(b"/")[1]) for key, _ in await rows(storage, b"row/", b"row0"))
    assert set(found.values()) <= {crash_load.ROWS}
    assert number(await get(storage, b"count")) == len(found)
    log = [int(value) for _, value in await rows(storage, b"log/", b"log0")]
    assert sorted(log) == sorted(found)
    await storage.close()
    return set(found)


def test_killed_again_and_again(tmp_path: Path) -> None:
    random = Random(11)
    acknowledged: set[int] = set()
    for turn in range(ROUNDS):
        acknowledged.update(run_until_killed(tmp_path, 100_000 * turn, random.randint(1, 400)))
        assert acknowledged <= asyncio.run(whole_transactions(tmp_path))
    offline.check(tmp_path)


ONE_COMMIT = """
import asyncio, os, sys
from windlass.storage.opening import open_embedded
async def main():
    storage = open_embedded(sys.argv[1])
    async def body(tx): tx.set(b"k", b"v")
    os.write(1, b"asked")
    await storage.transact(body)
    os.write(1, b"acknowledged")
    await storage.close()
asyncio.run(main())
"""


@pytest.mark.skipif(which("strace") is None, reason="strace is not installed")
def test_commit_is_synced_before_it_is_acknowledged(tmp_path: Path) -> None:
    """The pages, a sync, and the page that refers to them through a file that syncs each write; then the answer."""
    trace = tmp_path / "trace"
    watched = "trace=openat,fdatasync,pwrite64,pwritev,write,writev"
    traced = [sys.executable, "-c", ONE_COMMIT, str(tmp_path / "store")]
    ran = subprocess.run(["strace", "-f", "-e", watched, "-o", trace, *traced], capture_output=True, text=True)
    if "ptrace" in ran.stderr:
        pytest.skip(f"strace may not trace here: {ran.stderr.strip()}")
    before, _, _ = trace.read_text().partition('"acknowledged"')
    root = re.search(r"data\.mdb\", [^)]*O_DSYNC[^)]*\) = (\d+)", before)
    assert root
    calls = re.findall(r"(?:fdatasync|pwrite64|pwritev|writev|write)\(\d+", before.partition('"asked"')[2])
    kinds = ["root" if call == f"pwrite64({root[1]}" else call.split("(")[0] for call in calls]
    assert re.search(r"p?write(64|v) fdatasync root", " ".join(kinds))


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """What was synced by name: the program's own calls, not LMDB's, which syncs its file only."""
    found: set[Path] = set()
    fsync = os.fsync

    def seen(file: int) -> None:
        found.add(Path(os.readlink(f"/proc/self/fd/{file}")))
        fsync(file)

    monkeypatch.setattr(os, "fsync", seen)
    return found


async def test_names_of_a_new_store_outlive_a_loss_of_power(tmp_path: Path, synced: set[Path]) -> None:
    """A file that is synced can still lose its name, if the directory is not."""
    storage = open_embedded(tmp_path / "new" / "store")
    assert {tmp_path, tmp_path / "new", tmp_path / "new" / "store"} <= synced
    await storage.close()


async def test_names_of_a_backup_outlive_a_loss_of_power(tmp_path: Path, synced: set[Path]) -> None:
    await open_embedded(tmp_path / "store").close()
    synced.clear()
    offline.backup(tmp_path / "store", tmp_path / "new" / "copy")
    copy = tmp_path / "new" / "copy"
    assert {tmp_path, tmp_path / "new", copy, copy / "data.mdb"} <= synced
