"""What a store costs: python -m benchmarks.storage [--backend NAME] [--json FILE]

A logical transaction is three gets, a range of at most five rows, and six sets of 200 bytes, over 100,000 rows. Keys
are picked at random, the worst case for a store of pages, or run in order as the engine's ids do. The rate of bare 4
kB overwrites with `fdatasync` in the same directory is measured right before and after each figure and stands beside
it: on a shared machine a figure means little without it. CPU is this process's, so a server's is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from windlass.storage.opening import open_embedded, open_memory
from windlass.storage.port import Storage, Transaction

ROWS = 100_000
VALUE = bytes(200)
LOOKED, WRITTEN = 3, 6
SYNC_SECONDS = 0.3
#: What was promised for a machine with two virtual cores; printed beside what was found.
GOALS = {
    "random keys, 256 in flight": "5,000/s and 100 µs of CPU",
    "one at a time": "1.5 x a bare fdatasync + 0.5 ms",
    "a million rows": "200 MB of own memory",
}

Pick = Callable[[int], list[bytes]]


@dataclass
class Figure:
    """One line of the table. Times in microseconds; zero where it does not apply."""

    name: str
    per_second: float = 0.0
    cpu_us: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    own_memory_mb: float = 0.0
    #: Bare 4 kB overwrite and fdatasync beside it.
    sync_per_second: float = 0.0
    sync_p50_us: float = 0.0


def bare_syncs(directory: Path, seconds: float = SYNC_SECONDS) -> list[float]:
    """How long overwriting 4 kB of a file and syncing it takes, each time, in seconds."""
    file = os.open(directory / "bare", os.O_RDWR | os.O_CREAT)
    os.pwrite(file, bytes(1 << 20), 0)
    os.fsync(file)
    times: list[float] = []
    ends = time.perf_counter() + seconds
    while (began := time.perf_counter()) < ends:
        os.pwrite(file, bytes(4096), 4096 * (len(times) % 256))
        os.fdatasync(file)
        times.append(time.perf_counter() - began)
    os.close(file)
    return times


def random_keys(count: int) -> list[bytes]:
    return [b"k%08d" % random.randrange(ROWS) for _ in range(count)]


def ordered_keys() -> Pick:
    """Six new keys at a time behind the last, and reads of three that were written a while ago:

    As the engine's runs do.
    """
    place = itertools.count(6 * 1024, 6)

    def pick(count: int) -> list[bytes]:
        first = next(place) if count == WRITTEN else random.randrange(6 * 1024)
        return [b"o%08d" % (first + offset) for offset in range(count)]

    return pick


async def one(storage: Storage, pick: Pick) -> None:
    looked, written = pick(LOOKED), pick(WRITTEN)

    async def body(tx: Transaction) -> None:
        gets = [tx.get(key) for key in looked]
        rows = tx.get_range(looked[0], b"p", limit=5)
        for get in gets:
            await get
        await rows
        for key in written:
            tx.set(key, VALUE)

    await storage.transact(body)


async def look(storage: Storage, pick: Pick) -> None:
    looked = pick(LOOKED)

    async def body(tx: Transaction) -> None:
        gets = [tx.get(key) for key in looked]
        for get in gets:
            await get
        await tx.get_range(looked[0], b"p", limit=5)

    await storage.read(body)


Call = Callable[[Storage, Pick], object]


async def measure(name: str, storage: Storage, call: Call, pick: Pick, in_flight: int, seconds: float) -> Figure:
    """Keep so many calls in flight for so long."""
    times: list[float] = []
    ends = time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < ends:
            await call(storage, pick)  # type: ignore[misc]
            times.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    times.sort()
    return Figure(
        name,
        per_second=len(times) / took,
        cpu_us=1e6 * cpu / len(times),
        p50_us=1e6 * times[len(times) // 2],
        p99_us=1e6 * times[len(times) * 99 // 100],
    )


async def load(storage: Storage, rows: int, table: bytes = b"k") -> None:
    for first in range(0, rows, 2000):

        async def body(tx: Transaction, first: int = first) -> None:
            for place in range(first, min(first + 2000, rows)):
                tx.set(b"%s%08d" % (table, place), VALUE)

        await storage.transact(body)


def own_memory_mb() -> float:
    """This process's memory that is not a mapped file."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1024


