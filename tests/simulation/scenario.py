"""One simulation from its plan to its verdict: build, storm, mend, let time run on, check."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from random import Random
from typing import Final
from unittest.mock import patch

from tests.simulation import verdict
from tests.simulation.authors import CHAIN, LEAF, Author
from tests.simulation.clients import Clients
from tests.simulation.eager import Eager
from tests.simulation.engine_host import EngineHost
from tests.simulation.nemesis import Nemesis
from tests.simulation.network import Network
from tests.simulation.plan import Plan
from tests.simulation.virtual_loop import Host, NothingWillHappen, VirtualLoop, bury
from tests.simulation.work import ENDLESS, Work
from tests.simulation.worker_host import WorkerHost
from windlass.definition.compile import compile_document
from windlass.definition.source import from_value
from windlass.engine import feed, sessions, strays, timers
from windlass.engine.core import flow
from windlass.engine.core.definition import Definition
from windlass.engine.engine import Options
from windlass.engine.registering import store_revision
from windlass.storage.memory import Faults, MemoryWorld

#: After the storm, time for everything to become quiet with faults gone and tasks quick, before it is looked at.
CALM_S: Final = 150.0
#: Endless loops are parked early: at the engine's own hundred thousand states, a few are seven million events.
SPIN_MAX: Final = 1_000

#: How often the invariants are checked while it storms.
LOOKS: Final = 12

_POLLS = {
    (feed, "LOOK_SECONDS"): 1.0,
    (timers, "LOOK_SECONDS"): 1.0,
    (timers, "LOOK_ALONE_SECONDS"): 30.0,
    (sessions, "LOOK_SECONDS"): 2.0,
    (strays, "LOOK_US"): 10_000_000,
}


@dataclass
class Verdict:
    """What came of a plan."""

    plan: Plan
    problems: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    hours: float = 0.0
    facts: dict[str, int] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        return not self.problems


class Simulation:
    """The hosts and the store of one plan, on the running virtual loop."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.verdict = plan, Verdict(plan)
        self.random = Random(f"simulation {plan.seed}")
        self.world = MemoryWorld(faults=Faults(random=Random(f"store {plan.seed}")))
        self.network = Network(Random(f"network {plan.seed}"))
        self.work = Work(plan.seed, slow_s=20.0)
        options = Options(
            lease_us=int(5_000_000 * plan.pace),
            member_us=int(6_000_000 * plan.pace),
            sweep_us=int(30_000_000 * plan.pace),
        )
        self.engines = [
            EngineHost(f"engine{n}", self.world, self.network, options, plan.seed * 10 + n, shared=plan.shared)
            for n in range(plan.engines)
        ]
        self.workers = [
            WorkerHost(f"worker{n}", self.engines, self.network, self.work, Random(f"worker {plan.seed} {n}"))
            for n in range(plan.workers)
        ]
        eager = Eager(self.workers, Random(f"eager {plan.seed}"))
        self.clients = Clients(self.engines, self.network, Random(f"clients {plan.seed}"), self.trace, eager)
        self.nemesis = Nemesis(
            plan, self.world, self.network, self.engines, self.workers, Random(f"nemesis {plan.seed}"), self.trace
        )
        self.revisions: list[str] = []
        self.definitions: dict[str, Definition] = {}

    def trace(self, line: str) -> None:
        self.verdict.trace.append(f"{asyncio.get_running_loop().time():12.3f}  {line}")

    def problem(self, what: str) -> None:
        self.trace(f"PROBLEM {what}")
        self.verdict.problems.append(what)

    async def run(self) -> None:
        """All of it."""
        for machine in self.machines():
            await machine.start()
        await self._register()
        for _ in range(self.plan.rounds):
            await self._storm()
            await self._calm()
        await self._end_all()
        self._finish()

    async def _register(self) -> None:
        author = Author(Random(f"author {self.plan.seed}"), self.plan.span_s)
        fixed = [compile_document(from_value(document)) for document in (LEAF, CHAIN)]
        compiled = [*fixed, *(author.write(f"flow{n}") for n in range(6))]
        for each in compiled:
            engine = self.engines[0]
            await engine.host.run(store_revision(engine.engine, "default", each))
        self.definitions = {each.definition.name: each.definition for each in compiled}
        self.revisions = ["chain", *(each.definition.name for each in compiled[1:])]

    async def _storm(self) -> None:
        raging = asyncio.create_task(self.nemesis.rage())
        calling = [asyncio.create_task(work) for work in (self._starts(), self._steers(), self._tends(), self._ends())]
        for _ in range(LOOKS):
            await asyncio.sleep(self.plan.storm_s / LOOKS)
            self._look()
        for task in (raging, *calling):
            task.cancel()
        for outcome in await asyncio.gather(raging, *calling, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _starts(self) -> None:
        for _ in range(self.plan.runs):
            await asyncio.sleep(self.random.uniform(0, 1.4 * self.plan.storm_s / self.plan.runs))
            await self.clients.start(self.random.choice(self.revisions))

    async def _steers(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(0, self.plan.storm_s / self.plan.runs / 2))
            await self.clients.steer()

    async def _tends(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(0, self.plan.storm_s / 5))
            await self.clients.tend(patience=0.5)

    async def _ends(self) -> None:
        while True:
            await asyncio.sleep(6 + 0.2 * self.plan.pace)
            for run_id in sorted(self.work.weary):
                await self.clients.end(run_id)
            self.work.weary.clear()

    async def _calm(self) -> None:
        """Everything is mended and looked after; then what can move has moved."""
        await self.nemesis.mend()
        self.work.calm = True
        self.trace("the storm is over")
        ending = asyncio.create_task(self._ends())
        for _ in range(3):
            await self._end_endless()
            await asyncio.sleep(CALM_S * self.plan.pace / 3)
            await self.clients.tend()
        ending.cancel()
        self._look()
        for stuck in verdict.stuck(self):
            self.problem(stuck)
        self.work.calm = False

    async def _end_endless(self) -> None:
        """Runs that go round and round would keep all workers busy for ever."""
        for state in verdict.open_runs(self):
            if state.visit > ENDLESS:
                await self.clients.end(state.run_id)

    async def _end_all(self) -> None:
        """Cancel what is left; children and grandchildren go with it or are found in the next round."""
        for _ in range(4):
            left = verdict.open_runs(self)
            if not left:
                return
            self.work.calm = True
            for state in left:
                await self.clients.end(state.run_id)
            await asyncio.sleep(900)
            await self.clients.tend()
        for state in verdict.open_runs(self):
            self.problem(f"still open an hour after its cancel: {state}")

    def _look(self) -> None:
        for problem in verdict.look(self):
            self.problem(problem)

    def _finish(self) -> None:
        for problem in verdict.final(self):
            self.problem(problem)
        self.verdict.hours = asyncio.get_running_loop().time() / 3600
        self.verdict.facts = verdict.facts(self)

    def graves(self) -> list[Host]:
        """All hosts that ever were."""
        found = [machine.host for machine in self.machines()]
        return [*found, *(host for machine in self.machines() for host in machine.graves)]

    def machines(self) -> list[EngineHost | WorkerHost]:
        return [*self.engines, *self.workers]


class _Complaints(logging.Handler):
    """The engine's own complaints: what it logs as an error is a problem."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__(logging.ERROR)
        self._simulation = simulation

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._simulation.problem(f"logged by {record.name}: {record.getMessage()} {error!r}")


def simulate(plan: Plan) -> Verdict:
    """Run a plan in virtual time."""
    verdict = Verdict(plan)
    paced = {where: seconds * plan.pace for where, seconds in _POLLS.items()}
    for (module, name), seconds in paced.items():
        setattr(module, name, seconds)
    try:
        with patch.object(flow, "SPIN_MAX", SPIN_MAX), asyncio.Runner(loop_factory=VirtualLoop) as runner:
            loop = runner.get_loop()
            assert isinstance(loop, VirtualLoop)
            try:
                return runner.run(_simulate(plan, verdict))
            except NothingWillHappen as silence:
                loop.give_up()
                loop.set_exception_handler(lambda loop, context: None)
                verdict.problems.append(str(silence))
                return verdict
    finally:
        for (module, name), seconds in _POLLS.items():
            setattr(module, name, seconds)


async def _simulate(plan: Plan, verdict: Verdict) -> Verdict:
    simulation = Simulation(plan)
    simulation.verdict = verdict
    logger, complaints = logging.getLogger("windlass"), _Complaints(simulation)
    logger.addHandler(complaints)
    logger.propagate = False
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: simulation.problem(f"nobody caught: {context}")
    )
    try:
        await simulation.run()
    except Exception as error:
        logging.getLogger("simulation").exception("the simulation itself failed")
        simulation.problem(f"the simulation failed: {error!r}")
    finally:
        logger.removeHandler(complaints)
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        logging.disable(logging.CRITICAL)
        for machine in [*simulation.engines]:
            machine.storage._closed = True
        await bury(simulation.graves())
        logging.disable(logging.NOTSET)
    return simulation.verdict
