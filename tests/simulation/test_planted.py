"""Planted defects: a suite that sees none of them would prove nothing by being green."""

from __future__ import annotations

import pytest

from tests.simulation.planted import DEFECTS
from tests.simulation.test_simulation import simulated


@pytest.mark.long(12)
@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_caught(name: str) -> None:
    assert simulated("--plant", name, "--within", "16", seconds=110).startswith("caught")
