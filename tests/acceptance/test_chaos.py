"""Kill -9, frozen processes, cut and hanging connections, on both kinds of store; then nothing is lost or doubled.

How long: WINDLASS_CHAOS_SECONDS per store (default 30). Which faults: WINDLASS_CHAOS_SEED (default 1). Long sessions:
`python -m tests.acceptance.chaos`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.chaos.session import session
from tests.storage.backends_postgres import missing

SECONDS: Final = float(os.environ.get("WINDLASS_CHAOS_SECONDS", "30"))
SEED: Final = int(os.environ.get("WINDLASS_CHAOS_SEED", "1"))


@pytest.mark.long(34)
@pytest.mark.timeout(SECONDS + 240)
async def test_one_engine_on_the_embedded_store_loses_nothing(tmp_path: Path) -> None:
    report = await session(tmp_path, SEED, seconds=SECONDS)
    assert not report.problems, str(report)
    assert report.kills


@pytest.mark.long(38)
@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.skipif(bool(missing()), reason=missing())
async def test_two_engines_on_postgres_lose_nothing(tmp_path: Path) -> None:
    report = await session(tmp_path, SEED, seconds=SECONDS, shared=True)
    assert not report.problems, str(report)
    assert report.kills
