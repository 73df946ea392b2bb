"""Code that reaches for what it may not have: a real engine, a real worker, and the command line tell of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.programs import Terminal, engine
from tests.runtimes.guests import BURGLAR, assemble

DOCUMENT = """
workflow: burglar
initial: only
states:
  only: {task: {runtime: wasm, module: ./burglar.wasm}, output: found}
"""
OUTWARD = """
workflow: outward
initial: only
states:
  only:
    task: {runtime: python, handler: http.request}
    input: {static: {url: "http://169.254.169.254/latest"}}
"""


def test_refused_calls_and_addresses_are_in_the_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "burglar.wasm").write_bytes(assemble(BURGLAR))
    with engine(tmp_path) as running:
        worker = running.worker("w1", "--standard-handlers")
        try:
            windlass = Terminal(capsys, running.address)
            for name, text in (("burglar", DOCUMENT), ("outward", OUTWARD)):
                (tmp_path / f"{name}.yaml").write_text(text)
                windlass.good("register", str(tmp_path / f"{name}.yaml"))
            windlass.good("start", "burglar", "--id", "b", "--wait")
            assert "refused: path_open '/etc/passwd' (3 times)" in windlass.good("history", "b")
            (ended,) = [
                e for e in json.loads(windlass.good("history", "b", "-o", "json")) if e["type"] == "TaskCompleted"
            ]
            (denial,) = ended["attributes"]["denials"]
            assert denial == {"kind": "file", "call": "path_open", "argument": "/etc/passwd", "count": 3}
            assert ended["attributes"]["usage"]["wall_us"] > 0
            code, _, _ = windlass("start", "outward", "--id", "o", "--wait")
            assert code != 0
            assert "refused: http.request '169.254.169.254:80 = 169.254.169.254'" in windlass.good("history", "o")
        finally:
            worker.stop()
