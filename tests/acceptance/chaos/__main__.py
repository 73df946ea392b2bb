"""`python -m tests.acceptance.chaos`: chaos sessions by seed, with a report of each.

--rounds N    rounds of a session
--seed S      of the first session; the next ones count up
--sessions N  how many
--store KIND  embedded, postgres, or both in turn
--keep DIR    where data and logs of failed sessions are kept
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from tests.acceptance.chaos.session import Report, session


def main() -> int:
    """Exit code 1 if a session failed."""
    asked = _arguments()
    logging.basicConfig(level="INFO", format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    reports = [_one(asked, number) for number in range(asked.sessions)]
    failed = sum(bool(report.problems) for report in reports)
    kills = sum(report.kills for report in reports)
    rounds = sum(report.rounds for report in reports)
    print(f"{len(reports)} sessions, {rounds} rounds, {kills} kill rounds, {failed} failed")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.acceptance.chaos")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--store", choices=("embedded", "postgres", "both"), default="embedded")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="where data and logs of failed sessions are kept")
    return parser.parse_args()


def _one(asked: argparse.Namespace, number: int) -> Report:
    seed = asked.seed + number
    shared = asked.store == "postgres" or (asked.store == "both" and seed % 2 == 0)
    folder = Path(tempfile.mkdtemp(prefix="windlass-chaos-"))
    report = asyncio.run(session(folder, seed, rounds=asked.rounds, shared=shared, workers=asked.workers))
    print(report, flush=True)
    if report.problems and asked.keep:
        shutil.copytree(folder, asked.keep / f"seed-{seed}", dirs_exist_ok=True)
    shutil.rmtree(folder)
    return report


if __name__ == "__main__":
    sys.exit(main())
