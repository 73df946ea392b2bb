"""Timers that are due.

One that the run no longer has armed, by id and due time, changes nothing: it lost against what disarmed it."""

from __future__ import annotations

from msgspec.structs import replace

from windlass.engine.core import attempts, ending, flow, stopping, waits
from windlass.engine.core.branches import branch_at
from windlass.engine.core.closing import close
from windlass.engine.core.commands import Cancel, Failure, TimerFired
from windlass.engine.core.effects import CloseEscalation
from windlass.engine.core.escalations import escalation_id
from windlass.engine.core.events import NodeChanged, RunBegan, RunTimersSet
from windlass.engine.core.state import Move, Node
from windlass.engine.core.turn import Timers, Turn


def fired(turn: Turn, command: TimerFired) -> None:
    timer = (command.timer, command.due_us)
    head, _, rest = command.timer.partition(":")
    if head == "run":
        if timer in turn.state.timers:
            _run_timer(turn, rest, tuple(left for left in turn.state.timers if left != timer))
        return
    path, _, kind = rest.rpartition(":")
    node = turn.live(int(head), path)
    if node is not None and timer in node.timers:
        left = tuple(other for other in node.timers if other != timer)
        _node_timer(turn, path, replace(node, timers=left), kind)


def _run_timer(turn: Turn, kind: str, left: Timers) -> None:
    match kind:
        case "start":
            turn.apply(RunBegan(turn.now_us, left))
        case "timeout":
            turn.apply(RunTimersSet(turn.now_us, left, "timeout"))
            _run_timeout(turn)
        case "grace":
            ending.grace_over(turn)
        case "shield":
            turn.apply(RunTimersSet(turn.now_us, left, "shield over"))
            ending.shield_over(turn)


def _run_timeout(turn: Turn) -> None:
    """The run's time is over: its timeout route, or a cancel with source timeout."""
    state, definition = turn.state, turn.definition
    if state.move is not None and state.move.kind == "fail":
        return
    if definition.timeout_route and state.state and state.cancel is None:
        flow.abort(turn, Move("state", definition.timeout_route), "timeout", "the run's timeout")
        return
    ending.cancel(turn, Cancel(source="timeout", reason="the run's timeout has passed"))


def _node_timer(turn: Turn, path: str, node: Node, kind: str) -> None:
    match kind:
        case "delay":
            _expire(turn, path, node, "success", None)
        case "until":
            turn.apply(NodeChanged(turn.now_us, path, node, "until"))
            waits.end_wait(turn, path, "success")
        case "retry":
            _again(turn, path, replace(node, attempt=node.attempt + 1), "retry_due")
        case "again":
            _again(turn, path, node, "retry_due")
        case "poll":
            polled = replace(node, attempt=1, counts=(node.counts[0] + 1,), opened_us=node.opened_us)
            _again(turn, path, polled, "poll_due")
        case "s2s":
            failure = Failure("SCHEDULE_TO_START_TIMEOUT", "no worker took the task in time", retryable=False)
            _expire(turn, path, node, "timeout", failure)
        case "s2c":
            _expire(turn, path, node, "timeout", _too_long(node))
        case _:  # body, pollmax, asked
            _expire(turn, path, node, "timeout", TIMEOUT)


TIMEOUT = Failure("TIMEOUT", "the longest time for this step has passed")


def _too_long(node: Node) -> Failure:
    """What a step's overall limit means: of a task that backs off, its last failure says more."""
    if node.phase == "backoff" and node.failure is not None:
        return node.failure
    if node.kind in ("task", "poll"):
        return Failure("SCHEDULE_TO_CLOSE_TIMEOUT", "all attempts together took too long", retryable=False)
    return TIMEOUT


def _again(turn: Turn, path: str, node: Node, why: str) -> None:
    branch = branch_at(turn.definition, turn.state, path)
    node = attempts.to_start(turn, path, replace(node, since_us=0), branch)
    turn.apply(NodeChanged(turn.now_us, path, attempts.queued_again(turn, path, node, branch), why))


def _expire(turn: Turn, path: str, node: Node, outcome: str, failure: Failure | None) -> None:
    """The node ends by time; what it had open is taken back."""
    if node.kind in ("escalate", "ask:escalate") and node.phase == "waiting":
        turn.owe(CloseEscalation(escalation_id=escalation_id(turn, path), status="timeout"))
        turn.disarm(node.timers)
    else:
        stopping.drop(turn, path, node, failure.message if failure is not None else "")
    close(turn, path, outcome, b"null", failure, dropped=True)
