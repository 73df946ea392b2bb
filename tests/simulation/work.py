"""What simulated tasks do: they take virtual time and end by chance, the same way for the same attempt and seed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgspec

from windlass.runtimes import failures, port

#: A run with more visits than this goes in circles.
ENDLESS: Final = 30


class Work:
    """How tasks behave in this run of the simulation, and what was executed."""

    def __init__(self, seed: int, *, slow_s: float) -> None:
        self.seed, self.slow_s = seed, slow_s
        self.calm = False  #: from now on everything succeeds, and soon
        self.executed: Counter[str] = Counter()
        #: Tasks that workers were given: run, visit, path, epoch, session.
        self.delivered: set[tuple[str, int, str, int, str]] = set()
        #: Credits that the workers' present streams have taken back, by session.
        self.taken_back: Counter[str] = Counter()
        #: Runs that go in circles, for somebody to end.
        self.weary: set[str] = set()
        #: Results that workers were told are recorded: run, visit, path, epoch.
        self.acknowledged: set[tuple[str, int, str, int]] = set()

    def chance(self, activation: port.Activation) -> Random:
        task = activation.task
        return Random(
            f"{self.seed}/{task.definition}/{task.idempotency_key}/{task.attempt}/{self.executed[task.idempotency_key]}"
        )

    def duration_s(self, chance: Random) -> float:
        if self.calm:
            return 0.2
        return chance.choices([0.0, 0.02, 0.5, 2.0, self.slow_s], [15, 40, 25, 17, 3])[0] * chance.uniform(0.5, 1.5)

    def outcome(self, activation: port.Activation, chance: Random) -> port.Completion:
        if self.calm:
            return port.Completion(output=msgspec.json.encode({"n": 3, "by": self.maker(activation)}))
        poll = activation.task.state.startswith("poll")
        kind = chance.choices(
            ["success", "fail", "fatal", "crash", "suspend", "ask", "route", "keep"],
            [60, 12, 3, 3, 30 if poll else 0, 8, 3, 5],
        )[0]
        if kind == "fail":
            return port.Completion(failure=port.Failure(chance.choice(["BOOM", "OTHER"]), "by chance", authored=True))
        if kind == "fatal":
            return port.Completion(failure=port.Failure("FATAL", "by chance", retryable=False, authored=True))
        if kind == "crash":
            return port.Completion(failure=port.Failure(failures.SANDBOX_CRASHED, "by chance"))
        if kind == "keep":
            return port.Completion(failure=port.Failure("BOOM", "after a checkpoint"), checkpoint=b'{"at": 7}')
        patch = {"n": str(chance.randint(0, 5)).encode()} if chance.random() < 0.3 else {}
        asks = self._asks(kind, chance)
        output = msgspec.json.encode({"n": chance.randint(0, 5), "by": self.maker(activation)})
        return port.Completion(output=output, patch=patch, asks=asks)

    @staticmethod
    def maker(activation: port.Activation) -> str:
        """The attempt's name, which goes into its result."""
        return f"{activation.task.visit}:{activation.task.path}:{activation.task.attempt}"

    def _asks(self, kind: str, chance: Random) -> tuple[port.Ask, ...]:
        if kind == "suspend":
            return (port.Suspend(b"1"),)
        if kind == "route":
            return (port.Route("aside"),)
        if kind != "ask":
            return ()
        asks: list[port.Ask] = [
            port.Spawn("leaf", b'{"n": 1}', detached=chance.random() < 0.3),
            port.WaitFor(("a",), timeout_us=chance.choice([5_000_000, 3_600_000_000])),
            port.Escalate("someone", "please", timeout_us=60_000_000),
        ]
        return (chance.choice(asks),)


class SimulatedSlots:
    """Stands where the jail's pool or the trusted handlers stand."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._running: dict[port.TaskKey, tuple[asyncio.Future[port.Completion], asyncio.TimerHandle]] = {}

    def submit(
        self, activation: port.Activation, on_note: Callable[[port.Note], None] | None = None
    ) -> asyncio.Future[port.Completion]:
        work, loop = self._work, asyncio.get_running_loop()
        chance = work.chance(activation)
        work.executed[activation.task.idempotency_key] += 1
        coming: asyncio.Future[port.Completion] = loop.create_future()
        took, outcome = work.duration_s(chance), work.outcome(activation, chance)
        limit = activation.limits.wall_us / 1e6
        often = max(activation.task.visit, work.executed[activation.task.idempotency_key])
        if often > ENDLESS and not (work.calm and activation.task.visit <= ENDLESS):
            took = limit * 0.9  # a run in circles: until somebody ends it, it shall not cost much
            work.weary.add(activation.task.run_id)
        if took > limit:
            took, outcome = limit, port.failed(failures.TIMEOUT, "too slow")
        if on_note is not None and took > 0.4:
            loop.call_later(took / 2, on_note, port.Heartbeat(b"5"))
        timer = loop.call_later(took, self._finish, activation.task.key, outcome)
        self._running[activation.task.key] = (coming, timer)
        return coming

    def cancel(self, key: port.TaskKey) -> Any:
        if key in self._running:
            self._running[key][1].cancel()
            self._finish(key, port.failed(failures.CANCELLED, "interrupted"))

    def _finish(self, key: port.TaskKey, outcome: port.Completion) -> None:
        coming, _ = self._running.pop(key, (None, None))
        if coming is not None and not coming.done():
            coming.set_result(outcome)
