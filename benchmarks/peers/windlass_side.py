"""Windlass in the comparison: by unary calls, as the peers are asked, and over its batch stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from benchmarks.__main__ import ready, register, worker_options
from benchmarks.load import Batch, Loop, Unary
from benchmarks.processes import Stack, stack
from windlass.client import Client


class WindlassSide:
    """See `Side`."""

    task = "dispatched"

    def __init__(self, running: Stack, channel: grpc.aio.Channel, runtime: str, way: str) -> None:
        self._running, self._channel, self._way = running, channel, way
        self.system = f"Windlass, {way}, {runtime}"

    def loop(self, shape: str, in_flight: int) -> Loop | None:
        if self._way == "unary":
            return Unary(self._channel, shape, in_flight)
        return Batch(self._channel, shape, in_flight) if in_flight > 1 else None

    def cpu(self) -> dict[str, float]:
        used = self._running.cpu()
        return {"server": used["engine"], "worker": used["worker"], "client": used["client"]}


@asynccontextmanager
async def windlass(directory: Path, runtime: str) -> AsyncIterator[list[WindlassSide]]:
    """An engine on its embedded store with fsync, and one worker."""
    with stack(directory, worker_options=worker_options(runtime, 0)) as running:
        await ready(running.address)
        async with Client(running.address) as client:
            await register(client, runtime)
        async with grpc.aio.insecure_channel(running.address) as channel:
            yield [WindlassSide(running, channel, runtime, way) for way in ("unary", "batch")]
