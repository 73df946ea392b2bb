"""One program that is kept alive, as a service manager would: killed, frozen, stopped, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[3]
STOP_SECONDS: Final = 40.0


class Kept:
    """`windlass ARGUMENTS` as a process of its own; what it writes is appended to a file."""

    def __init__(self, name: str, log: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.name, self.log = name, log
        self.starts = 0
        self.frozen = False
        self._arguments = arguments
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """False after a kill, a stop, or an end of its own."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def said(self) -> str:
        """Everything it has written, in all its lives."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""

    def start(self) -> None:
        """Start it unless it runs."""
        if self.running:
            return
        self.starts += 1
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "windlass.client.cli", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=self._environment,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone. Its children must notice by themselves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.frozen = False

    def freeze(self) -> None:
        """SIGSTOP to the process alone: its sockets stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)
        self.frozen = False

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        self._signal(signal.SIGTERM)

    def stop(self) -> int:
        """SIGTERM, and waits; the exit code. Raises AssertionError if it does not stop by itself."""
        if self._process is None:
            return 0
        self.thaw()
        self.ask_to_stop()
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} does not stop on SIGTERM; it said:\n{self.said[-4000:]}") from None

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)
