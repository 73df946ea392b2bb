"""The commands that stay (`dev`, `engine`, `worker`), their settings, and the ones that look after a store at rest."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.programs import EXAMPLES, ROOT, STOP_SECONDS, Engine, Program, Terminal, engine
from windlass.client.cli import processes
from windlass.client.cli.children import free_port
from windlass.client.cli.extras import load
from windlass.client.cli.failures import UNSUPPORTED, Stop
from windlass.definition.source import loads
from windlass.worker.settings import offer_of


def test_dev_runs_a_workflow_and_stops_cleanly_on_ctrl_c(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    dev = Program(tmp_path / "dev.log", "dev", "--listen", address, cwd=tmp_path)
    try:
        windlass = Terminal(capsys, address)
        while windlass("info")[0]:
            assert dev.process.poll() is None, dev.said
        windlass.good("register", str(EXAMPLES / "hello.yaml"))
        assert "Hello, Ada!" in windlass.good(
            "start", "hello", "--input", '{"name": "Ada"}', "--wait", "--timeout", "60"
        )
    finally:
        dev.process.send_signal(signal.SIGINT)
        code = dev.process.wait(STOP_SECONDS)
    assert code == 0, dev.said
    assert (tmp_path / ".windlass").is_dir()
    names = {line.split("│")[0].strip() for line in dev.said.splitlines()}
    assert names == {"engine", "worker", "dev"}
    assert "Traceback" not in dev.said


def test_dev_ends_when_its_engine_cannot_start(tmp_path: Path) -> None:
    first = Engine(tmp_path)
    try:
        dev = Program(tmp_path / "dev.log", "dev", "--listen", first.address, "--data-dir", str(tmp_path / "other"))
        assert dev.end() == 3
        assert "the engine ended with exit code 3" in dev.said
        assert "ready at" not in dev.said
        assert "worker │" not in dev.said
    finally:
        first.stop()


def test_whoever_is_told_to_stop_again_and_again_still_says_that_all_went_well(tmp_path: Path) -> None:
    with engine(tmp_path) as started:
        worker = Program(tmp_path / "worker.log", "worker", "--engine", started.address)
        while "registered" not in worker.said:
            assert worker.process.poll() is None, worker.said
        assert worker.stop_said_often() == 0, worker.said
        assert started.stop_said_often() == 0, started.said
    dev, _ = _dev_with_its_children(tmp_path)
    assert dev.stop_said_often() == 0, dev.said


def test_dev_takes_no_port_that_it_could_not_tell(tmp_path: Path) -> None:
    dev = Program(tmp_path / "dev.log", "dev", "--listen", "127.0.0.1:0", cwd=tmp_path)
    assert dev.end() == 2
    assert "port from 1 to 65535" in dev.said


def _dev_with_its_children(folder: Path) -> tuple[Program, dict[str, int]]:
    """A `windlass dev` that is ready, and the process ids of its children."""
    dev = Program(folder / "dev.log", "dev", "--listen", f"127.0.0.1:{free_port()}", cwd=folder)
    while "ready at" not in dev.said or "registered" not in dev.said:
        assert dev.process.poll() is None, dev.said
    return dev, _children_of(dev)


def _children_of(dev: Program) -> dict[str, int]:
    numbers = Path(f"/proc/{dev.process.pid}/task/{dev.process.pid}/children").read_text().split()
    command = {number: Path(f"/proc/{number}/cmdline").read_text().split("\0") for number in numbers}
    return {words[4]: int(number) for number, words in command.items()}


def test_dev_starts_a_worker_again_that_was_killed_and_stops_when_its_terminal_closes(tmp_path: Path) -> None:
    dev, children = _dev_with_its_children(tmp_path)
    ends = [os.pidfd_open(each) for each in children.values()]
    try:
        os.kill(children["worker"], signal.SIGKILL)
        while dev.said.count("registered") < 2:
            assert dev.process.poll() is None, dev.said
        assert "the worker was killed by SIGKILL; starting it again" in dev.said
        ends.append(os.pidfd_open(_children_of(dev)["worker"]))
    finally:
        dev.process.send_signal(signal.SIGHUP)
        code = dev.process.wait(STOP_SECONDS)
    assert code == 0, dev.said
    for each in ends:
        assert select.select([each], [], [], STOP_SECONDS)[0], "a child is left behind"
        os.close(each)


def test_children_of_dev_end_with_it_when_it_is_killed(tmp_path: Path) -> None:
    dev, children = _dev_with_its_children(tmp_path)
    ends = [os.pidfd_open(each) for each in children.values()]
    dev.kill()
    for each in ends:
        assert select.select([each], [], [], STOP_SECONDS)[0], "a child is left behind"
        os.close(each)


def test_an_engine_that_chooses_its_port_says_which(tmp_path: Path) -> None:
    started = Program(tmp_path / "log", "engine", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "data"))
    try:
        while "serves on" not in started.said:
            assert started.process.poll() is None, started.said
    finally:
        started.stop()
    assert re.search(r"serves on 127\.0\.0\.1:[1-9][0-9]*,", started.said), started.said


def test_settings_come_from_flags_then_environment_then_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from windlass.engine.config import load as load_settings

    file = tmp_path / "windlass.toml"
    file.write_text('[engine]\nlisten = "127.0.0.1:1"\nlog_level = "debug"\nlease_seconds = 7\n')
    monkeypatch.setenv("WINDLASS_CONFIG", str(file))
    monkeypatch.setenv("WINDLASS_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("WINDLASS_LOG_LEVEL", "warning")
    settings = load_settings({"listen": "127.0.0.1:3", "log_level": None})
    assert (settings.listen, settings.log_level, settings.lease_seconds) == ("127.0.0.1:3", "warning", 7)


def test_settings_of_the_worker_come_in_the_same_order(tmp_path: Path) -> None:
    file = tmp_path / "windlass.toml"
    file.write_text('[engine]\nlisten = "x"\n[worker]\nslots = 7\nqueue = ["a", "b"]\nruntimes = "wasm"\n')
    environment = {"WINDLASS_CONFIG": str(file), "WINDLASS_RUNTIMES": "javascript"}
    seen = _worker_flags(tmp_path, environment, "--slots", "3")
    assert (seen["slots"], seen["runtimes"], seen["queue"]) == (3, "javascript", "a,b")
    assert _worker_flags(tmp_path, environment)["slots"] == 7


def test_what_a_worker_offers_comes_in_every_way(tmp_path: Path) -> None:
    file = tmp_path / "windlass.toml"
    environment = {"WINDLASS_CONFIG": str(file)}
    for written in (
        'offer = "gpu=1,memory=16384"',
        'offer = ["gpu=1", "memory=16384"]',
        "offer = {gpu = 1, memory = 16384}",
    ):
        file.write_text(f"[worker]\nslots = 7\n{written}\n")
        flags = _worker_flags(tmp_path, environment)
        assert offer_of(flags["offer"]) == {"gpu": 1, "memory": 16384}, written  # type: ignore[arg-type]
        assert flags["slots"] == 7
    environment["WINDLASS_OFFER"] = "gpu=2,cpu=4000"
    assert offer_of(_worker_flags(tmp_path, environment)["offer"]) == {"gpu": 2, "cpu": 4000}  # type: ignore[arg-type]
    seen = _worker_flags(tmp_path, environment, "--offer", "gpu=3", "--offer", "memory=9")
    assert offer_of(seen["offer"]) == {"gpu": 3, "memory": 9}  # type: ignore[arg-type]


@pytest.mark.parametrize("offer", ["gpu", "GPU=1", "gpu=0"])
def test_a_wrong_offer_is_one_line(offer: str, tmp_path: Path) -> None:
    worker = Program(tmp_path / "log", "worker", "--offer", offer)
    assert worker.end() == 2
    assert worker.said.count("\n") == 1, worker.said
    assert "--offer" in worker.said


def test_a_task_runs_where_its_units_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(
        "workflow: train\ninitial: fit\nstates:\n  fit:\n"
        '    task: {runtime: javascript, code: "6 * 7", needs: {gpu: 1, memory: 4096}}\n    output: answer\n'
    )
    with engine(tmp_path) as running:
        windlass = Terminal(capsys, running.address)
        windlass.good("register", str(file))
        windlass.good("start", "train")
        none = _worker_ends(running, "--until-idle", "--wait", "0.2", "--output", "json")
        assert none[1]["started"] == 0
        (backlog,) = json.loads(windlass.good("queue", "--output", "json"))["backlogs"]
        assert {name: int(amount) for name, amount in backlog["needs"].items()} == {"gpu": 1, "memory": 4096}
        assert "gpu=1, memory=4096" in windlass.good("queue")
        worker = running.worker("able", "--offer", "gpu=1", "--offer", "memory=8192")
        try:
            windlass.good("start", "train", "--wait", "--timeout", "60")
            assert "gpu 0/1, memory 0/8192" in windlass.good("workers", "list")
        finally:
            worker.stop()
        runs = json.loads(windlass.good("list", "--output", "json"))
        assert [run["state"] for run in runs] == ["completed"] * 2


def _worker_flags(folder: Path, environment: dict[str, str], *arguments: str) -> dict[str, object]:
    """What `windlass worker` makes of its surroundings, without starting one."""
    code = (
        "import json, sys\n"
        "from windlass.client.cli.processes import worker\n"
        "worker.callback = lambda **flags: print(json.dumps(flags))\n"
        "worker.main(sys.argv[1:], standalone_mode=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    flags: dict[str, object] = json.loads(done.stdout)
    return flags


def test_a_worker_for_one_task_and_one_for_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with engine(tmp_path) as running:
        windlass = Terminal(capsys, running.address)
        windlass.good("register", str(EXAMPLES / "hello.yaml"))
        none = _worker_ends(running, "--once", "--wait", "0.1", "--output", "json")
        assert (none[0], none[1]["started"]) == (9, 0)
        for name in ("Ada", "Alan", "Grace"):
            windlass.good("start", "hello", "--input", json.dumps({"name": name}))
        one = _worker_ends(running, "--once", "--output", "json")
        assert (one[0], one[1]) == (0, {**none[1], "started": 1, "succeeded": 1})
        rest = _worker_ends(running, "--until-idle", "--output", "json")
        assert (rest[0], rest[1]["succeeded"]) == (0, 2)
        assert json.loads(windlass.good("worker", "list", "--output", "json")) == []
        runs = json.loads(windlass.good("list", "--output", "json"))
        assert [run["state"] for run in runs] == ["completed"] * 3


async def test_a_handler_that_hangs_does_not_keep_a_drained_worker(tmp_path: Path) -> None:
    document = loads("workflow: stuck\ninitial: a\nstates: {a: {task: {runtime: python, handler: sample.hanging}}}\n")
    with engine(tmp_path) as running:
        worker = running.worker("w", "--handlers", "tests.worker.sample_handlers", "--drain-seconds", "0.2")
        async with running.client() as client:
            await client.register(document)
            run = await client.start("stuck")
            async for seen in client.watch(run.run_id, full=True):
                if any(event.type == "AttemptExtended" for event in seen.events):
                    break
            assert worker.stop() == 0  # it is killed, and that fails, after STOP_SECONDS
            last = [event async for event in client.history(run.run_id)][-1]
        assert (last.type, b"returned" in last.attributes) == ("AttemptEnded", True)
        assert "handlers still run threads=1" in worker.said


def _worker_ends(running: Engine, *arguments: str) -> tuple[int, dict[str, object]]:
    """A worker that ends by itself: its exit code and what it wrote."""
    command = [sys.executable, "-m", "windlass.client.cli", "worker", "--engine", running.address, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=STOP_SECONDS, check=False)
    return ended.returncode, json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(("--once", "--until-idle"), "give one of them"), (("--wait", "1"), "goes with --once")],
)
def test_errands_that_contradict_each_other(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    worker = Program(tmp_path / "log", "worker", *arguments)
    assert worker.end() == 2
    assert says in worker.said


def test_a_setting_that_the_worker_does_not_know_is_named(tmp_path: Path) -> None:
    file = tmp_path / "windlass.toml"
    file.write_text("[worker]\nsluts = 7\n")
    worker = Program(tmp_path / "log", "worker", "--config", str(file))
    assert worker.end() == 2
    assert worker.said.count("\n") == 1, worker.said
    assert "'sluts'" in worker.said
    assert "slots" in worker.said


def test_several_values_are_separated_by_commas() -> None:
    assert processes._parts("a, b,,c") == ("a", "b", "c")


def test_a_missing_extra_is_one_line_with_the_way_out() -> None:
    with pytest.raises(Stop, match=r"pip install 'windlass\[engine\]'") as caught:
        load("a_package_that_nobody_has", "engine")
    assert caught.value.code == UNSUPPORTED


def test_a_store_is_backed_up_while_the_engine_runs_and_checked_when_it_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = Engine(tmp_path)
    windlass = Terminal(capsys, running.address)
    data, copy = str(tmp_path / "data"), str(tmp_path / "copy")
    try:
        windlass.good("register", str(EXAMPLES / "hello.yaml"))
        windlass.good("start", "hello", "--id", "waits-for-a-worker", "--input", '{"name": "Ada"}')
        assert "waits-for-a-worker" in windlass.good("storage", "dump", "--data-dir", data, engine=False)
        windlass.good("storage", "backup", "--data-dir", data, copy, engine=False)
        code, _, err = windlass("storage", "compact", "--data-dir", data, engine=False)
        assert code == 3, err
    finally:
        running.stop()
    for folder in (data, copy):
        report = json.loads(
            windlass.good("storage", "check", "--deep", "--data-dir", folder, "-o", "json", engine=False)
        )
        assert report["rows"] > 0
        assert report["findings"] == []
    windlass.good("storage", "compact", "--data-dir", data, engine=False)
    code, _, err = windlass("storage", "check", "--data-dir", str(tmp_path / "nothing"), engine=False)
    assert code == 3
    assert "no store" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_for_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "_WINDLASS_COMPLETE" in Terminal(capsys, "").good("completion", shell, engine=False)


def test_completion_knows_commands_and_options() -> None:
    words = {"COMP_WORDS": "windlass esc", "COMP_CWORD": "1", "_WINDLASS_COMPLETE": "bash_complete"}
    done = subprocess.run(
        [Path(sys.executable).parent / "windlass"],
        env={**os.environ, **words},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "escalations" in done.stdout


def test_watching_on_a_terminal_draws_a_picture(tmp_path: Path) -> None:
    """On a pseudo-terminal: states with their attempts, and the end."""
    running = Engine(tmp_path)
    worker = running.worker("w1")
    try:
        command = [sys.executable, "-m", "windlass.client.cli"]
        there = ["--engine", running.address]
        subprocess.run([*command, "register", str(EXAMPLES / "hello.yaml"), *there], check=True, capture_output=True)
        start = [*command, "start", "hello", "--id", "seen", "--input", '{"name": "Ada"}', *there]
        subprocess.run(start, check=True, capture_output=True)
        code, shown = on_a_terminal([*command, "watch", "seen", *there])
        assert code == 0, shown
        assert "completed on w1" in shown
        assert "\x1b[" in shown
    finally:
        worker.stop()
        running.stop()


def on_a_terminal(command: list[str]) -> tuple[int, str]:
    """Runs a command on a pseudo-terminal; its exit code and everything it drew."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    drawn = b""
    try:
        while part := os.read(ours, 4096):
            drawn += part
    except OSError as error:
        if error.errno != errno.EIO:  # Linux's way to say that the other side is closed
            raise
    finally:
        os.close(ours)
    return process.wait(STOP_SECONDS), drawn.decode("utf-8", "replace")
