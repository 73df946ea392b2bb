"""One chaos session: a cluster, a load, rounds of faults, and the verdict."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from tests.acceptance.chaos.cluster import cluster
from tests.acceptance.chaos.load import Load
from tests.acceptance.chaos.nemesis import Nemesis
from tests.acceptance.chaos.verdict import judge

#: How long the runs that are open after the last round may take, in seconds.
FINISH_SECONDS: Final = 60.0


@dataclass
class Report:
    """What happened."""

    seed: int
    shared: bool
    rounds: int = 0
    kills: int = 0
    seconds: float = 0.0
    injected: dict[str, int] = field(default_factory=dict)
    figures: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        store = "two engines on PostgreSQL" if self.shared else "one engine on the embedded store"
        head = f"seed {self.seed}, {store}: {self.rounds} rounds, {self.kills} of them kills, in {self.seconds:.0f} s"
        facts = ", ".join(f"{name} {value}" for name, value in {**self.injected, **self.figures}.items())
        problems = "".join(f"\n  PROBLEM {problem}" for problem in self.problems)
        return f"{head}: {facts}: {'FAILED' if self.problems else 'ok'}{problems}"


async def session(
    folder: Path, seed: int, *, rounds: int = 0, seconds: float = 0.0, shared: bool = False, workers: int = 2
) -> Report:
    """`rounds` rounds, or as many as fit into `seconds`; then everything must end and be in order."""
    report, begun = Report(seed, shared), time.monotonic()
    async with cluster(folder, engines=2 if shared else 1, workers=workers, shared=shared) as running:
        load = Load(running.clients, Random(seed))
        nemesis = Nemesis(running, Random(seed))
        await load.register()
        load.start()
        try:
            while report.rounds < rounds or time.monotonic() - begun < seconds:
                await nemesis.round(load)
                report.rounds += 1
        except AssertionError as error:
            report.problems.append(str(error))
        await load.finish(FINISH_SECONDS)
        report.problems += await asyncio.to_thread(running.stop)
        problems, report.figures = await judge(running, load.record)
    report.problems += problems
    report.injected, report.kills = dict(nemesis.injected), nemesis.kills
    report.seconds = time.monotonic() - begun
    return report
