"""A unit of work: the runs that one storage transaction changes, and what must happen after its commit.

Theory of operation
-------------------
`Transition.run` (transition.py) opens a `Unit` for every attempt of a transaction. The work gives commands to runs;
each command is decided by the pure core, staged in memory, and its effects are turned into writes. One run may get
several commands (a batch of results): its record is read once and written once. Effects that concern another run (a
parent, a child) are queued and given to it in the same transaction, up to FOLLOW_UPS_MAX and FOLLOW_UPS_BYTES; what is
left over is stored as timers that are due at once. Nothing leaves the unit before the commit: tasks for workers,
wake-ups and answers lie in `after` until then. An attempt that is run again or fails gives back the worker slots it had
reserved.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from windlass.engine import keys, postponed
from windlass.engine.connected import Assignment, Connected
from windlass.engine.core import tree
from windlass.engine.core.activation import activation_of
from windlass.engine.core.commands import Command, TaskLeased
from windlass.engine.core.decide import Decision, NeedItems, NeedSignals, Rejection, decide
from windlass.engine.core.definition import Definition
from windlass.engine.core.effects import Effect, ScheduleTask, StartChild, SubscribeMessage, WithdrawTask
from windlass.engine.core.state import CLOSED, Node, RunState
from windlass.engine.core.units import kind_of, split_kind
from windlass.engine.errors import EngineError
from windlass.engine.postponed import Postponed
from windlass.engine.records import get_large, joined, pack, set_record, unpack
from windlass.engine.run_rows import write_run
from windlass.engine.work import After, Work
from windlass.storage.port import Transaction

if TYPE_CHECKING:
    from windlass.engine.capacity import QueueKey
    from windlass.engine.eager import FirstTask
    from windlass.engine.transition import Transition

#: The worker judges start-to-close itself, from when the attempt really begins; the engine only if the worker does not.
DEADLINE_SLACK_US: Final = 5_000_000

#: Commands to other runs and starts of children carried out in the same transaction before the rest is put off.
FOLLOW_UPS_MAX: Final = 200
#: The same by the bytes of the runs concerned: each is written anew, its history grows, and all must fit together.
FOLLOW_UPS_BYTES: Final = 1_000_000


class Unit:
    """The runs one transaction changes. Made by `Transition.run`; use it only inside the work it was given to."""

    def __init__(self, transition: Transition, tr: Transaction) -> None:
        self.tr, self.transition = tr, transition
        self.now_us = transition.clock.now_us()
        self.after = After()
        self._works: dict[tuple[str, str], Work] = {}
        self.follow_ups: deque[tuple[str, str, Command]] = deque()
        self.children: deque[tuple[str, StartChild]] = deque()
        self._settled = False
        self.awaited: deque[tuple[str, str, SubscribeMessage]] = deque()  #: of new waits, which a kept message may end
        self.eager: FirstTask | None = None  #: who wants the first task of the run that is started here
        self.run_bytes = 0  #: of the records of runs that were loaded, and of the inputs of those that are made
        self.outbox_rows = 0
        self.postponed = 0
        self._put_off_as = ""

    # Runs

    async def load(self, ns: str, run_id: str) -> Work:
        """The run, read once per unit. Raises EngineError RUN_NOT_FOUND."""
        work = self._works.get((ns, run_id))
        if work is None:
            value = await get_large(self.tr, keys.run(ns, run_id))
            if value is None:
                raise EngineError(
                    "RUN_NOT_FOUND", f"there is no run {run_id!r} in namespace {ns!r}", run_id=run_id, namespace=ns
                )
            state = unpack(RunState, value)
            definition = await self._definition(ns, state)
            self.run_bytes += len(value)
            work = self._works[ns, run_id] = Work(ns, run_id, definition, state, len(value))
        return work

    async def load_ahead(self, runs: Iterable[tuple[str, str]]) -> None:
        """Read runs side by side, where a read is a journey to another machine. `load` says what is wrong with one."""
        if self.transition.storage.shared:
            await asyncio.gather(*(self.load(ns, run_id) for ns, run_id in set(runs)), return_exceptions=True)

    async def _definition(self, ns: str, state: RunState) -> Definition:
        try:
            return await self.transition.definitions.compiled(self.tr, ns, state.workflow, state.revision)
        except EngineError:
            if state.status not in CLOSED:
                raise
            why = f"the run is {state.status}, and its definition is deleted"
            raise Rejection("RUN_CLOSED", why, run_id=state.run_id, state=state.status) from None

    async def peek(self, ns: str, run_id: str) -> RunState | None:
        """The run's state as staged or stored, without its definition, which may be gone; None if there is no run."""
        work = self._works.get((ns, run_id))
        if work is not None:
            return work.state
        value = await get_large(self.tr, keys.run(ns, run_id))
        return None if value is None else unpack(RunState, value)

    def create(self, ns: str, run_id: str, definition: Definition) -> Work:
        """A run that does not exist yet; its first command must be Start."""
        work = self._works[ns, run_id] = Work(ns, run_id, definition, None)
        return work

    async def give(self, ns: str, run_id: str, command: Command) -> Decision:
        """Give a command to a run. Raises Rejection (nothing changed), or EngineError RUN_NOT_FOUND."""
        return await self.apply(await self.load(ns, run_id), command)

    async def apply(self, work: Work, command: Command) -> Decision:
        """Decide, stage the outcome, carry out its effects."""
        decision: Decision | None = None
        now = work.now_us = self.now_us if not _virtual(work, command) else await self._virtual_now(work)
        if "#" in (path := getattr(command, "path", "")):
            await self._load_item(work, tree.owner_of(path))
        while decision is None:
            try:
                decision = decide(work.definition, work.state, work, command, now)
            except NeedItems as need:
                await self._load_items(work, need.path)
            except NeedSignals as need:
                await self._load_signals(work, need.names)
        self._stage(work, decision)
        if decision.effects:
            await self._carry_out(work, decision.effects)
        return decision

    async def _carry_out(self, work: Work, effects: Sequence[Effect]) -> None:
        """Tasks come last, and those that the same decision withdrew not at all.

        A lease is a decision of its own, which finds the run as this one has left it.
        """
        tasks: dict[tuple[int, str], ScheduleTask] = {}
        try:
            for effect in effects:
                if isinstance(effect, ScheduleTask):
                    tasks[effect.visit, effect.path] = effect
                elif isinstance(effect, WithdrawTask) and (effect.visit, effect.path) in tasks:
                    del tasks[effect.visit, effect.path]
                else:
                    await self.transition.carrying[type(effect)](self, work, effect)
            for task in tasks.values():
                await self.lease(work, task)
        except Rejection as refused:
            # Callers take a Rejection for "nothing changed", and here something has been staged.
            raise RuntimeError(f"run {work.run_id}: an effect was refused: {refused}") from refused

    async def _virtual_now(self, work: Work) -> int:
        record = await self.transition.definitions.namespace(self.tr, work.ns)
        return record.virtual_now_us

    def _stage(self, work: Work, decision: Decision) -> None:
        work.state = decision.state
        if decision.events:
            work.events.extend(decision.events)
        if decision.items_cleared:
            work.cleared = True
            work.loaded.clear()
            work.changed.clear()
        for path, node in decision.items.items():
            work.loaded[path] = node
            work.changed.add(path)

    async def _load_item(self, work: Work, path: str) -> None:
        if path not in work.loaded and not work.cleared:
            value = await get_large(self.tr, keys.item_of(work.packed, path))
            work.loaded[path] = None if value is None else unpack(Node, value)
            work.item_bytes[path] = len(value or b"")

    async def _load_items(self, work: Work, path: str) -> None:
        if not path.endswith("#"):
            await self._load_item(work, path)
            return
        begin = keys.items_under(work.ns, work.run_id, path)
        for key, value in joined(await self.tr.get_range(begin, begin + b"\xff")):
            found = str(keys.unpack(key)[3])
            if found not in work.changed:
                work.loaded[found] = unpack(Node, value)
                work.item_bytes[found] = len(value)
        work.loaded[path + "*"] = None

    async def _load_signals(self, work: Work, names: Sequence[str]) -> None:
        for name in names:
            begin = keys.inbox(work.ns, work.run_id, name)
            rows = await self.tr.get_range(begin, keys.end(begin), limit=1)
            work.signals_seen[name] = (b"", b"")
            if rows:
                work.signals_seen[name] = rows[0][0], await get_large(self.tr, rows[0][0]) or b""

    # Tasks

    async def lease(self, work: Work, task: ScheduleTask) -> None:
        """Hand a task to the worker whose turn it is, or queue it if none has a free slot."""
        dispatch = self.transition.dispatch
        kind = f"{task.runtime}:{task.handler}" if task.handler else task.runtime
        needy: QueueKey | None = None
        if task.needs:
            kind = kind_of(task.runtime, task.handler, task.needs)
            needy = work.ns, task.queue, kind
        eager = self._eager_for(work, (work.ns, task.queue, kind), needy)
        avoid = task.avoid if task.avoid_us else ()
        session = (
            eager.session
            if eager is not None
            else dispatch.reserve(work.ns, task.queue, kind, avoid=avoid, needy=needy is not None)
        )
        if session is None:
            self.enqueue(work, task, kind)
        else:
            spans = task.start_to_close_us, task.heartbeat_us
            try:
                await self.lease_to(work, task.path, task.visit, session, *spans, needy, eager)
            except BaseException:
                dispatch.release(session, needy, eagerly=eager is not None)
                raise

    def _eager_for(self, work: Work, ring: QueueKey, needy: QueueKey | None) -> FirstTask | None:
        """Whoever waits for this run's first task with the answer to its start, if it may have this one; asked once."""
        eager = self.eager
        if eager is None or eager.run_id != work.run_id:
            return None
        self.eager = None
        return eager if self.transition.dispatch.reserve_eagerly(eager.session, ring, needy=needy is not None) else None

    async def lease_to(
        self,
        work: Work,
        path: str,
        visit: int,
        session: Connected,
        start_to_close_us: int,
        heartbeat_us: int,
        needy: QueueKey | None = None,
        eager: FirstTask | None = None,
    ) -> None:
        """Lease a queued task to `session`, whose slot the caller reserved. Raises Rejection if it is not queued.

        `needy`: the ring by which it was reserved, if that has needs. `eager`: whose answer carries it.
        """
        deadline = self.now_us + start_to_close_us + DEADLINE_SLACK_US if start_to_close_us else 0
        holder = session.record
        command = TaskLeased(path=path, visit=visit, session=holder.session, worker=holder.worker, lease_us=deadline)
        await self.apply(work, command)
        assert work.state is not None
        node = tree.find(work.state, work.loaded, path)
        assert node is not None
        key = (work.ns, work.run_id, visit, path, node.epoch)
        activation = activation_of(work.definition, work.state, work.item, path, node)
        times = node.opened_us, self.now_us, deadline, heartbeat_us
        assignment = Assignment(session, key, activation, work.state, *times, needy, eager)
        self.tr.set(*assignment.lease_record(work.packed))
        self.after.assigned.append(assignment)

    def enqueue(self, work: Work, task: ScheduleTask, kind: str) -> None:
        """Write the task's queue entry."""
        head = keys.queue(work.ns, task.queue, kind)
        shard = self.shard(work.run_id)
        entry = keys.queue_entry(head, shard, task.priority, task.queued_us, work.run_id, task.visit, task.path)
        queued: tuple[object, ...] = (task.attempt, task.start_to_close_us, task.heartbeat_us)
        self.tr.set(entry, pack((*queued, task.avoid, self.now_us + task.avoid_us) if task.avoid else queued))
        self.after.queued.add((work.ns, task.queue, kind))

    def shard(self, run_id: str) -> int:
        """The queue and timer shard of a run."""
        return zlib.crc32(run_id.encode()) % self.transition.shards

    # Commit

    async def settle(self) -> None:
        """Carry out what is owed to other runs, as far as it fits into this transaction; once."""
        if self._settled:
            return
        self._settled = True
        for done in range(FOLLOW_UPS_MAX):
            if done and self.run_bytes > FOLLOW_UPS_BYTES:  # one at least, or what is put off might never be done
                break
            if not await self._carry_out_next():
                break

    async def write(self) -> None:
        """Carry out or put off what is owed to other runs, then write every changed run."""
        await self.settle()
        for awaited in self.awaited:
            await self.transition.give_kept(self, *awaited, later=True)
        for ns, child in self.children:
            self.put_off(ns, child.parent.run_id, child)
        for ns, run_id, command in self.follow_ups:
            self.put_off(ns, run_id, command)
        for work in self._works.values():
            if work.events or work.state is not work.before:
                write_run(self, work)
        self._bump()

    async def _carry_out_next(self) -> bool:
        """The next of what is owed to other runs; whether there was any."""
        if self.children:
            ns, child = self.children.popleft()
            self.run_bytes += len(child.input)
            await self.transition.start_child(self, ns, child)
        elif self.follow_ups:
            await self.transition.follow_up(self, *self.follow_ups.popleft())
        elif self.awaited:
            await self.transition.give_kept(self, *self.awaited.popleft())
        else:
            return False
        return True

    def put_off(self, ns: str, run_id: str, work: Postponed) -> None:
        """Store work as a timer that is due at once. Several for one run keep their order.

        The name is the unit's own, so that two units of the same microsecond do not write over each other.
        """
        self._put_off_as = self._put_off_as or self.transition.clock.new_id()
        self.postponed += 1
        due = self.now_us
        name = f"~{self._put_off_as}-{self.postponed:06}"
        set_record(self.tr, keys.timer(self.shard(run_id), due, ns, run_id, name), postponed.pack(work))
        self.armed(due)

    def armed(self, due_us: int) -> None:
        """Remember the earliest timer armed, to wake the timer loop."""
        if not self.after.due_us or due_us < self.after.due_us:
            self.after.due_us = due_us

    def _bump(self) -> None:
        """On a shared store, ring the keys that other engines watch."""
        if not self.transition.storage.shared:
            return
        for ns, queue, kind in self.after.queued:
            needs = split_kind(kind)[1]  # engines do not know each other's kinds with needs: one key for all of a queue
            self.tr.add(keys.bump("needs", ns, queue) if needs else keys.bump("queue", ns, queue, kind), 1)
        if self.after.due_us:
            self.tr.add(keys.bump("timers"), 1)
        if not all(self.transition.dispatch.looks_after(session_id) for session_id, _, _ in self.after.stops):
            self.tr.add(keys.bump("stops"), 1)
        if self.after.touched:
            for bucket in {zlib.crc32(run_id.encode()) % 16 for _, run_id, _ in self.after.touched}:
                self.tr.add(keys.bump("runs", str(bucket)), 1)

    def leased_to(self) -> set[str]:
        """The sessions that this unit leases tasks to."""
        return {assignment.session for assignment in self.after.assigned}

    def abandon(self) -> None:
        """Give back the slots reserved by an attempt that did not commit."""
        for assignment in self.after.assigned:
            self.transition.dispatch.release(assignment.to, assignment.needy, eagerly=assignment.eager is not None)
        self.after = After()


def _virtual(work: Work, command: Command) -> bool:
    return work.state.virtual_time if work.state is not None else getattr(command, "virtual_time", False)
