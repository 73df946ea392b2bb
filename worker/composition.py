"""Where a worker is put together: the only file of the worker that names the jail, its runtimes and the transport."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from windlass.runtimes.jail_pool import SlotPool
from windlass.runtimes.jail_settings import JailReport, JailSettings
from windlass.runtimes.javascript import JavaScript
from windlass.runtimes.python import PythonHandlers
from windlass.runtimes.wasm import Wasm
from windlass.worker.backoff import Backoff
from windlass.worker.driver import Worker
from windlass.worker.execution import Execution
from windlass.worker.handlers import registry_of, step_types
from windlass.worker.journal import Journal
from windlass.worker.modules import ModuleCache, Trust
from windlass.worker.profile import profile_of
from windlass.worker.session import Session
from windlass.worker.settings import WorkerSettings
from windlass.worker.transport import GrpcTransport, Transport

#: Synchronous handlers that may run at the same time, at least.
HANDLER_THREADS = 8


@asynccontextmanager
async def composed(
    settings: WorkerSettings, journal: Journal, transport: Transport | None = None, *, most: int = 0
) -> AsyncIterator[Worker]:
    """Give a worker that is ready to run; its jail and its cache end with the block.

    `most`: tasks that it takes before it drains by itself; 0 = no end.
    Raises BadSettings when handlers or trusted keys cannot be had, JailIncomplete and JailBroken when code
    could not be run safely.
    """
    registry = registry_of(settings)
    trusted = _trusted(settings, journal)
    handlers = PythonHandlers(registry, threads=max(HANDLER_THREADS, settings.slots)) if len(registry) else None
    pool, report = await _jail(settings, journal)
    folder = settings.cache_folder or Path(tempfile.mkdtemp(prefix="windlass-modules-"))
    try:
        modules = ModuleCache(folder, journal)
        execution = Execution(
            pool,
            handlers,
            modules,
            journal,
            slots=settings.slots,
            prefetch=settings.prefetch,
            trusted=trusted,
        )
        session = Session(profile_of(settings, report, step_types(registry)), execution.capacity, most)
        yield Worker(
            session,
            execution,
            transport or GrpcTransport(),
            settings.engines,
            journal,
            Backoff(random.Random()),
            first_contact_s=settings.first_contact_s or float("inf"),
            drain_s=settings.drain_s,
        )
    finally:
        if handlers is not None:
            await handlers.close()
        if pool is not None:
            await pool.close()
        if settings.cache_folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def _trusted(settings: WorkerSettings, journal: Journal) -> Trust | None:
    if settings.trusted_keys is None:
        return None
    # Imported here: a worker that trusts the engine's code need not load a library for signatures.
    from windlass.worker.trust import trusted_keys

    trusted = trusted_keys(settings.trusted_keys)
    journal.info("only signed code runs here", keys=len(trusted), file=settings.trusted_keys)
    return trusted


async def _jail(settings: WorkerSettings, journal: Journal) -> tuple[SlotPool | None, JailReport | None]:
    """Start the slots, and say which layers hold."""
    if not settings.jailed:
        return None, None
    pool = SlotPool(JailSettings(slots=settings.slots, runtimes=settings.jailed, required=settings.require_layers))
    report = await pool.start()
    for layer in report.layers:
        if not layer.active:
            journal.warning("a layer of the jail does not hold", layer=layer.name, why=layer.detail)
    for runtime in report.runtimes:
        if runtime.missing:
            journal.warning("a runtime is missing", runtime=runtime.name, why=runtime.missing)
    active = [layer.name for layer in report.layers if layer.active]
    journal.info("slots are ready", slots=settings.slots, layers=",".join(active) or "none")
    return pool, report


def check_code(runtime: str, code: bytes) -> list[str]:
    """What is wrong with a piece of code, found by the runtime itself, without running it.

    For authors, on their own machine: the code is parsed in this process, so do not ask it about strangers' code.
    """
    kinds: dict[str, type[JavaScript] | type[Wasm]] = {"javascript": JavaScript, "wasm": Wasm}
    if runtime not in kinds:
        return []
    return [f"line {p.line}: {p.message}" if p.line else p.message for p in kinds[runtime]().check(code)]
