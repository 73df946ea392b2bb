"""Putting a task into its queue and taking it out again."""

from __future__ import annotations

from windlass.engine.core.definition import TaskBody, Timeouts
from windlass.engine.core.effects import ScheduleTask, WithdrawTask
from windlass.engine.core.limits import START_TO_CLOSE_US
from windlass.engine.core.state import Node
from windlass.engine.core.turn import Turn


def schedule(turn: Turn, path: str, task: TaskBody, timeouts: Timeouts, attempt: int, node: Node | None = None) -> None:
    """`node`: as it was before, if it was queued before."""
    state = turn.state
    turn.owe(
        ScheduleTask(
            path=path,
            visit=state.visit,
            attempt=attempt,
            queue=task.queue or state.queue,
            runtime=task.runtime,
            handler=task.handler,
            priority=state.priority,
            queued_us=turn.now_us,
            start_to_close_us=timeouts.start_to_close_us or START_TO_CLOSE_US,
            heartbeat_us=timeouts.heartbeat_us or 0,
            avoid=node.unable if node is not None else (),
            avoid_us=max(0, node.unable_us - turn.now_us) if node is not None else 0,
            needs=task.needs,
        )
    )


def withdraw(turn: Turn, path: str, task: TaskBody, node: Node) -> None:
    state = turn.state
    turn.owe(
        WithdrawTask(
            path=path,
            visit=state.visit,
            queue=task.queue or state.queue,
            runtime=task.runtime,
            handler=task.handler,
            priority=state.priority,
            queued_us=node.queued_us,
            needs=task.needs,
        )
    )
