"""Each scenario file says what happens; see `scenarios.py` for how to read and rewrite them."""

from __future__ import annotations

import pytest

from tests.core.scenarios import FOLDER, play

FILES = sorted(path.name for path in FOLDER.glob("*.txt"))


@pytest.mark.parametrize("name", FILES)
def test_scenario(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert "".join(play(text)) == text, "if this is meant: python -m tests.core.scenarios --rewrite, and read the diff"


def test_there_are_scenarios() -> None:
    assert len(FILES) >= 12
