"""A disk that is full, and one that is slow, under an engine at work: what was accepted stays, what is not is said."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest

from tests.acceptance.chaos.cluster import Cluster, cluster
from tests.acceptance.chaos.load import Load
from tests.acceptance.chaos.verdict import judge
from windlass.client import WindlassError

#: The small disk, and what it is given in the end.
SMALL, LARGE = "6m", "64m"
#: Every sync takes as long, in µs.
SYNC_US: Final = 150_000

_SHIM: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
static int late(const char *name, int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, name);
    usleep(%d);
    return real(fd);
}
int fsync(int fd) { return late("fsync", fd); }
int fdatasync(int fd) { return late("fdatasync", fd); }
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.timeout(240)
async def test_a_full_disk_refuses_new_work_and_loses_none(small_disk: Path) -> None:
    async with cluster(small_disk, engines=1, workers=1, shared=False) as running:
        load = Load(running.clients, Random(1), authors=4)
        await load.register()
        load.start()
        assert await load.progressed(5, 60)
        await _fill(running)
        await asyncio.to_thread(_enlarge, small_disk)
        assert await load.progressed(20, 60), running.engines[0].said[-3000:]
        await load.finish(60)
        assert running.engines[0].starts == 1
        assert not await asyncio.to_thread(running.stop)
        problems, _ = await judge(running, load.record, beside="big")
    assert not problems


def _enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={LARGE}", str(disk)], check=True)


async def _fill(running: Cluster) -> None:
    """Start runs with large inputs until there is no room; the refusal says so."""
    refusal = ""
    for number in range(1000):
        if refusal := await _refusal(running, f"big-{number}"):
            break
    assert refusal == "STORE_FULL"


async def _refusal(running: Cluster, name: str) -> str:
    try:
        await running.clients[0].start("cancelled", {"n": 0, "ballast": "x" * 100_000}, workflow_id=name)
    except WindlassError as refused:
        return refused.reason
    return ""


@pytest.fixture
def slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder; every sync of the programs started from here takes SYNC_US more."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("slowing the disk down needs a C compiler")
    source, shim = tmp_path / "slow.c", tmp_path / "slow.so"
    source.write_text(_SHIM % SYNC_US)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    monkeypatch.setenv("LD_PRELOAD", os.fspath(shim))
    return tmp_path


@pytest.mark.long(20)
@pytest.mark.timeout(240)
async def test_a_slow_disk_delays_and_loses_nothing(slow_disk: Path) -> None:
    """The engine must still batch, keep its workers, and end what it was given."""
    async with cluster(slow_disk, engines=1, workers=1, shared=False) as running:
        load = Load(running.clients, Random(1))
        await load.register()
        load.start()
        assert await load.progressed(15, 90)
        running.engines[0].kill()
        running.revive()
        assert await load.progressed(10, 90)
        await load.finish(60)
        assert not await asyncio.to_thread(running.stop)
        problems, _ = await judge(running, load.record)
    assert not problems
