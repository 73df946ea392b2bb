"""DBOS in the comparison: on PostgreSQL with fsync, in two processes, and by its queue to a worker process."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.load import Load, Loop
from benchmarks.peers.installing import dbos_python
from benchmarks.processes import children, cpu_seconds, store_of, summed
from tests.storage.postgres_server import USER

APPS = 2
_LINE_BYTES_MAX = 1 << 26


class App:
    """A process of `dbos_app.py`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process, self._log = process, log

    async def ask(self, command: str) -> dict[str, list[float]]:
        """Its answer to a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, list[float]]:
        """Its next line. Raises RuntimeError when it has ended."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of DBOS ended: {self._log.read_text()[-2000:]}")
        found: dict[str, list[float]] = json.loads(line)
        return found


class AppLoop(Loop):
    """The closed loops of some processes, seen as one."""

    def __init__(self, apps: Sequence[App], workers: Sequence[App], shape: str, in_flight: int) -> None:
        super().__init__(in_flight)
        self._apps = apps[:in_flight]
        self._workers = workers
        self._shape = shape
        self._end = asyncio.Event()

    async def run(self) -> None:
        for app in (*self._workers, *self._apps):
            app.process.send_signal(signal.SIGCONT)
        share = self.in_flight // len(self._apps)
        for app in self._apps:
            await app.ask(f"go {self._shape} {share}")
        self.ended.set()
        await self._end.wait()

    async def window(self, seconds: float) -> Load:
        """Cuts a window out of what the processes do."""
        await self.ended.wait()
        await self._cut("cut")
        load = Load()
        await asyncio.sleep(seconds)
        found = await self._cut("cut")
        load.seconds = Load().began - load.began
        load.latencies_ms, load.failed = found.latencies_ms, found.failed
        load.finished = len(load.latencies_ms)
        return load

    async def stop(self) -> None:
        """End the loops, and freeze the processes: their polls would cost the others, who are measured next."""
        await self.ended.wait()
        await self._cut("end")
        for app in (*self._workers, *self._apps):
            app.process.send_signal(signal.SIGSTOP)
        self._end.set()

    async def _cut(self, command: str) -> Load:
        load = Load()
        for answer in await asyncio.gather(*(app.ask(command) for app in self._apps)):
            load.latencies_ms += answer["latencies_ms"]
            load.failed += int(str(answer["failed"]))
        return load


class DbosSide:
    """See `Side`."""

    def __init__(self, task: str, apps: Sequence[App], workers: Sequence[App], store: int) -> None:
        self.task = task
        self.system = f"DBOS, PostgreSQL, {len(apps)} processes" if not workers else "DBOS, PostgreSQL, queue"
        self._apps, self._workers, self._store = apps, workers, store

    def loop(self, shape: str, in_flight: int) -> Loop | None:
        if self._workers and shape != "w1":
            return None  # a queue is for whole workflows; its steps stay in the process that runs it
        return AppLoop(self._apps, self._workers, shape, in_flight)

    def cpu(self) -> dict[str, float]:
        working = self._workers or self._apps
        waiting = self._apps if self._workers else ()
        return {
            "server": summed(cpu_seconds, children(self._store)),
            "worker": summed(cpu_seconds, [app.process.pid for app in working]),
            "client": summed(cpu_seconds, [app.process.pid for app in waiting]),
        }


@asynccontextmanager
async def _app(role: str, url: str, directory: Path, installed: Path) -> AsyncIterator[App]:
    script = Path(__file__).parent / "dbos_app.py"
    log = directory / f"{role}.log"
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *(str(dbos_python(installed)), str(script), role, url),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=out,
            cwd=directory,
            limit=_LINE_BYTES_MAX,
        )
    app = App(process, log)
    try:
        async with asyncio.timeout(120):
            await app.answer()
        process.send_signal(signal.SIGSTOP)  # until it is measured
        yield app
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def dbos(directory: Path, installed: Path) -> AsyncIterator[list[DbosSide]]:
    """A PostgreSQL server of its own, the processes that run workflows, a worker and a client of the queue."""
    with store_of("postgres") as (url, store):
        host = url.partition("host=")[2]
        async with AsyncExitStack() as stack:
            urls = {name: f"postgresql+psycopg://{USER}@/{name}?host={host}" for name in ("bench_app", "bench_queue")}

            async def up(role: str, database: str) -> App:
                return await stack.enter_async_context(_app(role, urls[database], directory, installed))

            apps = [await up("app", "bench_app") for _ in range(APPS)]
            worker, client = await up("worker", "bench_queue"), await up("client", "bench_queue")
            yield [DbosSide("in-process", apps, (), store), DbosSide("dispatched", [client], [worker], store)]
