"""What a simulation is made of: everything follows from these few values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Final

#: Everything that can go wrong, by the name it has in plans and traces.
FAULTS: Final = (
    "crash_engine", "pause_engine", "stop_engine", "crash_worker", "pause_worker", "drain_worker", "partition", "lossy",
    "slow", "ghost", "skew", "conflicts", "forgotten", "unknown", "unavailable", "store_slow", "outage",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """One simulation. Equal plans run equally."""

    seed: int
    engines: int = 2
    workers: int = 3
    shared: bool = True
    runs: int = 25
    storm_s: float = 120.0  #: how long faults happen and clients call, in each round
    rounds: int = 2  #: storms, each followed by a calm in which all must come right
    every_s: float = 4.0  #: mean time between faults
    span_s: float = 60.0  #: the longest delays and timeouts of the definitions
    pace: float = 1.0  #: how much slower than in earnest the engines poll and renew leases: for long stretches
    faults: tuple[str, ...] = FAULTS

    def smaller(self) -> list[Plan]:
        """Plans to try when this one fails: fewer faults, fewer runs, fewer hosts."""
        found = [replace(self, faults=tuple(f for f in self.faults if f != fault)) for fault in self.faults]
        if len(self.faults) > 4:
            half = len(self.faults) // 2
            found = [replace(self, faults=self.faults[:half]), replace(self, faults=self.faults[half:]), *found]
        if self.runs > 1:
            found.insert(0, replace(self, runs=self.runs // 2))
        if self.workers > 1:
            found.append(replace(self, workers=self.workers - 1))
        if self.engines > 1:
            found.append(replace(self, engines=self.engines - 1))
        return found


def storm(seed: int) -> Plan:
    """A few minutes, in which much goes wrong."""
    random = Random(f"storm {seed}")
    shared = random.random() < 0.8
    # A store of one engine does not forget its answers.
    faults = [fault for fault in FAULTS if shared or fault != "forgotten"]
    return Plan(
        seed,
        engines=random.randint(1, 3) if shared else 1,
        workers=random.randint(1, 4),
        shared=shared,
        runs=random.choice([8, 25, 60]),
        storm_s=random.choice([30.0, 60.0, 150.0]),
        rounds=random.randint(1, 3),
        every_s=random.choice([2.0, 5.0, 15.0]),
        faults=tuple(random.sample(faults, random.choice([1, 2, 4, 8, len(faults)]))),
    )


def hunt(seed: int) -> Plan:
    """A short storm with everything in it: what the planted defects are looked for with."""
    return Plan(seed, engines=2, workers=2, runs=40, storm_s=60.0, rounds=1, every_s=3.0, span_s=20.0)


def long(seed: int, hours: float = 1000.0) -> Plan:
    """Weeks, in which runs wait for hours and days and something goes wrong now and then."""
    random = Random(f"long {seed}")
    shared = random.random() < 0.5
    return Plan(
        seed,
        engines=random.randint(1, 3) if shared else 1,
        workers=random.randint(1, 3),
        shared=shared,
        runs=60,
        storm_s=hours * 3600 * 0.8,
        rounds=1,
        span_s=hours * 3600 * 0.05,
        faults=tuple(fault for fault in FAULTS if shared or fault != "forgotten"),
        pace=600.0,
    )
