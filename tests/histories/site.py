"""An engine on an embedded store with a clock that stands until it is moved, a worker of the test's own, a client."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.engine.cluster import Failing, TestWorker
from windlass.client import Client
from windlass.definition.compile import compile_canonical
from windlass.engine.clock import Clock
from windlass.engine.engine import Engine, Options
from windlass.engine.service.server import Server
from windlass.storage.opening import open_embedded
from windlass.v1 import worker_service_pb2 as pb

SECOND: Final = 1_000_000
#: When the stores are recorded, in µs.
RECORDED_US: Final = 1_800_000_000 * SECOND
LEASE_US: Final = 5 * SECOND


class StandingClock(Clock):
    """Time that stands, but for a microsecond per look, so that ids keep their order."""

    def __init__(self, at_us: int) -> None:
        self.at_us = at_us
        super().__init__()

    def read_us(self) -> int:
        """The time."""
        self.at_us += 1
        return self.at_us

    def read_ticks_us(self) -> int:
        """Nothing passes by itself."""
        return 0


class Site:
    """What runs."""

    def __init__(self, engine: Engine, clock: StandingClock, client: Client) -> None:
        self.engine, self.clock, self.client = engine, clock, client

    def advance(self, seconds: float) -> None:
        """Time passes: whoever goes by it looks again."""
        self.clock.at_us += int(seconds * SECOND)
        for loop in (self.engine.timers, self.engine.sessions, self.engine.deadlines):
            loop.wake()


@contextlib.asynccontextmanager
async def site(folder: Path, at_us: int, lease_us: int) -> AsyncIterator[Site]:
    """A site at work. At the end the engine goes without a word to its store, as if it had been killed."""
    store, clock = open_embedded(folder), StandingClock(at_us)
    engine = Engine(store, compile_canonical, clock=clock, options=Options(lease_us=lease_us))
    server = Server(engine, "127.0.0.1:0")
    await engine.start()
    await server.start()
    client = Client(f"127.0.0.1:{server.port}", retry_for=5)
    try:
        yield Site(engine, clock, client)
    finally:
        await client.close()
        await server.stop()
        await engine.stop()
        await store.close()


def at_first(task: pb.Task) -> Any:
    """What the worker does while the store is recorded: some tasks it never ends."""
    if task.workflow in ("held", "mapped", "cancelling") and (task.path in ("", "#1") and task.state != "book"):
        return TestWorker.HOLD
    if task.workflow in ("backoff", "failing"):
        raise Failing("NOT_TODAY")
    if task.workflow == "polling":
        return pb.TaskResult(output=b"null", asks=pb.TaskAsks(suspend=b'{"seen": 1}'))
    return at_last(task)


def at_last(task: pb.Task) -> Any:
    """What the worker does when the runs are to end: objects count up, all else comes back."""
    value = msgspec.json.decode(task.input)
    return {"n": value.get("n", 0) + 1} if isinstance(value, dict) else value
