"""The load: authors who start runs one after the other, signal and cancel some of them, wait for their ends, and write
down every promise an engine gave them.

A call that failed without an answer is repeated with the same request_id, at whichever engine: a promise counts from
the first answer, and the repetitions must not make two runs, or two signals, of one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, TypeVar

import grpc

from tests.acceptance.chaos.workloads import DEFINITIONS, INPUTS, KINDS, SIGNALS
from windlass.client import Client, WindlassError
from windlass.client.values import RunResult, new_id
from windlass.definition.source import from_value

T = TypeVar("T")

#: Answers after which a call is repeated: nobody was there, nobody answered in time, or the engine says "try again".
_PASSING: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@dataclass
class Accepted:
    """A start that was answered, and what came of it."""

    kind: str
    workflow_id: str
    run_id: str = ""
    signals: int = 0  #: accepted
    result: RunResult | None = None


@dataclass
class Record:
    """Everything that was asked and promised."""

    runs: list[Accepted] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)  #: workflow ids of all starts, answered or not
    refusals: list[str] = field(default_factory=list)  #: answers that nothing in the load explains: defects
    repeated: Counter[str] = field(default_factory=Counter)  #: calls that had to be repeated, by reason

    repaired: int = 0  #: runs parked with CRASH_LOOP, and repaired after the last fault

    @property
    def ended(self) -> int:
        """Runs whose result was seen."""
        return sum(run.result is not None for run in self.runs)


class Load:
    """`authors` side by side, until `stop`."""

    def __init__(self, clients: list[Client], random: Random, authors: int = 8, kinds: tuple[str, ...] = KINDS) -> None:
        self.record = Record()
        self._clients, self._random, self._kinds = clients, random, kinds
        self._authors = authors
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._progress = asyncio.Event()

    async def register(self) -> None:
        """The definitions; children first, as a revision is resolved when its parent is registered."""
        for document in DEFINITIONS:
            await self._clients[0].register(from_value(document, document["workflow"]))

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._author(number)) for number in range(self._authors)]

    async def progressed(self, more: int, seconds: float) -> bool:
        """Wait until `more` runs than now have ended; False if they do not within `seconds`."""
        goal = self.record.ended + more
        try:
            async with asyncio.timeout(seconds):
                while self.record.ended < goal:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    async def finish(self, seconds: float) -> None:
        """No new starts; wait until every run begun has ended, for `seconds` at most."""
        self._stopping = True
        operator = asyncio.create_task(self._operate())
        _, left = await asyncio.wait(self._tasks, timeout=seconds)
        for task in (operator, *left):
            task.cancel()
        await asyncio.wait([operator])
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _operate(self) -> None:
        """What a person would do when the faults are over: runs parked because their workers kept dying go on."""
        while True:
            for run_id, incident_id in await self._say(_crash_loops) or ():
                request = new_id()
                await self._say(lambda client, r=run_id, i=incident_id, q=request: _retry(client, r, i, q))  # type: ignore[misc]
                self.record.repaired += 1
            await asyncio.sleep(0.5)

    async def _author(self, number: int) -> None:
        turn = 0
        while not self._stopping:
            turn += 1
            await self._one(self._random.choice(self._kinds), f"a{number}-{turn}")

    async def _one(self, kind: str, name: str) -> None:
        run = Accepted(kind, f"{name}-{kind}")
        request = new_id()
        self.record.asked.add(run.workflow_id)
        options: dict[str, Any] = {"workflow_id": run.workflow_id, "request_id": request}
        started = await self._say(lambda client: client.start(kind, INPUTS[kind], **options))
        if started is None:
            return
        run.run_id = started.run_id
        self.record.runs.append(run)
        await self._steer(run)
        run.result = await self._say(lambda client: client.wait(run.run_id, timeout=4.0))
        self._progress.set()

    async def _steer(self, run: Accepted) -> None:
        for value in SIGNALS if run.kind == "signals" else ():
            request = new_id()
            await self._say(lambda client, v=value, r=request: client.signal(run.run_id, "tick", v, request_id=r))  # type: ignore[misc]
            run.signals += 1
        if run.kind == "cancelled":
            request = new_id()
            await self._say(lambda client: client.cancel(run.run_id, request_id=request))

    async def _say(self, call: Callable[[Client], Awaitable[T]]) -> T | None:
        """The answer, however often it takes. None: refused, which is noted."""
        while True:
            try:
                return await call(self._random.choice(self._clients))
            except TimeoutError:
                self.record.repeated["still open"] += 1
            except WindlassError as error:
                if error.code not in _PASSING or error.reason == "INTERNAL":
                    self.record.refusals.append(str(error))
                    return None
                self.record.repeated[error.reason] += 1
            await asyncio.sleep(self._random.uniform(0.02, 0.2))


async def _crash_loops(client: Client) -> list[tuple[str, str]]:
    """Run and incident, of runs that were parked because their worker died too often."""
    return [(each.run.run_id, each.incident_id) async for each in client.incidents() if each.code == "CRASH_LOOP"]


async def _retry(client: Client, run_id: str, incident_id: str, request_id: str) -> str:
    return await client.resolve_incident(run_id, incident_id, by="chaos", request_id=request_id)
