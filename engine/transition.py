"""The transition: load, decide, append, apply, in one storage transaction. The only way a run changes.

`run` opens a unit of work for each attempt of a transaction and, once it is committed, lets out what the unit owes:
tasks to workers, wake-ups to waiters and to the timer loop. Follow-ups between runs (a child's end, a cancelled child)
happen here too.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from windlass.engine import keys
from windlass.engine.carrying import CARRYING
from windlass.engine.clock import Clock
from windlass.engine.core import commands as cmd
from windlass.engine.core import effects as fx
from windlass.engine.core.decide import Rejection
from windlass.engine.core.state import CLOSED, RunState
from windlass.engine.definitions import Definitions
from windlass.engine.dispatch import Dispatch
from windlass.engine.errors import EngineError
from windlass.engine.notices import Notices
from windlass.engine.quotas import Quotas
from windlass.engine.records import MessageRecord, clear_large, get_large, pack, unpack, whole_rows
from windlass.engine.revisions import patiently
from windlass.engine.unit import Unit
from windlass.engine.work import After
from windlass.storage.port import CommitUnknown, Storage, StorageError, Transaction

T = TypeVar("T")
log = logging.getLogger(__name__)


#: Events of a run that are always kept, unless set otherwise.
HISTORY_KEEP = 10_000
#: Kept messages of one name and key that a new wait looks through.
KEPT_READ_MAX = 1000
#: Of them read at a time: they may be large.
KEPT_PAGE = 50


class Transition:
    """Gives commands to runs. One per engine; `shards` is the number of queue and timer shards of the store."""

    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        definitions: Definitions,
        dispatch: Dispatch,
        notices: Notices,
        shards: int,
    ) -> None:
        self.storage, self.clock, self.definitions = storage, clock, definitions
        self.dispatch, self.notices, self.shards = dispatch, notices, shards
        self.quotas = Quotas(storage, clock)
        self.carrying = CARRYING
        self.history_keep = HISTORY_KEEP  #: events after which a run's log is begun afresh
        #: Called with the sessions that an unknown commit may have leased tasks to.
        self.on_unknown: Callable[[set[str]], None] = lambda sessions: None
        self._telling: set[asyncio.Task[None]] = set()

    async def run(self, work: Callable[[Unit], Awaitable[T]]) -> T:
        """Run `work` in a transaction, commit, and let out what it owes.

        `work` may run more than once: it must make no ids and have no effect but through the unit. Raises what it
        raises (then nothing changed), and the storage's errors.
        """
        return await patiently(lambda: self.run_now(work))

    async def run_now(self, work: Callable[[Unit], Awaitable[T]]) -> T:
        """The same, and Loading instead of waiting for a revision: for loops on which everybody waits."""
        unit: Unit | None = None
        doubtful: set[str] = set()  #: sessions that an attempt leased to which may have been committed

        async def body(tr: Transaction) -> T:
            nonlocal unit
            if unit is not None:
                if tr.maybe_committed:
                    doubtful.update(unit.leased_to())
                unit.abandon()
            unit = Unit(self, tr)
            result = await work(unit)
            await unit.write()
            return result

        try:
            result = await self.storage.transact(body)
        except BaseException as error:
            if unit is not None:
                if isinstance(error, (CommitUnknown, asyncio.CancelledError)):
                    doubtful.update(unit.leased_to())
                    self._look_again(unit.after)
                unit.abandon()
            raise
        finally:
            if doubtful:
                self.on_unknown(doubtful)
        assert unit is not None
        self.notices.publish(unit.after)
        self.dispatch.deliver(unit.after)
        return result

    def _look_again(self, after: After) -> None:
        """The caller went away during the commit, and the commit may hold: what it owes must not be lost with it.

        On a shared store the bumps that were committed with it tell every engine (`feed.py`).
        """
        if not self.storage.shared:
            task = asyncio.get_running_loop().create_task(self._tell_of(after))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell_of(self, after: After) -> None:
        async def nothing(tr: Transaction) -> None:
            """Commits after what is under way."""

        try:
            await self.storage.transact(nothing)
            found = [await self.storage.read(_reading(state)) for state in after.closed]
        except StorageError as error:
            log.warning("a commit was cut off, and what became of it cannot be read: %s", error)
            found = []
        told = After()
        told.queued, told.due_us, told.touched = after.queued, after.due_us, after.touched
        told.closed = [state for state in found if state is not None and state.status in CLOSED]
        self.notices.publish(told)
        self.dispatch.deliver(told)

    async def give(self, ns: str, run_id: str, command: cmd.Command) -> tuple[RunState, RunState]:
        """Give one command to one run, in a transaction of its own: the run before and after.

        Raises Rejection, EngineError RUN_NOT_FOUND, and the storage's errors.
        """

        async def work(unit: Unit) -> tuple[RunState, RunState]:
            found = await unit.load(ns, run_id)
            before = found.state
            await unit.apply(found, command)
            assert before is not None
            assert found.state is not None
            return before, found.state

        return await self.run(work)

    async def follow_up(self, unit: Unit, ns: str, run_id: str, command: cmd.Command) -> None:
        """A command that one run's decision owes to another. A run that is closed or gone needs it no more."""
        try:
            await unit.give(ns, run_id, command)
        except Rejection as refused:
            log.debug("follow-up %s to run %s not needed: %s", type(command).__name__, run_id, refused)
        except EngineError as error:
            if error.reason != "RUN_NOT_FOUND":
                raise

    async def give_kept(
        self, unit: Unit, ns: str, run_id: str, wanted: fx.SubscribeMessage, *, later: bool = False
    ) -> None:
        """Give a new wait the first kept message that it takes; one that does not fit stays for another wait."""
        begin = keys.messages(ns, wanted.name, wanted.correlation_key)
        end, read = keys.end(begin), 0
        while read < KEPT_READ_MAX:
            rows = await whole_rows(unit.tr, begin, end, KEPT_PAGE, 5)
            for key, value in rows:
                if await self._offer(unit, ns, run_id, wanted, key, value, later):
                    return
            if len(rows) < KEPT_PAGE:
                return
            begin, read = rows[-1][0] + b"\x00", read + len(rows)

    async def _offer(
        self, unit: Unit, ns: str, run_id: str, wanted: fx.SubscribeMessage, key: bytes, value: bytes, later: bool
    ) -> bool:
        """Offer one kept message to a wait. Whether the search is over: it was taken, or the wait is over."""
        record = unpack(MessageRecord, value)
        if record.delivered or record.expires_us <= unit.now_us:
            return False
        signal = cmd.Signal(name=wanted.name, payload=record.payload, wait_id=wanted.wait_id)
        if later:
            unit.put_off(ns, run_id, signal)
        else:
            try:
                await unit.give(ns, run_id, signal)
            except Rejection as refused:
                return refused.reason != "SIGNAL_SCHEMA_MISMATCH"
        clear_large(unit.tr, key, len(value))
        unit.tr.set(key, pack(msgspec.structs.replace(record, payload=b"", delivered=True)))
        return True

    async def start_child(self, unit: Unit, ns: str, child: fx.StartChild) -> None:
        """Start a child run in its parent's transaction; one that cannot start reports its failure at once."""
        if await unit.tr.get(keys.run(ns, child.run_id)) is not None:
            return  # the same decision, carried out again
        parent = (await unit.load(ns, child.parent.run_id)).state
        assert parent is not None
        try:
            definition = await self.definitions.resolve(unit.tr, ns, child.workflow, child.revision, parent.created_us)
            self.definitions.check_input(definition, child.input)
        except EngineError as error:
            failure = cmd.Failure(error.reason, str(error), retryable=False)
            answer = cmd.ChildClosed(
                visit=child.parent.visit,
                path=child.parent.path,
                child_run_id=child.run_id,
                status="failed",
                failure=failure,
            )
            unit.follow_ups.append((ns, child.parent.run_id, answer))
            return
        start = cmd.Start(
            run_id=child.run_id,
            namespace=ns,
            workflow_id=child.workflow_id or child.run_id,
            input=child.input,
            queue=child.queue,
            parent=child.parent,
            root_run_id=parent.root_run_id or parent.run_id,
            virtual_time=parent.virtual_time,
            retry=parent.retry,
        )
        await unit.apply(unit.create(ns, child.run_id, definition), start)
        if child.workflow_id:
            unit.tr.set(keys.workflow_id(ns, child.workflow_id), child.run_id.encode())


def _reading(state: RunState) -> Callable[[Transaction], Awaitable[RunState | None]]:
    """Reads this run as it is stored now."""

    async def body(tr: Transaction) -> RunState | None:
        value = await get_large(tr, keys.run(state.namespace, state.run_id))
        return None if value is None else unpack(RunState, value)

    return body