@contextlib.asynccontextmanager
async def opened(backend: str, url: str, directory: Path) -> AsyncIterator[Storage]:
    with contextlib.ExitStack() as stack:
        storage = await _open(backend, url, directory, stack)
        try:
            yield storage
        finally:
            await storage.close()


async def _open(backend: str, url: str, directory: Path, stack: contextlib.ExitStack) -> Storage:
    if backend == "memory":
        return open_memory()
    if backend == "postgres":
        from windlass.storage.postgres import open_postgres

        return await open_postgres(url or _postgres(stack))
    if backend == "foundationdb":
        from windlass.storage.foundationdb_open import open_foundationdb_url

        return await open_foundationdb_url(url)
    return open_embedded(directory / "store", strict=backend == "strict")


def _postgres(stack: contextlib.ExitStack) -> str:
    """A server of our own for the time, which syncs as one in production does."""
    from tests.storage.postgres_server import PostgresServer

    server = PostgresServer(fsync=True)
    server.start()
    stack.callback(server.stop)
    return server.url()


async def figures(backend: str, url: str, directory: Path, seconds: float, million: bool) -> AsyncIterator[Figure]:
    async with opened(backend, url, directory) as storage:
        await load(storage, ROWS)
        yield await measure("one at a time", storage, one, random_keys, 1, seconds)
        for in_flight in (16, 64, 256):
            name = f"random keys, {in_flight} in flight"
            yield await measure(name, storage, one, random_keys, in_flight, seconds)
        await load(storage, 8 * 1024, b"o")
        yield await measure("ordered keys, 256 in flight", storage, one, ordered_keys(), 256, seconds)
        yield await measure("read only, 3 gets and a range", storage, look, random_keys, 16, seconds / 2)
        if million:
            await load(storage, 1_000_000)
            figure = await measure("a million rows", storage, one, random_keys, 256, seconds)
            figure.own_memory_mb = own_memory_mb()
            yield figure


def with_syncs(figure: Figure, syncs: list[float]) -> Figure:
    figure.sync_per_second = len(syncs) / sum(syncs)
    figure.sync_p50_us = 1e6 * statistics.median(syncs)
    return figure


def lines(figure: Figure) -> Iterator[str]:
    memory = f"{figure.own_memory_mb:,.0f} MB own memory" if figure.own_memory_mb else ""
    yield (
        f"{figure.name:32} {figure.per_second:>8,.0f}/s {figure.cpu_us:>6,.0f} µs CPU"
        f"   p50 {figure.p50_us:>7,.0f} µs   p99 {figure.p99_us:>7,.0f} µs"
        f"   | fdatasync {figure.sync_per_second:>6,.0f}/s, p50 {figure.sync_p50_us:>5,.0f} µs  {memory}"
    )
    if goal := GOALS.get(figure.name):
        extra = ""
        if figure.name == "one at a time":
            extra = f" = {1.5 * figure.sync_p50_us + 500:,.0f} µs here"
        yield f"{'':32} goal: {goal}{extra}"


async def run(options: argparse.Namespace, directory: Path) -> list[Figure]:
    found: list[Figure] = []
    before = bare_syncs(directory)
    print(f"store: {options.backend}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    async for figure in figures(options.backend, options.url, directory, options.seconds, options.million):
        after = bare_syncs(directory)
        found.append(with_syncs(figure, before + after))
        print("\n".join(lines(figure)), flush=True)
        before = after
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    backends = ["embedded", "strict", "memory", "postgres", "foundationdb"]
    parser.add_argument("--backend", choices=backends, default="embedded")
    parser.add_argument("--url", default="", help="where the server is, for postgres and foundationdb")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--million", action="store_true", help="also with a million rows, and the memory that takes")
    parser.add_argument("--directory", type=Path, help="on the disk to measure (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="windlass-bench-", dir=options.directory))
    try:
        found = uvloop.run(run(options, directory))
    finally:
        shutil.rmtree(directory)
    if options.json:
        report = {"backend": options.backend, "figures": [asdict(figure) for figure in found]}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
