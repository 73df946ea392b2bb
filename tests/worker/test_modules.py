"""Task code by digest: fetched once, kept in private, never believed."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from windlass.runtimes.port import digest_of
from windlass.worker.journal import Journal
from windlass.worker.modules import ModuleCache, ModuleUnusable

CODE = b"1 + 1"
DIGEST = digest_of(CODE)


class Source:
    """An engine's modules, counting who asks."""

    def __init__(self, code: bytes = CODE) -> None:
        self.code = code
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, digest: str) -> bytes:
        self.asked += 1
        await self.gate.wait()
        return self.code


async def refuse(digest: str) -> bytes:
    raise AssertionError(f"{digest} should have been at hand")


async def test_many_tasks_that_need_one_module_fetch_it_once(tmp_path: Path) -> None:
    cache, source = ModuleCache(tmp_path / "modules", Journal()), Source()
    source.gate.clear()
    waiting = [asyncio.create_task(cache.get(DIGEST, source)) for _ in range(5)]
    await asyncio.sleep(0)
    source.gate.set()
    assert await asyncio.gather(*waiting) == [CODE] * 5
    assert source.asked == 1
    assert cache.at_hand(DIGEST) == CODE


async def test_a_waiter_that_is_cancelled_does_not_take_the_module_from_the_others(tmp_path: Path) -> None:
    cache, source = ModuleCache(tmp_path, Journal()), Source()
    source.gate.clear()
    first = asyncio.create_task(cache.get(DIGEST, source))
    second = asyncio.create_task(cache.get(DIGEST, source))
    await asyncio.sleep(0)
    first.cancel()
    source.gate.set()
    assert await second == CODE


async def test_a_restart_finds_it_on_disk_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "modules"
    await ModuleCache(folder, Journal()).get(DIGEST, Source())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert await ModuleCache(folder, Journal()).get(DIGEST, refuse) == CODE


async def test_a_file_that_was_changed_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / DIGEST).write_bytes(b"evil()")
    source = Source()
    assert await ModuleCache(tmp_path, Journal()).get(DIGEST, source) == CODE
    assert source.asked == 1
    assert (tmp_path / DIGEST).read_bytes() == CODE


async def test_bytes_of_another_digest_are_refused_and_not_kept(tmp_path: Path) -> None:
    cache = ModuleCache(tmp_path, Journal())
    with pytest.raises(ModuleUnusable, match="another digest"):
        await cache.get(DIGEST, Source(b"evil()"))
    assert not (tmp_path / DIGEST).exists()
    assert cache.at_hand(DIGEST) is None


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
async def test_a_name_that_is_no_digest_never_becomes_a_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(ModuleUnusable, match="not the sha256"):
        await ModuleCache(tmp_path, Journal()).get(digest, refuse)


async def test_memory_holds_what_was_used_last(tmp_path: Path) -> None:
    cache = ModuleCache(None, Journal(), memory_bytes=25)
    codes = [bytes([letter]) * 10 for letter in b"abc"]
    for code in codes:
        await cache.get(digest_of(code), Source(code))
        cache.at_hand(digest_of(codes[0]))
    assert [cache.at_hand(digest_of(code)) is not None for code in codes] == [True, False, True]


async def test_a_disk_that_cannot_be_written_costs_speed_not_tasks(tmp_path: Path) -> None:
    folder = tmp_path / "modules"
    cache = ModuleCache(folder, Journal())
    shutil.rmtree(folder)
    assert await cache.get(DIGEST, Source()) == CODE


async def test_a_file_that_cannot_be_read_costs_speed_not_tasks(tmp_path: Path) -> None:
    (tmp_path / DIGEST).mkdir()  # as a disk that fails, a limit of open files, or rights that somebody changed
    assert await ModuleCache(tmp_path, Journal()).get(DIGEST, Source()) == CODE
