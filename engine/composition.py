"""The engine as a process: settings in, store opened, server up, until a signal. The only place that names storage
backends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Final

from windlass.definition.compile import compile_canonical
from windlass.engine.code_checks import read_code
from windlass.engine.config import Settings
from windlass.engine.engine import Engine, Options
from windlass.engine.service.server import PortInUse, Server
from windlass.storage.foundationdb_open import open_foundationdb_url
from windlass.storage.opening import open_embedded, open_memory
from windlass.storage.port import Storage, StorageError

log = logging.getLogger("windlass.engine")

#: Exit codes: 0 stopped as asked, 3 the store or the address cannot be had.
EXIT_CANNOT_START = 3
#: The default looks for cycles every 700 allocations, which costs a fifth of the engine's CPU; it makes few cycles.
GC_THRESHOLD = (50_000, 20, 50)
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


async def open_storage(settings: Settings) -> tuple[Storage, str]:
    """The store the settings name, and its name for people. Raises StorageError, ValueError for an unknown kind."""
    kind, _, rest = (settings.storage or f"embedded:{settings.data_dir}").partition(":")
    if kind == "embedded":
        place, mark, options = rest.partition("?")
        if mark and options not in ("strict=0", "strict=1"):
            raise ValueError(f"embedded:PATH?{options}: the only option is strict=1")
        path = _directory(place or settings.data_dir)
        return open_embedded(path, strict=options == "strict=1"), f"embedded:{path}"
    if kind == "memory":
        return open_memory(), "memory:"
    if kind == "fdb":
        return await open_foundationdb_url(_fdb_url(rest)), f"fdb:{rest}"
    if kind in ("postgres", "postgresql"):
        from windlass.storage.postgres import open_postgres  # its driver is needed only here

        return await open_postgres(settings.storage), "postgres"
    raise ValueError(
        f"unknown storage {settings.storage!r}: use embedded:PATH, fdb:CLUSTERFILE, postgres://… or memory:"
    )


def _directory(name: str) -> Path:
    """The path. Raises ValueError if something is there that is no directory."""
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is not a directory: --data-dir takes one, which is made if it is not there")
    return path


def _fdb_url(rest: str) -> str:
    file, _, options = rest.partition("?")
    return f"foundationdb://{Path(file).absolute() if file else ''}?{options}"


class JsonLines(logging.Formatter):
    """Log records as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up_logging(settings: Settings) -> None:
    """Logs to stderr, for people or as JSON lines."""
    channel = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")
    channel.setFormatter(JsonLines() if settings.log_json else plain)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[channel], force=True)


async def serve(settings: Settings, ready: asyncio.Event | None = None) -> int:
    """Run an engine until SIGTERM or SIGINT; the exit code. `ready` is set once it serves."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOPS:  # not the loop's own handlers: they end with the loop, before the process does
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    try:
        return await _serve_until(stop, settings, ready)
    finally:
        for number in _STOPS:  # said twice, when all is written: that must not turn the exit code into the signal's
            signal.signal(number, signal.SIG_IGN)


async def _serve_until(stop: asyncio.Event, settings: Settings, ready: asyncio.Event | None) -> int:
    try:
        storage, name = await open_storage(settings)
    except (StorageError, OSError, ValueError) as error:
        print(f"windlass engine: {error}", file=sys.stderr)
        return EXIT_CANNOT_START
    options = Options(
        lease_us=int(settings.lease_seconds * 1e6),
        sweep_us=int(settings.sweep_seconds * 1e6),
        history_keep=settings.history_keep,
        storage_name=name,
    )
    try:
        async with contextlib.AsyncExitStack() as ends:  # each end runs whatever became of the others, the store's last
            ends.push_async_callback(storage.close)
            engine = Engine(storage, compile_canonical, options=options, read_code=read_code)
            ends.push_async_callback(engine.stop)
            await _serve(engine, Server(engine, settings.listen), name, stop, ready, ends)
    except PortInUse as error:
        print(f"windlass engine: {error}", file=sys.stderr)
        return EXIT_CANNOT_START
    return 0


async def _serve(
    engine: Engine,
    server: Server,
    name: str,
    stop: asyncio.Event,
    ready: asyncio.Event | None,
    ends: contextlib.AsyncExitStack,
) -> None:
    await server.start()
    ends.push_async_callback(server.stop)
    await engine.start()
    gc.freeze()  # what was loaded so far is not garbage: the collector need not look at it again
    log.info("engine %s serves on %s, store %s", engine.engine_id, server.bound, name)
    if ready is not None:
        ready.set()
    await stop.wait()
    log.info("stopping: workers are drained, open calls answered")


def run(settings: Settings) -> int:
    """Blocking form of `serve`, on uvloop where it is installed."""
    set_up_logging(settings)
    gc.set_threshold(*GC_THRESHOLD)
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(serve(settings))
