"""The real programs as processes of their own: an engine on a store on disk, workers, and the command line in this
process.

Nothing here sleeps and hopes: a program counts as started when it has answered a call, and as stopped when its
process is gone.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from windlass.client import Client
from windlass.client.cli import run as run_command
from windlass.client.cli.children import free_port
from windlass.v1 import admin_service_pb2, admin_service_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples"
STOP_SECONDS = 30


class Program:
    """One `windlass …` process; what it writes goes to a file."""

    def __init__(self, log: Path, *arguments: str, cwd: Path | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "windlass.client.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """Everything it has written."""
        return self.log.read_text("utf-8", "replace")

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"it does not stop on SIGTERM; it said:\n{self.said}") from None

    def stop_said_often(self) -> int:
        """SIGTERM again and again until it is gone; gives the exit code."""
        while True:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(0.001)

    def end(self) -> int:
        """Waits until it ends by itself; gives the exit code."""
        return self.process.wait(STOP_SECONDS)


class Engine(Program):
    """An engine that has answered. Its embedded store finds conflicts as a cluster would, unless `more` says which."""

    def __init__(self, folder: Path, *more: str, port: int = 0) -> None:
        self.folder, self.address = folder, f"127.0.0.1:{port or free_port()}"
        folder.mkdir(exist_ok=True)
        arguments = (
            "engine",
            "--data-dir",
            str(folder / "data"),
            "--storage",
            f"embedded:{folder / 'data'}?strict=1",
            "--listen",
            self.address,
            "--lease-seconds",
            "2",
            *more,
        )
        super().__init__(folder / "engine.log", *arguments)
        self._wait_for_answer()

    def client(self, *, retry_for: float = 30.0) -> Client:
        """A client of this engine."""
        return Client(self.address, retry_for=retry_for)

    def worker(self, name: str, *more: str) -> Program:
        """A worker for this engine; it registers in its own time."""
        log = self.folder / f"{name}.log"
        return Program(log, "worker", "--engine", self.address, "--id", name, *more, cwd=ROOT)

    def _wait_for_answer(self) -> None:
        with grpc.insecure_channel(self.address) as channel:
            ready = admin_service_pb2_grpc.AdminServiceStub(channel).GetSystemInfo
            try:
                ready(admin_service_pb2.GetSystemInfoRequest(), wait_for_ready=True, timeout=STOP_SECONDS)
            except grpc.RpcError as error:
                self.kill()
                raise AssertionError(f"the engine does not answer; it said:\n{self.said}") from error


@contextlib.contextmanager
def engine(folder: Path, *more: str, workers: int = 0) -> Iterator[Engine]:
    """An engine with workers w1, w2, … as long as the block lasts."""
    programs: list[Program] = []
    running = Engine(folder, *more)
    try:
        programs += [running.worker(f"w{number + 1}") for number in range(workers)]
        yield running
    finally:
        for program in (*programs, running):
            program.stop()


class Terminal:
    """The command line, in this process: exit code, output and errors of each command."""

    def __init__(self, capsys: pytest.CaptureFixture[str], address: str) -> None:
        self._capsys, self._address = capsys, address

    def __call__(self, *arguments: str, engine: bool = True) -> tuple[int, str, str]:
        """Runs `windlass ARGUMENTS`, with --engine unless told not to."""
        self._capsys.readouterr()
        code = run_command([*arguments, *(("--engine", self._address) if engine else ())])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def good(self, *arguments: str, engine: bool = True) -> str:
        """The same, for commands that must do well; gives the output."""
        code, out, err = self(*arguments, engine=engine)
        assert code == 0, f"windlass {' '.join(arguments)} ended with {code}: {err}"
        return out
