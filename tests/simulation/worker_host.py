"""A machine with a worker: the real session, execution and driver; only slots and wire are simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from tests.simulation.clocks import true_us
from tests.simulation.engine_host import EngineHost, wire_error
from tests.simulation.network import Aborted, CallContext, CallFailed, EndOfStream, Network, Stream
from tests.simulation.virtual_loop import Host
from tests.simulation.work import SimulatedSlots, Work
from windlass.engine.leases import parse_token
from windlass.v1 import worker_service_pb2 as pb
from windlass.worker.answers import Refusal
from windlass.worker.backoff import Backoff
from windlass.worker.driver import Worker
from windlass.worker.execution import Execution
from windlass.worker.journal import Journal
from windlass.worker.modules import ModuleCache
from windlass.worker.session import Session
from windlass.worker.transport import WireError


class WorkerHost:
    """A worker that may die and come back."""

    def __init__(self, name: str, engines: list[EngineHost], network: Network, work: Work, random: Random) -> None:
        self.name, self.engines, self.network, self.work, self.random = name, engines, network, work, random
        units = Random(hash(random.getstate()[1]))
        self.offer = {"gpu": units.randint(2, 3), "memory": units.randint(3, 5)}
        self.slots = random.randint(1, 4)
        self.host = Host(name)
        self.host.kill()
        self.graves: list[Host] = []
        self.worker: Worker
        self.running: asyncio.Task[None]

    @property
    def up(self) -> bool:
        return not self.host.dead

    @property
    def leaving(self) -> bool:
        """It drains, or has drained."""
        return self.running.done() or self.worker.session.draining

    async def start(self) -> None:
        """A new process on this machine."""
        self.host = Host(self.name)
        self.running = self.host.spawn(self._run())
        await asyncio.sleep(0)

    async def _run(self) -> None:
        jail, handlers = SimulatedSlots(self.work), SimulatedSlots(self.work)
        journal = Journal("windlass.simulated_worker")
        execution = Execution(
            jail, handlers, ModuleCache(None, journal), journal, slots=self.slots, prefetch=2, clock_us=true_us
        )
        profile = pb.RegisterWorkerRequest(worker_id=self.name, slots=self.slots, queues=["default"])
        profile.offered_units.update(self.offer)
        profile.runtimes.add(name="javascript", version="simulated")
        profile.handlers.add(handler="work", runtime="python")
        engines = [engine.name for engine in self.engines]
        self.random.shuffle(engines)
        self.worker = Worker(
            Session(profile, execution.capacity),
            execution,
            SimulatedTransport(self.host, self.engines, self.network, self.work),
            engines,
            journal,
            Backoff(Random(self.random.random()), most_s=self.engines[0].options.lease_us / 1e6),
            first_contact_s=float("inf"),
            drain_s=5.0,
        )
        await self.worker.run()

    def crash(self) -> None:
        """SIGKILL."""
        self.host.kill()
        self.graves.append(self.host)
        self.network.died(self.host)

    async def drain(self) -> None:
        """SIGTERM, and then gone."""
        self.host.spawn(calling(self.worker.drain))
        await asyncio.wait([self.running], timeout=30)
        self.crash()


async def calling(what: Callable[[], None]) -> None:
    """For `Host.spawn`."""
    what()


class SimulatedTransport:
    """The worker's way to its engines."""

    def __init__(self, host: Host, engines: list[EngineHost], network: Network, work: Work) -> None:
        self._host, self._network, self._work = host, network, work
        self._engines = {engine.name: engine for engine in engines}

    async def open(self, address: str) -> SimulatedWire:
        engine = self._engines[address]
        await asyncio.sleep(self._network.delay())
        if not engine.serving:
            raise WireError(Refusal("REFUSED", "connection refused", passing=True), "UNAVAILABLE")
        return SimulatedWire(engine.accept(self._host), engine, self._network, self._work)


class SimulatedWire:
    """See `windlass.worker.transport.Wire`."""

    def __init__(self, stream: Stream, engine: EngineHost, network: Network, work: Work) -> None:
        self._stream, self._engine, self._network, self._work = stream, engine, network, work
        self._results: set[bytes] = set()
        self._session_id = ""

    async def send(self, message: pb.StreamTasksRequest) -> None:
        if self._stream.down.over:
            raise WireError(Refusal("STREAM_ENDED", "the stream is over", passing=True), "UNAVAILABLE")
        self._stream.send(message.SerializeToString(), up=True)
        self._work.taken_back[self._session_id] += max(0, -message.credits)
        for result in message.results:
            self._results.add(result.task_token)
            if self._network.random.random() < self._network.weather.ghost:
                delay = self._network.random.uniform(0, 60)
                copy = pb.CompleteTasksRequest(results=[result])
                # Not on this host: a ghost outlives whoever sent it.
                asyncio.get_running_loop().call_later(delay, partial(self._haunt, copy), context=_nowhere())
        await asyncio.sleep(0)

    def _haunt(self, copy: pb.CompleteTasksRequest) -> None:
        if self._engine.serving:
            self._engine.host.spawn(_ignoring(self._engine.workers.CompleteTasks(copy, CallContext())))

    async def receive(self) -> pb.StreamTasksResponse | None:
        try:
            data = await self._stream.down.take()
        except EndOfStream:
            return None
        message = pb.StreamTasksResponse()
        message.ParseFromString(data)
        if message.HasField("registered"):
            self._session_id = message.registered.session_id
            self._work.taken_back[self._session_id] = 0
        for task in message.tasks:
            _, run_id, visit, path, epoch = parse_token(task.task_token)
            self._work.delivered.add((run_id, visit, path, epoch, self._session_id))
        for token in self._results.intersection(message.accepted_task_tokens):
            _, run_id, visit, path, epoch = parse_token(token)
            self._work.acknowledged.add((run_id, visit, path, epoch))
        return message

    async def fetch_signatures(self, namespace: str, digest: str) -> list[tuple[bytes, bytes]]:
        return []  # these workers run anybody's code, and never ask

    async def fetch_module(self, namespace: str, digest: str) -> bytes:
        request = pb.FetchModuleRequest(namespace=namespace, digest=digest)
        engine = self._engine
        if not engine.serving:
            raise WireError(Refusal("REFUSED", "connection refused", passing=True), "UNAVAILABLE")
        try:
            async with asyncio.timeout(5):
                return await engine.host.run(engine.module(request))
        except TimeoutError:
            raise WireError(Refusal("NO_ANSWER", "deadline exceeded", passing=True), "DEADLINE_EXCEEDED") from None
        except Aborted as aborted:
            raise wire_error(aborted.status) from None

    async def leave(self, session_id: str) -> None:
        request = pb.DrainWorkerRequest(session_id=session_id, close=True, unbegun=True)
        try:
            await self._network.call(
                self._stream.near,
                self._engine.host,
                lambda r: self._engine.workers.DrainWorker(r, CallContext()),
                request,
            )
        except CallFailed as failed:
            raise WireError(Refusal(failed.reason, str(failed), passing=True), "UNAVAILABLE") from None

    async def close(self) -> None:
        self._stream.end(WireError(Refusal("CLOSED", "the worker left", passing=True), "CANCELLED"), up=True)
        self._stream.down.finish(WireError(Refusal("CLOSED", "the worker left", passing=True), "CANCELLED"))


def _nowhere() -> Any:
    import contextvars

    return contextvars.Context()


async def _ignoring(call: Any) -> None:
    try:
        await call
    except Aborted:
        return
