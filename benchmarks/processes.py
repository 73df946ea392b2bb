"""Engine and workers as processes of their own, and what they use: CPU by process, memory, commits."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_TICK: Final = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11:15]) / _TICK


def rss_mb(pid: int) -> float:
    """Resident memory of a process, anonymous part (the mapped store file is not its own)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def children(pid: int) -> list[int]:
    """The process and all below it."""
    found, at = [pid], 0
    while at < len(found):
        path = Path(f"/proc/{found[at]}/task/{found[at]}/children")
        with contextlib.suppress(FileNotFoundError):
            found += [int(each) for each in path.read_text().split()]
        at += 1
    return found


@dataclass
class Stack:
    """A running engine with its workers."""

    address: str
    data_dir: Path
    engine: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    storage: str = ""
    worker_options: Sequence[str] = ()

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far: engine, workers with their slots, this client."""
        workers = [pid for worker in self.workers if worker.poll() is None for pid in children(worker.pid)]
        return {
            "engine": cpu_seconds(self.engine.pid),
            "worker": sum(cpu_seconds(pid) for pid in workers),
            "client": time.process_time(),
        }

    def memory(self) -> dict[str, float]:
        """Own memory in MB."""
        workers = [pid for worker in self.workers if worker.poll() is None for pid in children(worker.pid)]
        return {"engine": rss_mb(self.engine.pid), "workers": sum(rss_mb(pid) for pid in workers)}

    def add_worker(self) -> subprocess.Popen[bytes]:
        """Start one more worker."""
        worker = _start("worker", "--engine", self.address, *self.worker_options, log=self.data_dir / "worker.log")
        self.workers.append(worker)
        return worker


def _start(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "windlass.client.cli", *arguments]
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, cwd=Path(__file__).parents[1])


def start_engine(data_dir: Path, address: str, storage: str) -> subprocess.Popen[bytes]:
    """An engine process on a data directory."""
    options = ["--data-dir", str(data_dir / "data"), "--listen", address, "--log-level", "warning"]
    if storage:
        options += ["--storage", storage]
    return _start("engine", *options, log=data_dir / "engine.log")


@contextlib.contextmanager
def stack(
    data_dir: Path, *, storage: str = "", workers: int = 1, worker_options: Sequence[str] = ()
) -> Iterator[Stack]:
    """Engine and workers, stopped at the end whatever happens."""
    address = f"127.0.0.1:{free_port()}"
    running = Stack(
        address, data_dir, start_engine(data_dir, address, storage), storage=storage, worker_options=worker_options
    )
    try:
        for _ in range(workers):
            running.add_worker()
        yield running
    finally:
        for process in (*running.workers, running.engine):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in (*running.workers, running.engine):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
