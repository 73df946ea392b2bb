"""The deadlines of attempts, and of first tasks that nothing is heard of.

A worker judges its attempts' deadlines itself; this is the second pair of eyes, for workers that do not.
"""

from __future__ import annotations

from windlass.engine.clock import Clock
from windlass.engine.connected import Connected
from windlass.engine.core import commands as cmd
from windlass.engine.dispatch import Dispatch
from windlass.engine.eager import send_unheard
from windlass.engine.leases import Leases
from windlass.engine.loops import Loop
from windlass.engine.work import TaskKey


class Deadlines(Loop):
    """Judges start-to-close and heartbeat deadlines of the leases of connected workers, a little after the worker
    should.
    """

    def __init__(self, clock: Clock, dispatch: Dispatch, leases: Leases, interval_seconds: float = 0.25) -> None:
        super().__init__("deadlines")
        self._clock, self._dispatch, self._leases, self._interval = clock, dispatch, leases, interval_seconds
        dispatch.on_held = self.wake

    async def turn(self) -> float | None:
        """Time out what is overdue. Sleeps without end while no worker holds a lease."""
        now = self._clock.now_us()
        overdue: list[tuple[TaskKey, cmd.TaskTimedOut]] = []
        holders: list[Connected] = []
        unheard: dict[Connected, None] = {}
        watching = False
        for session in self._dispatch.connected.values():
            for task, held in session.held.items():
                due = held.due_us()
                watching = True
                if held.unheard is not None:
                    unheard[session] = None
                if due and due <= now:
                    kind = "start_to_close" if held.deadline_us and held.deadline_us <= now else "heartbeat"
                    overdue.append((task, self._command(task, kind, held.deadline_us)))
                    holders.append(session)
        for (task, judged), holder, told in zip(overdue, holders, await self._leases.report(overdue), strict=True):
            if told.error is None and task in holder.held and holder.held[task].deadline_us > judged.lease_us:
                continue  # it was extended, and not through here; if that is over, too, the next turn says so
            self.done["attempts_timed_out"] += told.error is None
            self._dispatch.end(holder, task)  # or it ended elsewhere, as with a result given to another engine
            holder.outlet.send_stop(task, "timed_out" if told.error is None else "lost")
        for session in unheard:
            await send_unheard(session, self._dispatch, self._leases, now)
        return self._interval if watching else None

    def _command(self, task: TaskKey, kind: str, lease_us: int) -> cmd.TaskTimedOut:
        jitter = self._clock.random.random()
        return cmd.TaskTimedOut(path=task[3], visit=task[2], epoch=task[4], kind=kind, jitter=jitter, lease_us=lease_us)
