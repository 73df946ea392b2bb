"""The engine, assembled: storage, core, dispatch and loops of one process. Knows nothing of gRPC or of which backend it
runs on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from windlass.engine.claims import Claims
from windlass.engine.clock import Clock
from windlass.engine.core.definition import Definition
from windlass.engine.deadlines import Deadlines
from windlass.engine.definitions import Definitions
from windlass.engine.dispatch import Dispatch
from windlass.engine.errors import EngineError
from windlass.engine.feed import Feed
from windlass.engine.leases import Leases
from windlass.engine.link import Workers
from windlass.engine.members import Members
from windlass.engine.modules import Modules, ReadCode
from windlass.engine.notices import Notices
from windlass.engine.sessions import Sessions
from windlass.engine.sweeping import Sweeper
from windlass.engine.timers import Timers
from windlass.engine.transition import HISTORY_KEEP, Transition
from windlass.storage.port import Storage

log = logging.getLogger(__name__)

#: Queue and timer shards of a store that several engines may share: about four per expected engine (foundationdb.md).
SHARDS_SHARED: Final = 16
#: Turns of one loop that one `maintain` makes at most.
TURNS_MAX: Final = 100


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set; the composition root fills it from flags, environment and file."""

    lease_us: int = 5_000_000  #: how long a worker may be silent before its tasks go to others
    sweep_us: int = 30_000_000  #: how often what has outlived its time is removed
    member_us: int = 6_000_000  #: how long an engine may be silent before others take its shards
    history_keep: int = HISTORY_KEEP  #: events of a run that are always kept; the log is begun afresh after as many
    storage_name: str = ""  #: shown to people


class Engine:
    """One engine on a store. `revive` compiles stored documents, `read_code` judges task code at upload."""

    def __init__(
        self,
        storage: Storage,
        revive: Callable[[bytes], Definition],
        *,
        clock: Clock | None = None,
        options: Options | None = None,
        read_code: ReadCode | None = None,
    ) -> None:
        self.storage = storage
        self.clock = clock or Clock()
        self.options = options or Options()
        self.engine_id = self.clock.new_id()
        self.started_us = self.clock.now_us()
        self.notices = Notices()
        self.dispatch = Dispatch()
        self.definitions = Definitions(revive)
        self.modules = Modules(storage, self.clock, read_code)
        shards = SHARDS_SHARED if storage.shared else 1
        self.transition = Transition(storage, self.clock, self.definitions, self.dispatch, self.notices, shards)
        self.transition.history_keep = self.options.history_keep
        self.transition.quotas.look_us = self.options.member_us
        self.leases = Leases(self.transition)
        self.sessions = Sessions(storage, self.clock, self.dispatch, self.leases, self.options.lease_us)
        self.members = Members(storage, self.clock, self.engine_id, self.options.member_us, shards)
        self.timers = Timers(self.transition, self.clock, self._own_shards)
        self.claims = Claims(self.transition, self.dispatch, self._own_shards)
        self.deadlines = Deadlines(self.clock, self.dispatch, self.leases)
        self.sweeper = Sweeper(self.transition, self.clock, self.options.sweep_us)
        self.feed = Feed(storage, self.dispatch, self.notices, self.timers)
        self.workers = Workers(self.clock, self.dispatch, self.leases, self.sessions, self.notices, self.engine_id)
        self.transition.on_unknown = self.sessions.suspect
        self.accepting = False
        self._loops = [self.timers, self.claims, self.sessions, self.deadlines, self.sweeper, self.transition.quotas]
        if storage.shared:
            self._loops += [self.members, self.feed]

    def _own_shards(self) -> Iterable[int]:
        return self.members.mine if self.storage.shared else (0,)

    async def start(self) -> None:
        """Begin work: overdue timers fire, lapsed sessions are closed, queued tasks wait for workers."""
        if self.storage.shared:
            await self.members.turn()
        await self.transition.quotas.begin()
        for loop in self._loops:
            loop.start()
        self.accepting = True

    async def maintain(self) -> tuple[Counter[str], bool]:
        """What the loops do by themselves, now and at once: renew what this engine looks after, fire due timers, return
        the leases of lapsed workers and of overdue attempts, hand queued tasks to workers with credit, and remove what
        has outlived its time. What was done, by name, and whether more was due than TURNS_MAX turns of a loop take.

        For tests, operators, and hosts that give an engine its time call by call. Raises StorageError.
        """
        done: Counter[str] = Counter()
        left = False
        if self.storage.shared:
            await self.members.maintain(1)
        for loop in (self.timers, self.sessions, self.deadlines, self.claims, self.sweeper):
            counts, more = await loop.maintain(TURNS_MAX)
            done += counts
            left |= more
        return done, left

    def check_accepting(self) -> None:
        """Raises EngineError ENGINE_DRAINING while the engine stops."""
        if not self.accepting:
            raise EngineError("ENGINE_DRAINING", "this engine is stopping; try again, or ask another one")

    def drain(self) -> None:
        """Take no more starts, and tell the workers to go elsewhere."""
        self.accepting = False
        for session in list(self.dispatch.connected.values()):  # those that poll as well
            session.outlet.send_drain()

    async def stop(self) -> None:
        """End all loops. What is in the store stands as it is; another engine, or the next start, goes on with it."""
        self.accepting = False
        for loop in reversed(self._loops):
            await loop.stop()
        if self.storage.shared:
            await self.members.leave()
