"""Defects planted on purpose: each takes one thing away that the engine must not do without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from windlass.engine import capacity, carrying, claims, dispatch, keys, link, run_rows, sessions, timers, unit
from windlass.engine.core import commands as cmd
from windlass.engine.core import decide
from windlass.engine.core import effects as fx
from windlass.engine.errors import EngineError
from windlass.engine.service import asking
from windlass.engine.strays import Strays
from windlass.storage.port import StorageError

Plant = Callable[[], list[tuple[Any, Any, Any]]]


@contextmanager
def planted(name: str) -> Iterator[None]:
    """With this defect in the engine."""
    changes = DEFECTS[name]()
    before = [(where, what, _get(where, what)) for where, what, _ in changes]
    try:
        for where, what, value in changes:
            _put(where, what, value)
        yield
    finally:
        for where, what, value in before:
            _put(where, what, value)


def _get(where: Any, what: Any) -> Any:
    return where[what] if isinstance(where, dict) else getattr(where, what)


def _put(where: Any, what: Any, value: Any) -> None:
    if isinstance(where, dict):
        where[what] = value
    else:
        setattr(where, what, value)


async def _nothing(*_: Any) -> None:
    return None


def _effect_ignored(kind: type) -> Plant:
    return lambda: [(carrying.CARRYING, kind, _nothing)]


def _epoch_not_checked() -> list[tuple[Any, Any, Any]]:
    """Whatever epoch a report names, it is taken as the one that holds."""
    real = decide._JUDGES[cmd.TaskSucceeded]

    def judge(turn: Any, command: cmd.TaskSucceeded) -> None:
        node = turn.node(command.path)
        epoch = node.epoch if node is not None and node.phase == "leased" else command.epoch
        real(turn, msgspec.structs.replace(command, epoch=epoch, visit=turn.state.visit))

    return [(decide._JUDGES, cmd.TaskSucceeded, judge)]


def _acknowledged_before_commit() -> list[tuple[Any, Any, Any]]:
    async def record(self: link.Link, reports: Any) -> None:
        from windlass.engine.leases import Told

        self._tell(reports, [Told(True)] * len(reports))
        try:
            await self._workers.leases.report(reports)
        except StorageError:
            return

    return [(link.Link, "_record", record)]


def _timer_not_removed() -> list[tuple[Any, Any, Any]]:
    """A timer fires and stays: it will fire again."""

    async def fire(self: timers.Timers, work: unit.Unit, rows: Any) -> None:
        for key, value in rows:
            ns, run_id, timer, due_us = timers._parts(key)
            try:
                await self._one(work, ns, run_id, timer, due_us, value)
            except (decide.Rejection, EngineError):
                continue

    return [(timers.Timers, "_fire", fire)]


def _retry_not_queued() -> list[tuple[Any, Any, Any]]:
    real = unit.Unit.enqueue

    def enqueue(self: unit.Unit, work: Any, task: fx.ScheduleTask, kind: str) -> None:
        if task.attempt < 2:
            real(self, work, task, kind)

    return [(unit.Unit, "enqueue", enqueue)]


def _signal_twice() -> list[tuple[Any, Any, Any]]:
    """What the store runs again is not recognised, and neither is what a client repeats."""

    async def recall(*_: Any) -> None:
        return None

    return [(asking, "recall", recall)]


def _index_row_stays() -> list[tuple[Any, Any, Any]]:
    def write_listing(work: unit.Unit, state: Any, before: Any) -> None:
        work.tr.set(keys.listing(state.namespace, state.workflow, state.status, state.run_id), b"")

    return [(run_rows, "_write_listing", write_listing)]


def _strays_not_sought() -> list[tuple[Any, Any, Any]]:
    """A commit that is unknown counts as failed: nobody looks for the leases it may have written."""

    async def find(*_: Any) -> list[Any]:
        return []

    return [(Strays, "find", find)]


def _dead_session_keeps_leases() -> list[tuple[Any, Any, Any]]:
    return [(sessions.Sessions, "_return", _nothing)]


def _credit_not_returned() -> list[tuple[Any, Any, Any]]:
    return [(dispatch.Dispatch, "release", lambda self, *_: None)]


def _units_not_counted() -> list[tuple[Any, Any, Any]]:
    return [(capacity.Capacity, "room", lambda self, ring, waiting: 1)]


def _units_stay_taken() -> list[tuple[Any, Any, Any]]:
    return [(dispatch.Dispatch, "end", lambda self, session, task: session.held.pop(task, None))]


def _needs_not_found() -> list[tuple[Any, Any, Any]]:
    async def look_into(self: claims.Claims) -> None:
        """A queue with needs that was there before its worker, or is another engine's, stays unknown."""
        self._dispatch.unseen.clear()

    return [(claims.Claims, "_look_into", look_into)]


def _queue_entry_stays() -> list[tuple[Any, Any, Any]]:
    """A claimed task's entry is left in its queue."""

    class Keeping:
        def __init__(self, tr: Any) -> None:
            self._tr = tr

        def clear(self, key: bytes) -> None:
            if keys.unpack(key)[0] != 10:
                self._tr.clear(key)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tr, name)

    real = claims.Claims._take

    async def take(self: claims.Claims, work: unit.Unit, ring: Any, rows: Any) -> None:
        work.tr, kept = Keeping(work.tr), work.tr
        try:
            await real(self, work, ring, rows)
        finally:
            work.tr = kept

    return [(claims.Claims, "_take", take)]


def _children_not_told() -> list[tuple[Any, Any, Any]]:
    return [(carrying.CARRYING, fx.TellParent, _nothing)]


def _delivered_before_commit() -> list[tuple[Any, Any, Any]]:
    """Tasks go out from within the transaction, and once more if it is tried again."""
    real = unit.Unit.lease_to

    async def lease_to(self: unit.Unit, *args: Any) -> None:
        await real(self, *args)
        assigned, self.after.assigned = self.after.assigned, []
        self.transition.dispatch._send(assigned)

    return [(unit.Unit, "lease_to", lease_to)]


DEFECTS: Final[dict[str, Plant]] = {
    "the lease epoch is not checked": _epoch_not_checked,
    "results are acknowledged before the commit": _acknowledged_before_commit,
    "a fired timer is not removed": _timer_not_removed,
    "a retry is not queued": _retry_not_queued,
    "a repeated signal counts again": _signal_twice,
    "the old index row stays": _index_row_stays,
    "an unknown commit counts as failed": _strays_not_sought,
    "a dead session keeps its leases": _dead_session_keeps_leases,
    "the credit of a failed claim is lost": _credit_not_returned,
    "units are leased that are in use": _units_not_counted,
    "units of an ended lease stay taken": _units_stay_taken,
    "queues of tasks with needs are not looked for": _needs_not_found,
    "a claimed task stays in its queue": _queue_entry_stays,
    "a child's end is not told to its parent": _children_not_told,
    "tasks are delivered before the commit": _delivered_before_commit,
    "a lease is not removed": _effect_ignored(fx.ReleaseLease),
    "a consumed signal stays in the inbox": _effect_ignored(fx.ConsumeSignal),
    "a timer is not disarmed": _effect_ignored(fx.DisarmTimer),
    "a withdrawn task stays in its queue": _effect_ignored(fx.WithdrawTask),
    "an escalation is not closed": _effect_ignored(fx.CloseEscalation),
}
