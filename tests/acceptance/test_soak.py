"""A mixed load that goes on: memory of engine and worker stays flat, and what has outlived its time leaves the store.

In its first minute an engine grows by some MB: caches with a bound fill, and its collector looks for cycles seldom. The
bounds here allow for that; five minutes and more show the plateau.

How long: WINDLASS_SOAK_SECONDS (default 30); for hours, set it to hours and --timeout to more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import pytest

from benchmarks.processes import children, rss_mb
from tests.acceptance.chaos.cluster import Cluster, cluster
from tests.acceptance.chaos.load import Load
from windlass.client import Client
from windlass.definition.source import from_value
from windlass.engine import keys
from windlass.engine.checking import check_rows
from windlass.storage import offline

SECONDS: Final = float(os.environ.get("WINDLASS_SOAK_SECONDS", "30"))
NAMESPACE: Final = "soak"
#: How long closed runs are kept, and how often it is looked, in seconds.
RETENTION: Final = 2.0
SWEEP: Final = 0.5
#: What memory may grow by from the second quarter of the time to the last, in MB and as a share.
GROWTH_MB, GROWTH_SHARE = 2.0, 0.03
#: Runs before the measuring, in batches: caches with a bound are full then, and what still grows is a leak.
WARM_UP: Final = (10, 1000)
#: Rows that are there for other reasons than runs, or for a day: answers to repeated requests.
_KEPT: Final = {
    "NAMESPACE",
    "DEFINITION",
    "REVISION",
    "MODULE",
    "REQUEST",
    "EXPIRY",
    "SESSION",
    "STEP_TYPE",
    "ENGINE",
    "OPEN",
}
_NAMES: Final = dict(keys.TABLES)


@dataclass
class Samples:
    """What was measured, second by second."""

    engine_mb: list[float] = field(default_factory=list)
    workers_mb: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  #: of runs, closed and open

    def take(self, running: Cluster) -> None:
        """Measure now."""
        self.engine_mb.append(sum(rss_mb(each.pid) for each in running.engines))
        self.workers_mb.append(sum(rss_mb(pid) for each in running.workers for pid in children(each.pid)))
        self.rows.append(sum(count for table, count in tables(running).items() if table not in _KEPT))


def tables(running: Cluster) -> Counter[str]:
    """Rows per table."""
    return Counter(str(_NAMES[int(str(keys.unpack(key)[0]))]) for key, _ in offline.dump(running.folder / "data"))


def growth(values: list[float]) -> float:
    """From the median of the second quarter to that of the last."""
    quarter = max(1, len(values) // 4)
    return statistics.median(values[-quarter:]) - statistics.median(values[quarter : 2 * quarter])


@contextlib.asynccontextmanager
async def soaked(folder: Path) -> AsyncIterator[tuple[Cluster, Client]]:
    """One engine that sweeps often, one worker, and a namespace that keeps nothing for long."""
    options = ("--sweep-seconds", str(SWEEP))
    made = cluster(
        folder,
        engines=1,
        workers=1,
        shared=False,
        engine_options=options,
        namespace=NAMESPACE,
        retention=RETENTION,
    )
    async with made as running:
        yield running, running.clients[0].in_namespace(NAMESPACE)


@pytest.mark.long(43)
@pytest.mark.timeout(SECONDS + 180)
async def test_memory_is_flat_and_the_store_keeps_no_more_than_it_was_told_to(tmp_path: Path) -> None:
    samples = Samples()
    async with soaked(tmp_path) as (running, client):
        load = Load([client], Random(1))
        await load.register()
        await _warm_up(client)
        load.start()
        for _ in range(int(SECONDS)):
            await asyncio.sleep(1)
            samples.take(running)
        await load.finish(30)
        assert not await _kept(client, 30), (await client.count(), running.engines[0].said[-3000:])
        left = {table: count for table, count in tables(running).items() if table not in _KEPT}
        assert not running.stop()
    assert not load.record.refusals
    assert load.record.ended > SECONDS
    print(f"{load.record.ended} runs: engine {samples.engine_mb}, workers {samples.workers_mb}, rows {samples.rows}")
    for name, values in (("engine", samples.engine_mb), ("workers", samples.workers_mb)):
        most = GROWTH_MB + GROWTH_SHARE * values[len(values) // 2]
        assert growth(values) < most, f"the {name}'s memory grows: {values}"
    assert growth([float(rows) for rows in samples.rows]) < statistics.median(samples.rows), samples.rows
    assert not left, "rows of runs that are gone"
    with offline.Reader(tmp_path / "data") as reader:
        assert not check_rows(reader.rows)


async def _warm_up(client: Client) -> None:
    await client.register(from_value({"workflow": "instant", "initial": "end", "states": {"end": {}}}))
    batches, size = WARM_UP
    for batch in range(batches):
        await client.start_many(
            [client.start_request("instant", workflow_id=f"warm-{batch}-{number}") for number in range(size)]
        )


async def _kept(client: Client, seconds: float) -> int:
    """How many runs there are still, when there are none any more or the time is over."""
    end = asyncio.get_running_loop().time() + seconds
    while kept := sum((await client.count()).values()):
        if asyncio.get_running_loop().time() > end:
            break
        await asyncio.sleep(SWEEP)
    return kept
