"""The extra measurements run to their end, small; what they found is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "backlog": ("--size", "100"),
    "open-waits": ("--size", "100", "--seconds", "0.2"),
    "cold-start": ("--size", "1"),
    "restart": ("--size", "100"),
    "long-history": ("--size", "1000"),
    "growth": ("--sizes", "50", "100", "--seconds", "0.2"),
    "eager": ("--size", "5"),
    "recovery": ("--size", "10", "--seconds", "0.2"),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_measurement_gives_its_figures(name: str, tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.extra", name, "--dir", str(tmp_path), "--json", str(file)]
    done = subprocess.run([*command, *SMALL[name]], cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(file.read_text())["rows"]
    assert {row["name"] for row in rows} == {name}
    assert all(row["what"] in done.stdout for row in rows)
