"""What goes wrong, and when: hosts die and freeze, wires break, clocks jump, the store refuses and forgets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

from tests.simulation.engine_host import EngineHost
from tests.simulation.network import Network, Weather
from tests.simulation.plan import Plan
from tests.simulation.worker_host import WorkerHost
from windlass.storage.memory import Faults, MemoryWorld
from windlass.storage.port import StorageError

#: Faults of the store, by name: field of `Faults`, and how likely it is while it lasts.
_STORE = {
    "conflicts": [("conflict", 0.3)],
    "forgotten": [("forgotten_landed", 0.15), ("forgotten_lost", 0.1)],
    "unknown": [("unknown_landed", 0.08), ("unknown_lost", 0.08), ("unknown_late", 0.08)],
    "unavailable": [("unavailable", 0.15)],
    "store_slow": [("delay", 0.3), ("spurious_watch", 0.1)],
}


class Nemesis:
    """Lets faults loose until it is told to stop, and then mends everything."""

    def __init__(
        self, plan: Plan, world: MemoryWorld, network: Network, engines: list[EngineHost], workers: list[WorkerHost],
        random: Random, trace: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.plan, self.world, self.network, self.engines, self.workers = plan, world, network, engines, workers
        self.random, self.trace = random, trace
        self.injected: dict[str, int] = {}
        self._mending: set[asyncio.Task[None]] = set()

    async def rage(self) -> None:
        """Forever: wait a little, break something, mend it after a while."""
        while self.plan.faults:
            await asyncio.sleep(self.random.expovariate(1 / (self.plan.every_s * self.plan.pace)))
            fault = self.random.choice(self.plan.faults)
            self.injected[fault] = self.injected.get(fault, 0) + 1
            mending = asyncio.create_task(self._one(fault))
            self._mending.add(mending)
            mending.add_done_callback(self._mending.discard)

    async def _one(self, fault: str) -> None:
        if fault in _STORE:
            await self._store(fault)
        elif fault in ("lossy", "slow", "ghost"):
            await self._weather(fault)
        else:
            action: Callable[[], Awaitable[None]] = getattr(self, f"_{fault}")
            await action()

    def _span(self) -> float:
        """How long a fault lasts: mostly shorter than a lease, often about as long, sometimes much longer."""
        return self.random.choice([0.05, 1.0, 4.0, 7.0, 15.0, 15.0 * self.plan.pace]) * self.random.uniform(0.5, 1.5)

    async def _store(self, fault: str) -> None:
        faults, seconds = self.world.faults, self._span()
        assert faults is not None
        self.trace(f"store: {fault} for {seconds:.2f} s")
        for name, probability in _STORE[fault]:
            setattr(faults, name, probability)
        await asyncio.sleep(seconds)
        for name, _ in _STORE[fault]:
            setattr(faults, name, 0.0)

    async def _weather(self, fault: str) -> None:
        seconds = self._span()
        self.trace(f"network: {fault} for {seconds:.2f} s")
        name, value = {"lossy": ("lost", 0.03), "slow": ("slow", 0.2), "ghost": ("ghost", 0.4)}[fault]
        self.network.weather = _with(self.network.weather, name, value)
        await asyncio.sleep(seconds)
        self.network.weather = _with(self.network.weather, name, 0.0)

    async def _outage(self) -> None:
        seconds = min(self._span(), 30.0)
        self.trace(f"store: no answers for {seconds:.2f} s")
        self.world.stop_answering()
        await asyncio.sleep(seconds)
        self.world.answer_again()

    async def _partition(self) -> None:
        one, other = self.random.choice(self.engines), self.random.choice(self.workers)
        pair, seconds = frozenset((one.name, other.name)), self._span()
        self.trace(f"partition: {one.name} | {other.name} for {seconds:.2f} s")
        self.network.cut.add(pair)
        await asyncio.sleep(seconds)
        self.network.cut.discard(pair)

    async def _skew(self) -> None:
        engine = self.random.choice(self.engines)
        skew_us = self.random.choice([0, 1, -1]) * self.random.randint(0, 1_500_000)
        self.trace(f"{engine.name}: clock off by {skew_us / 1e6:.3f} s")
        engine.skew(skew_us)

    async def _crash_engine(self) -> None:
        engine = self.random.choice(self.engines)
        if engine.up:
            self.trace(f"{engine.name}: killed")
            engine.crash()
            await self._again(engine)

    async def _stop_engine(self) -> None:
        engine = self.random.choice(self.engines)
        if engine.up and engine.host.running:
            self.trace(f"{engine.name}: stops in good order")
            try:
                async with asyncio.timeout(30):
                    await engine.stop()
            except (StorageError, TimeoutError) as error:
                self.trace(f"{engine.name}: could not stop: {error!r}")
                if engine.up:
                    engine.crash()
            await self._again(engine)

    async def _crash_worker(self) -> None:
        worker = self.random.choice(self.workers)
        if worker.up:
            self.trace(f"{worker.name}: killed")
            worker.crash()
            await self._again(worker)

    async def _drain_worker(self) -> None:
        worker = self.random.choice(self.workers)
        if worker.up and worker.host.running:
            self.trace(f"{worker.name}: drains")
            await worker.drain()
            await self._again(worker)

    async def _again(self, host: EngineHost | WorkerHost) -> None:
        await asyncio.sleep(self._span())
        if not host.up:
            await host.start()
            self.trace(f"{host.name}: up again")

    async def _pause_engine(self) -> None:
        await self._pause(self.random.choice(self.engines))

    async def _pause_worker(self) -> None:
        await self._pause(self.random.choice(self.workers))

    async def _pause(self, machine: EngineHost | WorkerHost) -> None:
        host, seconds = machine.host, self._span()
        if host.dead or not host.running:
            return
        self.trace(f"{machine.name}: frozen for {seconds:.2f} s")
        host.pause()
        await asyncio.sleep(seconds)
        host.resume()

    async def mend(self) -> None:
        """No more faults; everything that was broken works."""
        for mending in list(self._mending):
            mending.cancel()
        await asyncio.gather(*self._mending, return_exceptions=True)
        self.world.faults = self._no_faults()
        self.world.answer_again()
        self.network.cut.clear()
        self.network.weather = Weather()
        machines: list[EngineHost | WorkerHost] = [*self.engines, *self.workers]
        for machine in machines:
            machine.host.resume()
            if isinstance(machine, EngineHost) and machine.up and not machine.ready:
                machine.crash()  # its start or its stop was given up when the storm ended
            if isinstance(machine, WorkerHost) and machine.up and machine.leaving:
                machine.crash()
            if not machine.up:
                await machine.start()
        for engine in self.engines:
            engine.skew(0)

    def _no_faults(self) -> Faults:
        assert self.world.faults is not None
        return Faults(random=self.world.faults.random)


def _with(weather: Weather, name: str, value: float) -> Weather:
    changed: dict[str, Any] = {name: value}
    return replace(weather, **changed)
