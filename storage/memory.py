"""The in-memory store: for simulation, tests and `memory:`. It behaves like a cluster, and misbehaves like one when
told to.

A `MemoryWorld` is what is stored; each `open()` gives a `MemoryStorage`, a handle as one engine has it, so that several
engines share a world, and a world outlives an engine that crashes. All time is the event loop's, and all chance is
`Faults.random`, so on a loop with virtual time and one seed a run repeats exactly.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from random import Random
from typing import Final

from windlass.storage.backoff import Conflict, Forgotten, TooOld
from windlass.storage.memory_world import MemorySnapshot, Versions
from windlass.storage.optimistic import OptimisticStorage, OptimisticTransaction
from windlass.storage.port import TRANSACTION_SECONDS_MAX, CommitUnknown, StorageError, Unavailable
from windlass.storage.watches import LocalWatch

#: How long an operation waits for an answer before it gives up.
DEADLINE_SECONDS: Final = 5.0


@dataclass
class Faults:
    """Probabilities from 0 to 1 of what may go wrong; change them while running as you like.

    At commit, at most one of the first seven happens, so their sum is at most 1.
    """

    random: Random = field(default_factory=lambda: Random(0))
    #: Refused as if another had changed what was read; tried again inside `transact`.
    conflict: float = 0.0
    #: The answer is lost and the commit landed (or did not); the body runs again with `maybe_committed`.
    forgotten_landed: float = 0.0
    forgotten_lost: float = 0.0
    #: No answer in time: the caller gets `CommitUnknown`, and it landed, never does, or does up to 5 s later if
    #: nothing conflicts.
    unknown_landed: float = 0.0
    unknown_lost: float = 0.0
    unknown_late: float = 0.0
    #: `Unavailable` at this read or commit; nothing is committed.
    unavailable: float = 0.0
    #: An answer takes up to `delay_seconds` instead of one turn of the loop.
    delay: float = 0.0
    delay_seconds: float = 0.05
    #: A commit fires some armed watch whose key did not change.
    spurious_watch: float = 0.0

    def happens(self, probability: float) -> bool:
        return probability > 0 and self.random.random() < probability

    def at_commit(self) -> str:
        """Which of the first seven happens to this commit; empty for none."""
        draw = self.random.random()
        for name in _COMMIT_FAULTS:
            draw -= getattr(self, name)
            if draw < 0:
                return name
        return ""


_COMMIT_FAULTS: Final = (
    "conflict",
    "forgotten_landed",
    "forgotten_lost",
    "unknown_landed",
    "unknown_lost",
    "unknown_late",
    "unavailable",
)


class MemoryWorld:
    """What is stored. Belongs to one event loop at a time."""

    def __init__(self, *, faults: Faults | None = None) -> None:
        self.versions = Versions()
        self.faults = faults
        self.answering: asyncio.Event | None = None

    def __len__(self) -> int:
        return len(self.versions)

    def open(self, *, shared: bool = True, deadline_seconds: float = DEADLINE_SECONDS) -> MemoryStorage:
        """A handle of its own on this world."""
        return MemoryStorage(self, shared=shared, deadline_seconds=deadline_seconds)

    def stop_answering(self) -> None:
        """From now on nothing is answered:

        Calls end in `Unavailable` (a commit in `CommitUnknown`) at their deadline.
        """
        self.answering = self.answering or asyncio.Event()

    def answer_again(self) -> None:
        """End of the outage; whoever still waits goes on."""
        if self.answering is not None:
            self.answering.set()
            self.answering = None

    def dump(self) -> dict[bytes, bytes]:
        """All rows of the present, in key order, for tests and invariant checks."""
        return dict(self.versions.rows_at(b"", b"\xff", False, self.versions.version))


class MemoryStorage(OptimisticStorage):
    """A `Storage` of the port over a `MemoryWorld` (one of its own unless given)."""

    def __init__(
        self, world: MemoryWorld | None = None, *, shared: bool = False, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        self.world = MemoryWorld() if world is None else world
        faults = self.world.faults
        super().__init__(
            shared=shared, deadline_seconds=deadline_seconds, random=faults.random if faults else Random(0)
        )
        self._watches: set[LocalWatch] = set()

    def snapshot(self) -> MemorySnapshot:
        if self._closed:
            raise StorageError("the store was closed")
        return self.world.versions.snapshot(self.now())

    async def network(self) -> None:
        faults = self.world.faults
        if self.world.answering is not None:
            await self._outage(self.world.answering)
        if faults is None or not faults.happens(faults.delay):
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(faults.random.uniform(0, faults.delay_seconds))
        if faults is not None and faults.happens(faults.unavailable):
            raise Unavailable("injected: no answer")

    async def commit(self, tx: OptimisticTransaction) -> None:
        if tx.writes:
            await self._sent(tx)
            self._commit_with_faults(tx)
        elif tx.watches:
            await self.network()
        self._arm(tx)
        if tx.writes:
            await asyncio.sleep(0)

    async def close(self) -> None:
        await super().close()
        for watch in self._watches:
            watch.cancel()
        self._watches.clear()

    async def _outage(self, answering: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._deadline):
                await answering.wait()
        except TimeoutError as silence:
            raise Unavailable(f"no answer within {self._deadline} s") from silence

    async def _sent(self, tx: OptimisticTransaction) -> None:
        """The commit on its way.

        Cancelling the caller does not call it back: it lands (with faults: in half of all cases).
        """
        outage = self.world.answering is not None
        try:
            await self.network()
        except asyncio.CancelledError:
            faults = self.world.faults
            if not outage and (faults is None or faults.happens(0.5)):
                self._land_if_it_can(tx)
            raise
        except Unavailable as silence:
            if outage:
                raise CommitUnknown(str(silence)) from silence
            raise

    def _commit_with_faults(self, tx: OptimisticTransaction) -> None:
        faults = self.world.faults
        fate = faults.at_commit() if faults is not None else ""
        if fate == "unavailable":
            raise Unavailable("injected: no answer, nothing committed")
        if fate == "conflict":
            raise Conflict
        if fate == "unknown_late":
            self._land_late(tx)
        elif fate not in ("forgotten_lost", "unknown_lost"):
            tx.check_age()
            tx.commit_version = self.world.versions.commit(tx)
        if fate.startswith("forgotten"):
            raise Forgotten
        if fate.startswith("unknown"):
            raise CommitUnknown(f"injected: {fate}")
        if faults is not None and faults.happens(faults.spurious_watch):
            self._fire_any(faults.random)

    def _land_late(self, tx: OptimisticTransaction) -> None:
        """It lands up to the age limit later, if nothing conflicts then. Its snapshot stays open in the meantime."""
        delay = self._random.uniform(0, TRANSACTION_SECONDS_MAX)
        tx.keep_snapshot()
        loop = asyncio.get_running_loop()
        loop.call_later(delay, self._land_if_it_can, tx)

    def _land_if_it_can(self, tx: OptimisticTransaction) -> None:
        with contextlib.suppress(Conflict, TooOld):
            tx.check_age()
            self.world.versions.commit(tx)
        tx.drop_kept()

    def _arm(self, tx: OptimisticTransaction) -> None:
        self._watches = {watch for watch in self._watches if not watch.settled} if tx.watches else self._watches
        self.world.versions.arm(tx, tx.watches)
        self._watches.update(tx.watches)

    def _fire_any(self, random: Random) -> None:
        watched = sorted(self.world.versions.watches.keys())
        if watched:
            for watch in self.world.versions.watches.take_written([random.choice(watched)]):
                watch.fire()
