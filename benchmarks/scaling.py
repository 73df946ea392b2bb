"""`python -m benchmarks.scaling`: a model of many engines on one FoundationDB cluster, and the first limit they meet.

Two parts. *Demand and capacity*: what a step takes of each resource, as the code is, over what the resource has; the
least of the quotients is the throughput and names the limit. *Claims*: a small seeded simulation, because what many
engines get that take from one queue is no quotient.

It is a model: no cluster was there to measure. Inputs are figures of FoundationDB's documentation, of a trial on one
unoptimised server process, and of our own table; each can be changed, and `docs/scaling.md` says where it is from.
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from random import Random
from typing import Final, TypeAlias

from benchmarks.report import shown
from windlass.engine.claims import LOOK_AT_ALL_EVERY

ENGINES: Final = (1, 2, 4, 8, 16, 32)
HEAD: Final = ("engines", "steps/s", "first limit", "next limit", "at", "claims/s", "lost to conflicts")


@dataclass(frozen=True)
class Inputs:
    """What the model is given. Rates per second, times in µs unless they say ms."""

    #: CPU of an engine per step without the store, and what the store's client takes of the same thread.
    engine_us: float = 190
    transaction_us: float = 25
    read_us: float = 20
    #: Results that share a transaction (at most 16 on a shared store), and tasks that share a claim.
    results_per_transaction: float = 8
    tasks_per_claim: int = 10
    #: Share of tasks that go through the queue instead of straight to a worker with credit.
    queued: float = 0.1
    shards: int = 16
    #: One storage process; a team of replicas serves a key, all of them write it, each may read it.
    storage_writes: float = 20_000
    storage_reads: float = 55_000
    replicas: int = 3
    storage_processes: int = 24
    #: Commits that one process of the commit pipeline takes, and how many there are.
    pipeline_commits: float = 4_600
    pipeline_processes: int = 8
    #: Namespaces: each has a moving end of its own in the tables that lie in the order of run ids.
    namespaces: int = 1
    #: Topics an engine watches, and how often it looks at them while they change all the time.
    topics: int = 20
    feed_turns: float = 250
    read_ms: float = 0.7
    commit_ms: float = 3.0


@dataclass(frozen=True)
class Limit:
    """What a resource allows, in steps per second."""

    name: str
    steps: float


#: Place in a shard, and the shard.
Entry: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Claimed:
    """What the engines got from one queue."""

    per_second: float
    conflicts: float  #: share of attempts


def claims(inputs: Inputs, engines: int, seed: int, seconds: float = 5.0) -> Claimed:
    """Engines that claim from one queue that is never empty.

    As `engine/claims.py`: look at its own shards side by side, every fourth time at all of them, take the first by age,
    read the entries, then their runs, commit. Who finds at the commit that an entry was taken meanwhile tries again
    with those that are left of the same look.
    """
    random = Random(seed)
    taken_at: dict[Entry, float] = {}
    heads = [0] * inputs.shards
    done = attempts = conflicts = 0
    looks = [0] * engines
    #: When an attempt commits, its engine, when it began to read, and its entries.
    under_way: list[tuple[float, int, float, list[Entry]]] = []

    def begin(at: float, engine: int, entries: list[Entry], looking: bool) -> None:
        # The slowest of reads that go out together: the look, the entries, their runs.
        took = sum(random.uniform(1.0, 2.0) for _ in range(3 if looking else 2)) * inputs.read_ms / 1000
        heapq.heappush(under_way, (at + took + inputs.commit_ms / 1000, engine, at, entries))

    def look(at: float, engine: int) -> None:
        looks[engine] += 1
        everywhere = looks[engine] % LOOK_AT_ALL_EVERY == 0
        shards = [s for s in range(inputs.shards) if everywhere or s % engines == engine % inputs.shards]
        begin(at, engine, first_of(shards or range(inputs.shards), heads, taken_at, inputs.tasks_per_claim), True)

    for engine in range(engines):
        look(random.uniform(0, 0.03), engine)
    while under_way and under_way[0][0] < seconds:
        now, engine, began, entries = heapq.heappop(under_way)
        attempts += 1
        left = [entry for entry in entries if entry not in taken_at]
        if len(left) < len(entries) and any(taken_at.get(entry, 0) > began for entry in entries):
            conflicts += 1
            begin(now + random.uniform(0, 0.01), engine, left, looking=False)
            continue
        taken_at.update(dict.fromkeys(left, now))
        done += len(left)
        look(now, engine)
    return Claimed(done / seconds, conflicts / max(attempts, 1))


def first_of(shards: Iterable[int], heads: list[int], taken: Mapping[Entry, float], number: int) -> list[Entry]:
    """The oldest entries of these shards; runs are spread over the shards evenly, so a place is an age."""
    found: list[Entry] = []
    for shard in shards:
        while (heads[shard], shard) in taken:
            heads[shard] += 1
        place, mine = heads[shard], 0
        while mine < number:
            if (place, shard) not in taken:
                found.append((place, shard))
                mine += 1
            place += 1
    return heapq.nsmallest(number, found)


def limits(inputs: Inputs, engines: int, claimed: Claimed) -> list[Limit]:
    """Every resource, the tightest first."""
    q = inputs.queued
    transactions = 1 / inputs.results_per_transaction + q / inputs.tasks_per_claim
    at_all = 1 / LOOK_AT_ALL_EVERY
    looked_at = inputs.shards * (at_all + (1 - at_all) / engines)
    reads = 1 + 2 * q + q * looked_at / inputs.tasks_per_claim
    cpu_us = inputs.engine_us * (1 + q) + transactions * inputs.transaction_us + reads * inputs.read_us
    #: The run's record, its events, its lease set and the last one cleared; again for a claim, and the queue's entry.
    writes = 4 + 5 * q
    #: Counters that other engines watch: a bucket of sixteen for each run of a transaction, the queue's.
    n = inputs.results_per_transaction
    bumps = 16 * (1 - (15 / 16) ** n) / n + 2 * q
    found = [
        Limit("engine CPU", engines * 1e6 / cpu_us),
        Limit("moving end of the run table", inputs.namespaces * inputs.storage_writes / (1 + q)),
        Limit("watched counters, writes", inputs.storage_writes / bumps),
        Limit(
            "storage write bandwidth",
            inputs.storage_processes * inputs.storage_writes / inputs.replicas / (writes + bumps),
        ),
        Limit("commit pipeline", inputs.pipeline_processes * inputs.pipeline_commits / transactions),
    ]
    if q:
        found.append(Limit("head of one queue", claimed.per_second / q))
    return sorted(found, key=lambda limit: limit.steps)


def watchers(inputs: Inputs) -> int:
    """Engines that can look at the watched counters as often as they would; with more, each looks less often."""
    return int(inputs.replicas * inputs.storage_reads / (inputs.feed_turns * inputs.topics))


def lines(inputs: Inputs, seed: int) -> list[list[str]]:
    """The table: a line for each number of engines."""
    made = []
    for engines in ENGINES:
        claimed = claims(inputs, engines, seed)
        first, second, *_ = limits(inputs, engines, claimed)
        rates = f"{first.steps:,.0f}", first.name, second.name, f"{second.steps:,.0f}"
        made.append([str(engines), *rates, f"{claimed.per_second:,.0f}", f"{claimed.conflicts:.0%}"])
    return made


def main() -> None:
    """Compute and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=(__doc__ or "").split("\n\n")[0])
    for field in fields(Inputs):
        kind = int if field.type == "int" else float
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the inputs and the table")
    parser.add_argument("--markdown", action="store_true", help="print the table for a page")
    options = parser.parse_args()
    inputs = Inputs(**{field.name: getattr(options, field.name) for field in fields(Inputs)})
    table = lines(inputs, options.seed)
    print(shown(HEAD, table, for_page=options.markdown))
    print(f"\nthe counters' team serves {watchers(inputs)} engines that look {inputs.feed_turns:g} times a second")
    if options.json:
        found = {"inputs": asdict(inputs), "seed": options.seed, "head": HEAD, "lines": table}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
