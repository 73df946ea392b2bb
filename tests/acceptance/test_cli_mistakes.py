"""What people do wrong: each mistake gives one clear line, the right exit code, and loses nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.acceptance.programs import EXAMPLES, Engine, Program, Terminal, engine
from windlass.client import Client, WindlassError
from windlass.client.cli.children import free_port


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("mistakes")) as started:
        yield started


@pytest.fixture
def windlass(capsys: pytest.CaptureFixture[str], running: Engine) -> Terminal:
    terminal = Terminal(capsys, running.address)
    terminal.good("register", str(EXAMPLES / "orders" / "order.yaml"))
    return terminal


def one_line(err: str) -> str:
    """The error, which is one line and no traceback."""
    assert err.count("\n") == 1, err
    assert err.startswith("windlass: "), err
    return err


def test_a_wrong_definition_is_named_by_file_line_and_path(windlass: Terminal, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("workflow: wrong\ninitial: begin\nstates:\n  start:\n    transitions:\n      - {to: nowhere}\n")
    for command in ("validate", "register"):
        code, _, err = windlass(command, str(wrong), engine=command == "register")
        assert code == 2, err
        assert "begin" in err
        assert "nowhere" in err
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("windlass: ")
    _, out, _ = windlass("validate", str(wrong), engine=False)
    assert out == ""
    assert "wrong" not in windlass.good("definitions", "list")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("const x = {{ ;", "line 1"),
        ("const x: number = 3; x", "TypeScript is not supported yet"),
        (None, "there is no file './task.js'"),
    ],
)
def test_code_that_cannot_run_is_found_when_it_is_registered(
    windlass: Terminal, tmp_path: Path, code: str | None, says: str
) -> None:
    definition = tmp_path / "broken.yaml"
    definition.write_text(
        "workflow: broken\ninitial: a\nstates:\n  a:\n    task: {runtime: javascript, code_file: ./task.js}\n"
    )
    if code is not None:
        (tmp_path / "task.js").write_text(code)
    exit_code, _, err = windlass("register", str(definition))
    assert exit_code == 2
    assert f"{definition.name}:5:" in err
    assert says in err
    assert "broken" not in windlass.good("definitions", "list")


async def test_a_wrong_definition_is_invalid_argument_with_a_violation_for_each_problem(running: Engine) -> None:
    from windlass.definition.source import loads

    document = loads("workflow: wrong\ninitial: begin\nstates: {start: {transitions: [{to: nowhere}]}}\n", "wrong.yaml")
    async with running.client() as client:
        with pytest.raises(WindlassError) as caught:
            await client.register(document)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.reason == "BAD_DEFINITION"
    assert len(caught.value.violations) >= 2


def test_wrong_input_says_what_does_not_fit(windlass: Terminal) -> None:
    code, _, err = windlass("start", "process-order", "--input", '{"order": {"id": 7, "items": []}}')
    assert code == 2
    assert "INPUT_SCHEMA_MISMATCH" in err
    assert windlass.good("list", "--workflow", "process-order").strip() == "no runs"


def test_input_that_is_no_json_never_reaches_the_engine(windlass: Terminal) -> None:
    code, _, err = windlass("start", "process-order", "--input", "{order: 7}")
    assert code == 2
    assert "not JSON" in one_line(err)


@pytest.mark.parametrize("option", ["--input", "--config"])
@pytest.mark.parametrize("text", ['{"a":1e999}', '"\\ud800"', "[" * 5000, "NaN"])
def test_json_that_cannot_be_sent_is_one_line(windlass: Terminal, option: str, text: str) -> None:
    code, _, err = windlass("start", "process-order", option, text)
    assert code == 2
    assert "not JSON" in one_line(err)


def test_json_too_deep_in_a_file_and_a_mark_before_its_text(windlass: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text("[" * 5000 + "]" * 5000)
    code, _, err = windlass("signal", "any-run", "name", f"@{file}")
    assert code == 2
    assert "nested too deeply" in one_line(err)
    file.write_text("{}", "utf-8-sig")
    code, _, err = windlass("signal", "no-such-run", "name", f"@{file}")
    assert code == 4, err


@pytest.mark.parametrize("option", ["--delay", "--run-timeout", "--timeout"])
@pytest.mark.parametrize("value", ["inf", "nan", "1e300", "-1", "soon"])
def test_spans_that_cannot_be(windlass: Terminal, option: str, value: str) -> None:
    code, _, err = windlass("start", "process-order", option, value)
    assert code == 2
    assert "seconds" in one_line(err)


def test_metadata_is_text_as_it_was_given(windlass: Terminal) -> None:
    windlass.good("register", str(EXAMPLES / "hello.yaml"))
    name = '{"name": "Ada"}'
    windlass.good("start", "hello", "--input", name, "--id", "meta", "--metadata", "a=true", "--metadata", "b=1e999")
    assert json.loads(windlass.good("get", "meta", "-o", "json"))["metadata"] == {"a": "true", "b": "1e999"}


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:0", "127.0.0.1:99999", "http://there:80", ":7711"])
def test_an_address_that_cannot_be(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = Terminal(capsys, address)("list")
    assert code == 2
    assert "HOST:PORT" in one_line(err)


def test_a_full_disk_is_no_defect(running: Engine) -> None:
    command = [sys.executable, "-m", "windlass.client.cli", "info", "--engine", running.address]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3
    assert "no space left" in one_line(done.stderr)


def test_a_file_that_is_not_there_is_one_line(windlass: Terminal, tmp_path: Path) -> None:
    code, _, err = windlass("validate", str(tmp_path / "nope.yaml"), engine=False)
    assert code == 2
    assert "cannot read the file" in one_line(err)


def test_what_is_wrong_with_a_definition_for_programs(windlass: Terminal, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("workflow: wrong\ninitial: begin\nstates:\n  start: {}\n")
    code, out, _ = windlass("validate", str(wrong), "-o", "json", engine=False)
    told = json.loads(out)
    assert code == 2
    assert told["file"] == str(wrong)
    assert all(set(each) == {"path", "line", "column", "message"} for each in told["errors"])
    assert any(each["path"] == "initial" and each["line"] == 2 for each in told["errors"])


def test_nothing_is_said_twice(windlass: Terminal) -> None:
    code, _, err = windlass("start", "process-order", "--input", '{"order": {"id": 7, "items": []}}')
    lines = err.splitlines()
    assert code == 2
    assert len(lines) >= 2
    for line in lines[:-1]:
        assert line.partition(": ")[2] not in lines[-1]
    _, _, err = windlass("start", "no-such-workflow")
    assert err.count("windlass register") == 1


def test_a_data_directory_that_is_a_file(windlass: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for command in (("storage", "check"), ("engine",), ("dev",)):
        program = Program(tmp_path / f"{command[0]}.log", *command, "--data-dir", str(file))
        assert program.end() in (2, 3), program.said
        assert "is not a directory" in program.said
        assert program.said.count("\n") == 1, program.said


def test_an_unknown_workflow_says_how_to_register_it(windlass: Terminal) -> None:
    code, _, err = windlass("start", "no-such-workflow")
    assert code == 4
    assert "WORKFLOW_NOT_REGISTERED" in one_line(err)
    assert "windlass register" in err


async def test_an_unknown_workflow_is_not_found(running: Engine) -> None:
    async with running.client() as client:
        with pytest.raises(WindlassError) as caught:
            await client.start("no-such-workflow")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert caught.value.metadata["workflow"] == "no-such-workflow"


@pytest.mark.parametrize("command", ["get", "history", "watch", "cancel", "pause", "explain"])
def test_an_unknown_run_is_exit_code_4(windlass: Terminal, command: str) -> None:
    code, _, err = windlass(command, "no-such-run")
    assert code == 4, err
    assert "RUN_NOT_FOUND" in one_line(err)


def test_an_id_that_is_taken_names_the_run_that_has_it(windlass: Terminal) -> None:
    order = json.dumps({"order": {"id": "1", "items": [{"sku": "rope", "price": 1, "quantity": 1}]}})
    windlass.good("start", "process-order", "--id", "taken", "--input", order)
    code, _, err = windlass("start", "process-order", "--id", "taken", "--input", order)
    assert code == 3
    assert "RUN_ALREADY_STARTED" in one_line(err)
    assert "found" in windlass.good(
        "start", "process-order", "--id", "taken", "--if-open", "use_existing", "--input", order
    )


def test_no_engine_is_exit_code_5(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = Terminal(capsys, f"127.0.0.1:{free_port()}")("list")
    assert code == 5
    assert "no engine answers" in one_line(err)


def test_an_unknown_option_or_command_points_at_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = Terminal(capsys, "")
    for arguments in (("list", "--colour"), ("strat", "hello"), ("start",)):
        code, _, err = nowhere(*arguments, engine=False)
        assert code == 2
        assert "--help" in one_line(err)


def test_a_second_engine_on_the_same_data_directory_is_refused(running: Engine, tmp_path: Path) -> None:
    second = Program(
        tmp_path / "log", "engine", "--data-dir", str(running.folder / "data"), "--listen", f"127.0.0.1:{free_port()}"
    )
    assert second.end() == 3
    assert second.said.count("\n") == 1, second.said
    assert str(running.folder / "data") in second.said


def test_a_port_in_use_is_refused_and_the_store_stays_whole(
    running: Engine, tmp_path: Path, windlass: Terminal
) -> None:
    second = Program(tmp_path / "log", "engine", "--data-dir", str(tmp_path / "data"), "--listen", running.address)
    assert second.end() == 3
    assert second.said.count("\n") == 1, second.said
    assert running.address.rpartition(":")[2] in second.said
    windlass.good("storage", "check", "--data-dir", str(tmp_path / "data"), engine=False)


def test_a_wrong_setting_of_the_engine_is_named(tmp_path: Path) -> None:
    settings = tmp_path / "windlass.toml"
    settings.write_text('[engine]\nlisten = "127.0.0.1:0"\ncolour = "blue"\n')
    for arguments, word in (
        (("--config", str(settings)), "colour"),
        (("--storage", "floppy:a"), "floppy"),
        (("--lease-seconds", "0"), "lease_seconds"),
    ):
        program = Program(tmp_path / f"{word}.log", "engine", "--data-dir", str(tmp_path / "data"), *arguments)
        assert program.end() in (2, 3)
        assert word in program.said
        assert program.said.count("\n") == 1, program.said


def test_a_worker_that_is_pointed_at_nothing_says_so(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    worker = Program(tmp_path / "log", "worker", "--engine", address, "--patience", "1")
    assert worker.end() == 5
    assert "Traceback" not in worker.said
    first, last = worker.said.splitlines()[-2:]
    assert "WARNING no engine yet" in first
    assert address in last
    assert worker.said.count("no engine yet") == 1


@pytest.mark.parametrize(
    ("setting", "says"), [("--namespace=nope", "no namespace 'nope'"), (f"--id={'x' * 201}", "id")]
)
def test_a_setting_that_the_engine_does_not_take_is_the_workers(running: Engine, setting: str, says: str) -> None:
    worker = running.worker(setting[:6].strip("-"), setting)
    assert worker.end() == 2, worker.said
    assert "refuses this worker" in worker.said
    assert says in worker.said
    assert "no engine yet" not in worker.said


@pytest.mark.parametrize(
    ("program", "text", "says"),
    [
        ("engine", "engine = 3", "[engine]"),
        ("engine", "listen = '\udcff'", "cannot read"),
        ("worker", "worker = 3", "[worker]"),
        ("worker", "drain_seconds = 2026-01-01", "'2026-01-01' is not a number of seconds"),
        ("worker", "slots = true", "--slots"),
    ],
)
def test_a_settings_file_of_the_wrong_shape_is_no_defect(tmp_path: Path, program: str, text: str, says: str) -> None:
    settings = tmp_path / "windlass.toml"
    settings.write_bytes(text.encode("utf-8", "surrogateescape"))
    told = Program(tmp_path / "log", program, "--config", str(settings))
    assert told.end() == 2, told.said
    assert says in told.said


@pytest.mark.parametrize("option", ["--open-runs", "--queued-tasks", "--max-attempts"])
def test_a_number_that_does_not_fit_the_wire(windlass: Terminal, option: str) -> None:
    code, _, err = windlass("namespace", "create", "many", option, str(2**64))
    assert code == 2
    assert option in one_line(err)


def test_a_wrong_setting_of_the_worker_is_named(tmp_path: Path) -> None:
    for arguments, word in (
        (("--runtimes", "cobol"), "cobol"),
        (("--slots", "0"), "slots"),
        (("--engine", "nowhere"), "nowhere"),
        (("--require-isolation", "moat"), "moat"),
    ):
        worker = Program(tmp_path / f"{word}.log", "worker", *arguments)
        assert worker.end() in (2, 8), worker.said
        assert word in worker.said
        assert "Traceback" not in worker.said


async def test_a_client_that_finds_no_engine_gives_up_with_unavailable() -> None:
    async with Client(f"127.0.0.1:{free_port()}", retry_for=0.2) as client:
        with pytest.raises(WindlassError) as caught:
            await client.info()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("command", ["get", "history", "explain", "watch", "cancel", "pause"])
@pytest.mark.parametrize("name", ["", " "])
def test_a_run_without_a_name_is_the_callers_mistake(windlass: Terminal, command: str, name: str) -> None:
    code, _, err = windlass(command, name)
    assert code == 2
    assert "this one is empty" in one_line(err)
