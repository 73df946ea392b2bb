"""The simulation as CI runs it: fixed seeds, and weeks of waiting. Fresh seeds are for nights (docs/proof.md).

Each set is a process of its own, because only with a fixed hash seed does a simulation repeat exactly: a failure prints
the line that replays it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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


def side_by_side(*sets: tuple[str, ...], seconds: int = 170) -> list[str]:
    """Each set in a process of its own, at the same time: a simulation keeps one core busy, and CI has two."""
    with ThreadPoolExecutor(len(sets)) as threads:
        return list(threads.map(lambda arguments: simulated(*arguments, seconds=seconds), sets))


@pytest.mark.timeout(180)
def test_storms_with_fixed_seeds() -> None:
    print(*side_by_side(("--first", "1", "--storms", "12"), ("--first", "13", "--storms", "12")))


@pytest.mark.timeout(240)
def test_ten_thousand_hours() -> None:
    halves = side_by_side(("--first", "1", "--hours", "5000"), ("--first", "101", "--hours", "5000"), seconds=230)
    assert all(" 0 failed" in half for half in halves)


def test_the_same_seed_runs_the_same_way() -> None:
    one, other = (simulated("--seed", "5").splitlines()[0] for _ in range(2))
    assert one == other
