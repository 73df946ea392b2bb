"""Engine and workers as processes of their own, and what they use: CPU by process, memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from windlass.client.cli.children import free_port

_TICK: Final = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS: Final = 20


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


def summed(of: Callable[[int], float], pids: Iterable[int]) -> float:
    """The sum over those that are still there."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += of(pid)
    return total


@dataclass
class Stack:
    """An engine with its workers. `store_pid` names a database server whose work counts as well."""

    address: str
    data_dir: Path
    storage: str = ""
    worker_options: Sequence[str] = ()
    engine_options: Sequence[str] = ()
    store_pid: int = 0
    engine: subprocess.Popen[bytes] = field(init=False)
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far: engine, workers with their slots, this client, the database server."""
        return {
            "engine": cpu_seconds(self.engine.pid),
            "worker": summed(cpu_seconds, self._worker_pids()),
            "client": time.process_time(),
            "store": summed(cpu_seconds, children(self.store_pid)) if self.store_pid else 0.0,
        }

    def memory(self) -> dict[str, float]:
        """Own memory in MB: engine, each worker's own process, all of the workers' slots."""
        alive = [worker.pid for worker in self.workers if worker.poll() is None]
        slots = set(self._worker_pids()) - set(alive)
        found = {"engine": rss_mb(self.engine.pid)}
        found.update({f"worker {number}": summed(rss_mb, [pid]) for number, pid in enumerate(alive, 1)})
        found[f"{len(slots)} children of workers"] = summed(rss_mb, slots)
        return {name: round(value, 1) for name, value in found.items()}

    def start_engine(self) -> subprocess.Popen[bytes]:
        """Start the engine, also again after its end."""
        options = ["--data-dir", str(self.data_dir / "data"), "--listen", self.address, "--log-level", "warning"]
        if self.storage:
            options += ["--storage", self.storage]
        self.engine = _start("engine", *options, *self.engine_options, log=self.data_dir / "engine.log")
        return self.engine

    def add_worker(self) -> subprocess.Popen[bytes]:
        """Start one more worker."""
        worker = _start("worker", "--engine", self.address, *self.worker_options, log=self.data_dir / "worker.log")
        self.workers.append(worker)
        return worker

    def stop(self, *processes: subprocess.Popen[bytes]) -> None:
        """Stop these in good order, or everything."""
        asked = processes or (*self.workers, self.engine)
        for process in asked:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in asked:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.workers = [worker for worker in self.workers if worker not in asked]

    def _worker_pids(self) -> list[int]:
        return [pid for worker in self.workers if worker.poll() is None for pid in children(worker.pid)]


def _start(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "windlass.client.cli", *arguments]
    with log.open("ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, cwd=Path(__file__).parents[1])


@contextlib.contextmanager
def stack(
    data_dir: Path,
    *,
    storage: str = "",
    workers: int = 1,
    worker_options: Sequence[str] = (),
    engine_options: Sequence[str] = (),
    store_pid: int = 0,
) -> Iterator[Stack]:
    """Engine and workers, stopped at the end whatever happens."""
    address = f"127.0.0.1:{free_port()}"
    running = Stack(address, data_dir, storage, worker_options, engine_options, store_pid)
    running.start_engine()
    try:
        for _ in range(workers):
            running.add_worker()
        yield running
    finally:
        running.stop()


@contextlib.contextmanager
def store_of(name: str) -> Iterator[tuple[str, int]]:
    """The engine's `--storage` for a name, and the process of a database server of our own (0: none).

    `postgres` alone starts a server for the time, which syncs as one in production does.
    """
    if name != "postgres":
        yield name, 0
        return
    from tests.storage.postgres_server import PostgresServer

    with PostgresServer(fsync=True) as server:
        yield server.url(), int((server.directory / "data" / "postmaster.pid").read_text().split()[0])
