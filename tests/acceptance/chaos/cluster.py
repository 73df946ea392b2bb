"""Engines, workers, a database and the proxies between them, on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.acceptance.chaos.handlers import LEDGER, WORKER
from tests.acceptance.chaos.program import Kept
from tests.acceptance.chaos.proxy import CuttingProxy
from tests.storage.postgres_server import PostgresServer
from windlass.client import Client
from windlass.client.cli.children import free_port
from windlass.engine.composition import open_storage
from windlass.engine.config import load
from windlass.storage.port import Storage

LEASE_SECONDS: Final = 1.5
READY_SECONDS: Final = 60.0


@dataclass
class Cluster:
    """What runs, by name. `ways`: the proxies, by "workers>e1" and "clients>e1"."""

    folder: Path
    storage_url: str
    engines: list[Kept] = field(default_factory=list)
    workers: list[Kept] = field(default_factory=list)
    ways: dict[str, CuttingProxy] = field(default_factory=dict)
    database: PostgresServer | None = None
    clients: list[Client] = field(default_factory=list)

    @property
    def ledger(self) -> Path:
        """Where handlers note that they ran."""
        return self.folder / "ledger"

    def revive(self) -> list[str]:
        """Start whatever has ended; the names."""
        ended = [each for each in (*self.engines, *self.workers) if not each.running]
        for each in ended:
            each.start()
        return [each.name for each in ended]

    async def answering(self) -> None:
        """Wait until every engine answers; one that gives up at its start, for want of the database, is started again.

        Raises AssertionError after READY_SECONDS, with the end of the engine's log.
        """
        deadline = asyncio.get_running_loop().time() + READY_SECONDS
        for engine, client in zip(self.engines, self.clients, strict=True):
            while not await _answers(client):
                engine.start()
                if asyncio.get_running_loop().time() > deadline:
                    raise AssertionError(f"{engine.name} does not answer; it said:\n{engine.said[-4000:]}")

    def stop(self) -> list[str]:
        """Workers first, so that they give back what they hold. Those that do not stop are killed, and named."""
        stuck: list[str] = []
        for each in (*self.workers, *self.engines):
            try:
                each.stop()
            except AssertionError as error:
                stuck.append(str(error))
        return stuck

    async def store(self) -> Storage:
        """The store itself; no engine may run."""
        storage, _ = await open_storage(load({"storage": self.storage_url}))
        return storage

    def logs(self) -> dict[str, str]:
        """What every program has written."""
        return {each.name: each.said for each in (*self.engines, *self.workers)}


async def _answers(client: Client) -> bool:
    probe = Client(client.connection.target, retry_for=1.0, call_timeout=2.0)
    try:
        await probe.info()
    except Exception:  # noqa: BLE001 - whatever it is, the engine does not answer yet
        await asyncio.sleep(0.1)
        return False
    finally:
        await probe.close()
    return True


@asynccontextmanager
async def cluster(
    folder: Path,
    *,
    engines: int,
    workers: int,
    shared: bool,
    engine_options: Sequence[str] = (),
    namespace: str = "default",
    retention: float | None = None,
) -> AsyncIterator[Cluster]:
    """A running cluster whose engines answer; `shared`: on a PostgreSQL server of its own, else embedded.

    `namespace`: of the workers, made unless it is the default one; `retention`: its, in seconds.
    """
    async with AsyncExitStack() as stack:
        database = stack.enter_context(PostgresServer()) if shared else None
        url = database.url(deadline=5) if database else f"embedded:{folder / 'data'}"
        made = Cluster(folder, url, database=database)
        for number in range(1, engines + 1):
            await _add_engine(made, stack, number, engine_options)
        made.revive()
        await made.answering()
        if namespace != "default":
            await made.clients[0].create_namespace(namespace, retention=retention)
        for number in range(1, workers + 1):
            _add_worker(made, stack, number, namespace)
        made.revive()
        yield made


async def _add_engine(made: Cluster, stack: AsyncExitStack, number: int, options: Sequence[str]) -> None:
    port, name = free_port(), f"e{number}"
    flags = ["--listen", f"127.0.0.1:{port}", "--storage", made.storage_url, "--lease-seconds", str(LEASE_SECONDS)]
    engine = Kept(name, made.folder / f"{name}.log", "engine", *flags, *options)
    stack.callback(engine.kill)
    made.engines.append(engine)
    for side in ("workers", "clients"):
        made.ways[f"{side}>{name}"] = await stack.enter_async_context(CuttingProxy(port))
    way = made.ways[f"clients>{name}"]
    made.clients.append(
        await stack.enter_async_context(Client(f"127.0.0.1:{way.port}", retry_for=3.0, call_timeout=5.0))
    )


def _add_worker(made: Cluster, stack: AsyncExitStack, number: int, namespace: str) -> None:
    name = f"w{number}"
    ports = [way.port for side, way in made.ways.items() if side.startswith("workers")]
    turned = ports[number % len(ports) :] + ports[: number % len(ports)]  # so that not all begin with the same engine
    flags = ["--engine", ",".join(f"127.0.0.1:{port}" for port in turned), "--id", name, "--slots", "2"]
    flags += ["--namespace", namespace]
    more = ["--runtimes", "javascript,python", "--handlers", "tests.acceptance.chaos.handlers", "--patience", "0"]
    environment = {LEDGER: str(made.ledger), WORKER: name}
    worker = Kept(name, made.folder / f"{name}.log", "worker", *flags, *more, environment=environment)
    stack.callback(worker.kill)
    made.workers.append(worker)
