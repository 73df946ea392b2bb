"""A machine with an engine: the real Engine and the real handlers, on a handle of the shared in-memory store."""

from __future__ import annotations

import asyncio
from typing import Any

from google.rpc import status_pb2

from tests.simulation.clocks import SimulatedClock
from tests.simulation.network import Aborted, EndOfStream, Network, Stream, StreamContext
from tests.simulation.virtual_loop import Host
from windlass.definition.compile import compile_canonical
from windlass.engine.engine import Engine, Options
from windlass.engine.service.people import HumanTaskServicer
from windlass.engine.service.worker import WorkerServicer
from windlass.engine.service.workflow import WorkflowServicer
from windlass.storage.memory import MemoryStorage, MemoryWorld
from windlass.storage.port import StorageError
from windlass.worker.answers import Refusal, refusal_of
from windlass.worker.transport import WireError

#: Longest silence of a store before a call is given up, in seconds.
STORE_S = 5.0


class EngineHost:
    """One address, behind which engines come and go."""

    def __init__(
        self, name: str, world: MemoryWorld, network: Network, options: Options, seed: int, *, shared: bool
    ) -> None:
        self.name, self.world, self.network, self.options = name, world, network, options
        self.seed, self.shared = seed, shared
        self.skew_us = 0
        self.starts = 0
        self.ready = False  #: its start has come to its end, and its stop has not begun
        self.host = Host(name)
        self.host.kill()
        self.engine: Engine
        self.storage: MemoryStorage
        self.graves: list[Host] = []

    @property
    def up(self) -> bool:
        return not self.host.dead

    @property
    def serving(self) -> bool:
        """It takes calls and streams: a server that stops still answers what is open, and refuses what is new."""
        return self.up and self.ready

    async def start(self) -> None:
        """A new process on this machine."""
        self.starts += 1
        self.ready = False
        self.host = Host(self.name)
        self.storage = self.world.open(shared=self.shared, deadline_seconds=STORE_S)
        clock = SimulatedClock(self.seed * 1000 + self.starts, self.skew_us)
        self.engine = Engine(self.storage, compile_canonical, clock=clock, options=self.options)
        self.engine.deadlines._interval *= self.options.lease_us / Options().lease_us
        self.workflows = WorkflowServicer(self.engine)
        self.people = HumanTaskServicer(self.engine)
        self.workers = WorkerServicer(self.engine.workers, self.engine.modules)
        while True:  # an engine that cannot start is started again by whoever looks after it
            try:
                await self.host.run(self.engine.start())
                self.ready = True
                return
            except StorageError:
                await asyncio.sleep(0.5)

    def crash(self) -> None:
        """The process is gone, with all it had in memory."""
        self.host.kill()
        self.graves.append(self.host)
        self.storage._closed = True  # what it had sent may land; nothing new comes from it
        self.network.died(self.host)

    async def stop(self) -> None:
        """An orderly end: workers are told, loops are stopped."""
        self.ready = False
        self.engine.drain()
        await asyncio.sleep(0.5)
        await self.host.run(self.engine.stop())
        self.crash()

    def skew(self, skew_us: int) -> None:
        """The wall clock jumps."""
        self.skew_us = skew_us
        if self.up:
            clock = self.engine.clock
            assert isinstance(clock, SimulatedClock)
            clock.skew_us = skew_us

    def accept(self, near: Host) -> Stream:
        """A worker connects."""
        stream = Stream(self.network, near, self.host)
        self.host.spawn(self._serve(stream))
        return stream

    async def _serve(self, stream: Stream) -> None:
        context = StreamContext(stream)
        context.handling = asyncio.current_task()
        ending: Exception = EndOfStream()
        try:
            await self.workers.StreamTasks(None, context)
        except Aborted as aborted:
            ending = wire_error(aborted.status)
        finally:
            stream.end(ending, up=False)

    async def module(self, request: Any) -> bytes:
        """FetchModule, gathered."""
        from tests.simulation.network import CallContext

        return b"".join([part.chunk async for part in self.workers.FetchModule(request, CallContext())])


def wire_error(status: status_pb2.Status) -> WireError:
    """A refusal as the worker's transport would raise it."""
    refusal = refusal_of(status)
    names = {3: "INVALID_ARGUMENT", 5: "NOT_FOUND", 9: "FAILED_PRECONDITION", 10: "ABORTED", 14: "UNAVAILABLE"}
    # The real transport gets the same codes; a lapsed session is NOT_FOUND there too.
    return WireError(Refusal(refusal.reason, refusal.message, refusal.passing), names.get(status.code, "INTERNAL"))
