"""The scripts that measure run and write what they found; what they found is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import Row, Target, aligned, markdown

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> str:
    """A script to its end. Fails with what it said."""
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("runtime", "storage"), [("javascript", ""), ("wasm", "memory:"), ("python", "")])
def test_the_main_table(runtime: str, storage: str, tmp_path: Path) -> None:
    lines = "w1-unary-1,w1-batch-64,w3-batch-4"
    small = ("--seconds", "0.2", "--windows", "1", "--only", lines, "--dir", str(tmp_path))
    file = tmp_path / "found.json"
    said = run("benchmarks", *small, "--runtime", runtime, "--storage", storage, "--json", str(file))
    found = json.loads(file.read_text())
    assert [(row["shape"], row["way"], row["in_flight"]) for row in found["rows"]] == [
        ("w1", "unary", 1),
        ("w1", "batch", 64),
        ("w3", "batch", 4),
    ]
    assert all(row["workflows_per_second"] > 0 and row["failed"] == 0 for row in found["rows"])
    assert all((row["transactions"] > 0) == (storage == "") for row in found["rows"])
    assert {"date", "processor", "cores", "versions", "syncs_per_second"} <= found.keys()
    assert "engine µs" in said


def test_a_target_is_met_or_missed() -> None:
    row = Row("w1", "batch", 256, workflows_per_second=3000.0, engine_us=120.5)
    assert Target("workflows_per_second", 3000, least=True).verdict(row) == "≥3,000/s ok"
    assert Target("engine_us", 120).verdict(row) == "≤120 µs MISS"


def test_tables_for_people_and_for_pages() -> None:
    head, rows = ("name", "n", "unused"), (("a", "12", "0"), ("long", "3", "0"))
    assert aligned(head, rows) == "name   n\na     12\nlong   3"
    assert markdown(head, rows).splitlines()[1:3] == ["| --- | --- | --- |", "| a | 12 | 0 |"]
