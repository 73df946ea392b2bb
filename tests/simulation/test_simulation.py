"""The simulation as CI runs it: fixed seeds, and weeks of waiting. Fresh seeds are for nights (docs/proof.md).

Each set is a process of its own, because only with a fixed hash seed does a simulation repeat exactly: a failure prints
the line that replays it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[2]


def simulated(*arguments: str, seconds: int = 590) -> str:
    """What `python -m tests.simulation` prints; the test fails with it if anything failed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(arguments)}:\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}")
    return done.stdout


#: The first seed of each set, and how many storms or hours it runs: sets take about as long as each other, so that all
#: cores have their share.
STORMS: Final = ((1, 6), (7, 6), (13, 6), (19, 6))
HOURS: Final = ((1, 2400), (4, 800), (5, 2400), (101, 2400), (104, 1600), (106, 1600))


@pytest.mark.long(15)
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("first", "count"), STORMS)
def test_storms_with_fixed_seeds(first: int, count: int) -> None:
    simulated("--first", str(first), "--storms", str(count))


@pytest.mark.long(20)
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("first", "hours"), HOURS)
def test_ten_thousand_hours(first: int, hours: int) -> None:
    assert " 0 failed" in simulated("--first", str(first), "--hours", str(hours))


def test_the_sets_come_to_ten_thousand_hours() -> None:
    assert sum(hours for _, hours in HOURS) >= 10_000


def test_the_same_seed_runs_the_same_way() -> None:
    one, other = (simulated("--seed", "5").splitlines()[0] for _ in range(2))
    assert one == other
