"""Real processes: a worker with trusted keys, an engine that believes everybody, and authors who sign or do not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.programs import Engine, Terminal, engine
from tests.runtimes.guests import assemble, constant
from tests.worker.keys import key_files

INLINE = """
workflow: inline
initial: only
states:
  only: {task: {runtime: javascript, code: "input.n + 1"}, input: full, output: n}
output: {key: n}
"""
BY_FILE = """
workflow: byfile
initial: only
states:
  only: {task: {runtime: wasm, module: ./task.wasm}, output: n}
output: {key: n}
"""


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Engine]:
    for name in ("mine", "other"):
        key_files(tmp_path, name)
    (tmp_path / "trusted.pem").write_bytes((tmp_path / "mine.pub").read_bytes())
    (tmp_path / "inline.yaml").write_text(INLINE)
    (tmp_path / "byfile.yaml").write_text(BY_FILE)
    (tmp_path / "task.wasm").write_bytes(assemble(constant("42")))
    with engine(tmp_path) as started:
        worker = started.worker("w1", "--trusted-keys", str(tmp_path / "trusted.pem"))
        yield started
        worker.stop()
        assert "Traceback" not in worker.said, worker.said


def test_only_code_that_a_trusted_key_has_signed_runs(
    running: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windlass = Terminal(capsys, running.address)
    inline, by_file, wasm = (str(tmp_path / name) for name in ("inline.yaml", "byfile.yaml", "task.wasm"))
    mine, other = ("--sign-key", str(tmp_path / "mine.key")), ("--sign-key", str(tmp_path / "other.key"))
    start = ("start", "inline", "--input", '{"n": 1}', "--wait", "-o", "json")

    windlass.good("register", inline)
    code, out, _ = windlass(*start)
    assert (code != 0, json.loads(out)["failure"]["code"]) == (True, "MODULE_UNTRUSTED")
    windlass.good("register", inline, *other)
    assert json.loads(windlass(*start)[1])["failure"]["code"] == "MODULE_UNTRUSTED"
    windlass.good("register", inline, *mine)
    assert json.loads(windlass.good(*start))["output"] == 2

    windlass.good("register", by_file)
    code, out, _ = windlass("start", "byfile", "--id", "f", "--wait", "-o", "json")
    failure = json.loads(out)["failure"]
    (digest,) = (
        m["digest"] for m in json.loads(windlass.good("modules", "list", "-o", "json")) if m["runtime"] == "wasm"
    )
    assert (code != 0, failure["code"], digest in failure["message"]) == (True, "MODULE_UNTRUSTED", True)
    assert digest in windlass.good("modules", "sign", wasm, *mine)
    assert json.loads(windlass.good("start", "byfile", "--wait", "-o", "json"))["output"] == 42
    assert windlass.good("modules", "upload", wasm, *other).strip() == digest
    signers = [len(m["signatures"]) for m in json.loads(windlass.good("modules", "list", "-o", "json"))]
    assert signers == [2, 2]
    assert "SIGNED BY" in windlass.good("modules", "list")


def test_wrong_keys_are_refused_before_anything_happens(
    running: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    windlass = Terminal(capsys, running.address)
    for file, words in (("mine.pub", "no PEM private key"), ("nowhere.key", "cannot read the key")):
        for command in (
            ("register", "inline.yaml"),
            ("modules", "upload", "task.wasm"),
            ("modules", "sign", "task.wasm"),
        ):
            given = (*command[:-1], str(tmp_path / command[-1]), "--sign-key", str(tmp_path / file))
            code, _, error = windlass(*given)
            assert (code, words in error) == (2, True), error
    code, _, error = windlass("modules", "sign", str(tmp_path / "task.wasm"), "--sign-key", str(tmp_path / "mine.key"))
    assert (code, "MODULE_NOT_FOUND" in error) == (4, True)
    assert json.loads(windlass.good("modules", "list", "-o", "json")) == []
    worker = running.worker("w2", "--trusted-keys", str(tmp_path / "mine.key"))
    assert worker.end() != 0
    assert "not a PUBLIC KEY" in worker.said
