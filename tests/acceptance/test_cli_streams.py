"""The command line and its surroundings: readers that go away, streams that are closed, ctrl-c, an engine that dies."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.programs import EXAMPLES, Engine, Terminal, engine


@contextlib.contextmanager
def heard(*arguments: str, stdout: int = subprocess.DEVNULL) -> Iterator[Any]:
    """`windlass ARGUMENTS` as a process of its own, whose errors can be read; it does not outlive a failing test."""
    command = [sys.executable, "-m", "windlass.client.cli", *arguments]
    with subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True) as program:
        try:
            yield program
        except BaseException:
            program.kill()
            raise


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("streams")) as started:
        yield started


@pytest.fixture
def windlass(capsys: pytest.CaptureFixture[str], running: Engine) -> Terminal:
    terminal = Terminal(capsys, running.address)
    terminal.good("register", str(EXAMPLES / "signals" / "delivery.yaml"))
    return terminal


def parcel(windlass: Terminal) -> str:
    """A run that stands still until signals come."""
    return windlass.good("start", "delivery", "--input", '{"parcel": "P-1"}').split()[1]


@pytest.mark.parametrize("command", ["get", "watch", "history"])
def test_a_reader_who_has_had_enough_is_no_failure(windlass: Terminal, running: Engine, command: str) -> None:
    run = parcel(windlass)
    with heard(command, run, "--engine", running.address, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.close()
        if command == "watch":
            windlass.good("terminate", run)
        assert program.stderr.read() == ""
    assert program.returncode == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(windlass: Terminal, running: Engine, closed: str) -> None:
    for command, code in (("info", 0), ("list", 0), ("get nobody", 4)):
        line = f'"$0" -m windlass.client.cli {command} --engine {running.address} {closed}'
        done = subprocess.run(["sh", "-c", line, sys.executable], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert done.stderr.count("\n") == (code == 4 and "2>&-" not in closed), done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_does_not_have_is_escaped(
    windlass: Terminal, running: Engine, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    run = parcel(windlass)
    with heard("signal", run, "gone → there", "--engine", running.address, stdout=subprocess.PIPE) as program:
        said, err = program.communicate()
    assert (program.returncode, err) == (0, "")
    assert "gone \\u2192 there" in said
    with heard("history", run, "-o", "json", "--engine", running.address, stdout=subprocess.PIPE) as program:
        events = json.loads(program.communicate()[0])
    assert any("gone → there" in str(event) for event in events)


def test_who_gives_up_waiting_is_told_which_run_goes_on(windlass: Terminal, running: Engine) -> None:
    arguments = ("start", "delivery", "--input", '{"parcel": "P-2"}', "--wait", "--engine", running.address)
    with heard(*arguments) as program:
        assert "still waiting" in program.stderr.readline()  # so it is started, and waited for
        program.send_signal(signal.SIGINT)
        told = program.stderr.read()
    assert program.returncode == 130
    (run,) = [word for word in told.split() if len(word) == 32]
    assert windlass.good("get", run)


def test_who_loses_the_engine_is_told_which_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with engine(tmp_path) as mine:
        Terminal(capsys, mine.address).good("register", str(EXAMPLES / "signals" / "delivery.yaml"))
        arguments = ("start", "delivery", "--input", '{"parcel": "P-3"}', "--wait", "--engine", mine.address)
        with heard(*arguments) as program:
            assert "still waiting" in program.stderr.readline()
            mine.kill()
            told, last = program.stderr.read().splitlines()
        assert program.returncode == 5
        assert "is started" in told
        assert "no engine answers" in last


@pytest.mark.parametrize("command", [(), ("modules",), ("namespace",)])
def test_no_command_is_answered_with_the_help(windlass: Terminal, command: tuple[str, ...]) -> None:
    code, _, err = windlass(*command, engine=False)
    assert code == 2
    assert err.startswith("Usage: windlass")
    assert "\nCommands:\n" in err


@pytest.mark.parametrize("option", ["--id", "--request-id", "--idempotency-key"])
def test_an_id_that_is_empty_is_a_mistake(windlass: Terminal, option: str) -> None:
    before = windlass.good("list")
    code, _, err = windlass("start", "delivery", "--input", '{"parcel": "P-4"}', option, "")
    assert code == 2
    assert option in err
    assert windlass.good("list") == before


#: Presses ctrl-c as soon as gRPC is imported, before or after which there is nothing to wait for.
PRESSED_WHILE_LOADING = """
import os, signal, sys
from windlass.client.program import main

class Pressing:
    def find_spec(self, name, *_):
        if name == "grpc":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, getattr(signal, sys.argv.pop(1)))
sys.meta_path.insert(0, Pressing())
main()
"""


@pytest.mark.parametrize(
    ("as_before", "code", "out"), [("default_int_handler", 130, ""), ("SIG_IGN", 0, "windlass 0.")]
)
def test_ctrl_c_while_the_program_loads_has_no_traceback(as_before: str, code: int, out: str) -> None:
    command = [sys.executable, "-c", PRESSED_WHILE_LOADING, as_before, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.startswith(out)
