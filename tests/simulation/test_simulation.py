"""The simulation as CI runs it: fixed seeds, a few fresh ones, and weeks of waiting.

Each set is a process of its own, because only with a fixed hash seed does a simulation repeat exactly: a failure prints
the line that replays it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def simulated(*arguments: str, seconds: int = 170) -> str:
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


@pytest.mark.timeout(180)
def test_storms_with_fixed_seeds() -> None:
    print(simulated("--first", "1", "--storms", "24"))


@pytest.mark.timeout(180)
def test_storms_with_fresh_seeds() -> None:
    print(simulated("--first", str(random.SystemRandom().randrange(1_000, 1_000_000)), "--storms", "4"))


@pytest.mark.timeout(240)
def test_ten_thousand_hours() -> None:
    assert "0 failed" in simulated("--first", "1", "--hours", "10000", seconds=230)


def test_the_same_seed_runs_the_same_way() -> None:
    one, other = (simulated("--seed", "5").splitlines()[0] for _ in range(2))
    assert one == other
