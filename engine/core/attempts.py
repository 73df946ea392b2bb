"""Attempts of a task: leased, and then completed, failed, timed out or returned.

The lease epoch fences: a node's epoch rises at every lease, and a report under another epoch is refused with
LEASE_LOST. A report that was already recorded under its own epoch is refused with ALREADY_RECORDED, which its sender
may take as "done".
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from windlass.engine.core import asking, incidents, jsontext, tree
from windlass.engine.core.branches import branch_at, task_of
from windlass.engine.core.closing import NO_PATCH, close
from windlass.engine.core.commands import (
    Asks,
    Failure,
    TaskExtended,
    TaskFailed,
    TaskHeartbeat,
    TaskLeased,
    TaskReturned,
    TaskSucceeded,
    TaskTimedOut,
)
from windlass.engine.core.compensation import undo_entry
from windlass.engine.core.definition import Branch, RetryPolicy
from windlass.engine.core.effects import ArmTimer, ExtendLease
from windlass.engine.core.events import AttemptEnded, AttemptExtended, AttemptStarted, TaskCompleted, TaskLogged
from windlass.engine.core.joining import winding_down
from windlass.engine.core.limits import (
    AWAY_MAX,
    CONTEXT_BYTES_MAX,
    CRASHES_MAX,
    OUTPUT_BYTES_MAX,
    RESUME_BYTES_MAX,
    UNABLE_MAX,
    UNABLE_US,
    context_bytes,
)
from windlass.engine.core.refusal import Rejection
from windlass.engine.core.retry import DEFAULT_POLICY, delay_us, retryable
from windlass.engine.core.scheduling import schedule
from windlass.engine.core.state import Node
from windlass.engine.core.stopping import release
from windlass.engine.core.turn import Turn

Report = TaskSucceeded | TaskFailed | TaskReturned | TaskTimedOut | TaskHeartbeat | TaskExtended


def leased(turn: Turn, command: TaskLeased) -> None:
    node = turn.live(command.visit, command.path)
    if node is None or node.phase != "queued":
        raise Rejection("TASK_NOT_QUEUED", "the task no longer waits for a worker", path=command.path)
    timers = turn.disarm(node.timers, keep=("s2c", "body", "pollmax"))
    turn.apply(
        AttemptStarted(
            turn.now_us,
            command.path,
            command.session,
            command.worker,
            command.lease_us,
            timers,
            _run_timers(turn),
            node.attempt,
            node.epoch + 1,
        )
    )


def _run_timers(turn: Turn) -> tuple[tuple[str, int], ...] | None:
    """The run's timeout, if it counts from the first task and this is the first."""
    state = turn.state
    if state.timeout_from != "first_task" or state.timeout_us is None:
        return None
    if state.left_us is not None or any(timer == "run:timeout" for timer, _ in state.timers) or state.first_task_us:
        return None
    due_us = turn.now_us + state.timeout_us
    turn.owe(ArmTimer(timer="run:timeout", due_us=due_us))
    return (*state.timers, ("run:timeout", due_us))


def _fenced(turn: Turn, command: Report) -> Node:
    node = turn.live(command.visit, command.path)
    if node is not None and node.phase == "leased" and node.epoch == command.epoch:
        return node
    same = (command.visit, command.path, command.epoch) == turn.state.last
    if command.epoch and (same or (node is not None and node.recorded == command.epoch)):
        raise Rejection("ALREADY_RECORDED", "this attempt's result is recorded already")
    raise Rejection(
        "LEASE_LOST", "another attempt holds the task now, or it has ended: drop the result", path=command.path
    )


def heartbeat(turn: Turn, command: TaskHeartbeat) -> None:
    """Keeps the checkpoint on the node. No event: the event that ends the attempt carries it."""
    node = _fenced(turn, command)
    if len(command.checkpoint) > RESUME_BYTES_MAX:
        message = f"the checkpoint has {len(command.checkpoint)} bytes, {RESUME_BYTES_MAX} are allowed"
        raise Rejection("PAYLOAD_TOO_LARGE", message, limit=str(RESUME_BYTES_MAX))
    if command.checkpoint and (flaw := jsontext.flaw(command.checkpoint)):
        raise Rejection("INVALID_JSON", f"the checkpoint is {flaw}")
    turn.state = tree.put(turn.state, turn.items, command.path, replace(node, checkpoint=command.checkpoint))


def extended(turn: Turn, command: TaskExtended) -> None:
    """More time for the attempt. One without a deadline needs none, and a deadline never comes nearer."""
    node = _fenced(turn, command)
    if node.lease_us and command.lease_us > node.lease_us:
        turn.apply(AttemptExtended(turn.now_us, command.path, command.lease_us))
        _owe_extension(turn, command, node, command.lease_us)


def _owe_extension(turn: Turn, of: TaskExtended | TaskTimedOut, node: Node, lease_us: int) -> None:
    turn.owe(ExtendLease(path=of.path, visit=of.visit, epoch=of.epoch, session=node.session, lease_us=lease_us))


def succeeded(turn: Turn, command: TaskSucceeded) -> None:
    node = _fenced(turn, command)
    if command.logs:
        turn.apply(TaskLogged(turn.now_us, command.path, command.logs))
    path = command.path
    branch = branch_at(turn.definition, turn.state, path)
    output = command.output or b"null"
    problem = _unfit(turn, path, node, branch, output, command.asks)
    if problem is not None:
        _attempt_failed(turn, path, node, branch, problem, "failed", 0.5, NO_PATCH)
        return
    release(turn, path, node)
    asks = command.asks
    if asks is not None and winding_down(turn.state):
        if asking.holds(asks):  # it is not done: what it waits for will not begin
            turn.disarm(node.timers)
            turn.apply(TaskCompleted(turn.now_us, path, output, "cancelled", asks.set))
            turn.closed.append(path)
            return
    elif asks is not None and asking.carry_out(turn, path, node, branch, output, asks):
        return
    turn.disarm(node.timers)
    patch = command.asks.set if command.asks is not None else NO_PATCH
    _complete(turn, path, branch, output, patch)


def _complete(turn: Turn, path: str, branch: Branch, output: bytes, patch: Mapping[str, bytes]) -> None:
    state = turn.state
    take = path == "" and state.node_path == "" and not state.paused_us and not winding_down(state)
    if not take:
        turn.apply(TaskCompleted(turn.now_us, path, output, "success", patch))
        turn.closed.append(path)
        return
    undo = undo_entry(turn, output)
    turn.apply(TaskCompleted(turn.now_us, path, output, "success", patch, True, branch.output, undo=undo))


def _unfit(turn: Turn, path: str, node: Node, branch: Branch, output: bytes, asks: Asks | None) -> Failure | None:
    """Why the result cannot be recorded; None if it can."""
    limit = OUTPUT_BYTES_MAX
    if (task_limit := task_of(branch).limits.output_bytes) is not None:
        limit = min(limit, task_limit)
    if len(output) > limit:
        return Failure("OUTPUT_TOO_LARGE", f"the output has {len(output)} bytes, {limit} are allowed", retryable=False)
    if flaw := jsontext.misfit(branch.output_schema, output):
        code = "BAD_OUTPUT" if flaw.startswith("not JSON") else "SCHEMA_MISMATCH"
        return Failure(code, f"the output does not fit: {flaw}", retryable=False)
    if asks is not None and (bad := asking.problem(turn, path, asks)) is not None:
        return bad
    values = dict(asks.set) if asks is not None else {}
    if branch.output:
        values[branch.output] = output
    return too_large(turn, node, values)


def too_large(turn: Turn, node: Node, values: Mapping[str, bytes]) -> Failure | None:
    """Why the context cannot take these values beside what is there; None if it can."""
    if not values:
        return None
    size = sum(map(context_bytes, (turn.state.context, node.patch, values)))
    if size > CONTEXT_BYTES_MAX:  # some of them may replace others: count again, exactly
        size = context_bytes({**turn.state.context, **node.patch, **values})
    if size <= CONTEXT_BYTES_MAX:
        return None
    message = f"the context would have {size} bytes, {CONTEXT_BYTES_MAX} are allowed: keep large values outside of it"
    return Failure("CONTEXT_TOO_LARGE", message, retryable=False)


def failed(turn: Turn, command: TaskFailed) -> None:
    node = _fenced(turn, command)
    if command.logs:
        turn.apply(TaskLogged(turn.now_us, command.path, command.logs))
    branch = branch_at(turn.definition, turn.state, command.path)
    patch = NO_PATCH
    if command.asks is not None:
        patch = _kept_of_failure(turn, command.path, node, command.asks)
    failure = command.failure
    if failure.details and jsontext.unreadable(failure.details):
        failure = replace(failure, details=b"")
    _attempt_failed(turn, command.path, node, branch, failure, "failed", command.jitter, patch)


def _kept_of_failure(turn: Turn, path: str, node: Node, asks: Asks) -> Mapping[str, bytes]:
    """A failed attempt may still set and emit; what cannot be recorded is dropped, as the attempt has failed anyway."""
    asks = Asks(set=asks.set, emit=asks.emit)
    if asking.problem(turn, path, asks) is not None:
        return NO_PATCH
    asking.emit_all(turn, asks)
    fits = too_large(turn, node, asks.set) is None
    return asks.set if fits else NO_PATCH


def timed_out(turn: Turn, command: TaskTimedOut) -> None:
    """The attempt has failed; unless its judge does not know of an extension: then it is told, and nothing changes."""
    node = _fenced(turn, command)
    if command.kind == "start_to_close" and command.lease_us and node.lease_us > command.lease_us:
        _owe_extension(turn, command, node, node.lease_us)
        return
    branch = branch_at(turn.definition, turn.state, command.path)
    if task_of(branch).at_most_once:
        _park(
            turn,
            command.path,
            node,
            "LEASE_LOST",
            "the at-most-once task went silent; whether it acted is unknown",
            command.kind,
        )
        return
    what = "between heartbeats" if command.kind == "heartbeat" else "of one attempt"
    failure = Failure(f"{command.kind.upper()}_TIMEOUT", f"the longest time {what} has passed")
    _attempt_failed(turn, command.path, node, branch, failure, command.kind, command.jitter, NO_PATCH)


def _attempt_failed(
    turn: Turn,
    path: str,
    node: Node,
    branch: Branch,
    failure: Failure,
    why: str,
    jitter: float,
    patch: Mapping[str, bytes],
) -> None:
    """Try again by the policy, or close the node."""
    release(turn, path, node)
    recorded = why == "failed"
    policy = _policy(turn, branch)
    again = retryable(policy, failure, node.attempt) and not task_of(branch).at_most_once
    again = again and not winding_down(turn.state)
    if again and failure.next_delay_us is not None:
        due_us = turn.now_us + max(0, failure.next_delay_us)
    else:
        due_us = turn.now_us + delay_us(policy, node.attempt, jitter)
    deadline = min((due for timer, due in node.timers if timer.endswith(":s2c")), default=due_us)
    if not again or due_us > deadline:
        outcome = "timeout" if not recorded or failure.code == "TIMEOUT" else "failure"
        close(turn, path, outcome, b"null", failure, patch=patch, recorded=recorded)
        return
    timers = (*node.timers, turn.arm(path, "retry", due_us))
    merged = {**node.patch, **patch} if patch else node.patch
    backoff = replace(
        node, phase="backoff", session="", lease_us=0, timers=timers, failure=failure, patch=merged,
        recorded=node.epoch if recorded else node.recorded,
    )  # fmt: skip
    turn.apply(AttemptEnded(turn.now_us, path, why, failure, backoff))


def _policy(turn: Turn, branch: Branch) -> RetryPolicy:
    """The nearest that was said: step, definition, namespace."""
    return branch.retry or turn.definition.retry or turn.state.retry or DEFAULT_POLICY


def returned(turn: Turn, command: TaskReturned) -> None:
    """The lease ended without a result. One that was given back does not count as an attempt; a crash does, and when
    the attempts or the crash cap are used up by one, the run is parked: nobody knows whether the task acted.
    """
    node = _fenced(turn, command)
    path, branch = command.path, branch_at(turn.definition, turn.state, command.path)
    if winding_down(turn.state):
        release(turn, path, node)
        close(turn, path, "cancelled")
        return
    if not command.crashed and not _counts_all_the_same(node, branch, command):
        _given_back(turn, path, node, branch, command)
        return
    most = _policy(turn, branch).max_attempts
    used_up = bool(most) and node.attempt >= most
    last = node.crashes + 1 >= CRASHES_MAX or used_up
    node = replace(node, crashes=node.crashes + 1, attempt=node.attempt + (not last))
    if task_of(branch).at_most_once:
        _park(turn, path, node, "LEASE_LOST", "the at-most-once task lost its lease; whether it acted is unknown")
    elif last:
        _park(turn, path, node, "CRASH_LOOP", _crash_loop(node.crashes, most if used_up else 0, command.reason))
    elif node.crashes == 1:
        release(turn, path, node)
        requeue(turn, path, replace(node, session="", lease_us=0), branch, "crashed", _crash(command))
    else:
        _crash_backoff(turn, path, node, branch, command)


def _counts_all_the_same(node: Node, branch: Branch, command: TaskReturned) -> bool:
    """Whether it counts as a crash although nothing crashed: it had begun and must not run twice; or its lease came to
    nothing so often, for want of an engine or of a worker that gets it, that the task itself may be to blame: it can
    end an engine that shares its worker's machine, and be larger than the messages of a worker.
    """
    begun = command.unattended or command.interrupted
    return (begun and task_of(branch).at_most_once) or (_in_vain(command) and node.away >= AWAY_MAX)


def _in_vain(command: TaskReturned) -> bool:
    return command.unattended or command.undelivered


def _given_back(turn: Turn, path: str, node: Node, branch: Branch, command: TaskReturned) -> None:
    release(turn, path, node)
    if command.unable:
        _pass_on(turn, path, node, branch, command.reason)
        return
    why = Failure("ENGINE_AWAY", command.reason) if command.unattended else None
    node = replace(node, session="", lease_us=0, away=node.away + _in_vain(command))
    requeue(turn, path, node, branch, "returned", why)


def _crash_loop(crashes: int, most: int, reason: str) -> str:
    """`most`: the attempts that the retry policy allows, if these are used up; else 0."""
    times = "once" if crashes == 1 else f"{crashes} times"
    limit = f"its last attempt is used up (max_attempts: {most})" if most else "that is as often as it may"
    return f"the task crashed its worker {times}, and {limit}; whether it acted is unknown: {reason}"


def _pass_on(turn: Turn, path: str, node: Node, branch: Branch, reason: str) -> None:
    """The worker cannot run it: to another one. It is not asked again for a while, for it may get what it lacks."""
    failure = Failure("UNABLE", f"worker {node.worker} cannot run it: {reason or 'it did not say why'}")
    unable = (*(session for session in node.unable if session != node.session), node.session)[-UNABLE_MAX:]
    node = replace(
        node, session="", lease_us=0, failure=failure, unable=unable, unable_us=turn.now_us + UNABLE_US
    )  # fmt: skip
    node = to_start(turn, path, replace(node, since_us=node.since_us or node.queued_us), branch)
    turn.apply(AttemptEnded(turn.now_us, path, "unable", failure, queued_again(turn, path, node, branch)))


def _crash(command: TaskReturned) -> Failure:
    return Failure("CRASHED", f"the worker or its slot died: {command.reason}")


def _crash_backoff(turn: Turn, path: str, node: Node, branch: Branch, command: TaskReturned) -> None:
    release(turn, path, node)
    due_us = turn.now_us + delay_us(_policy(turn, branch), node.crashes - 1, command.jitter)
    failure = _crash(command)
    backoff = replace(
        node,
        phase="backoff",
        session="",
        lease_us=0,
        failure=failure,
        timers=(*node.timers, turn.arm(path, "again", due_us)),
    )
    turn.apply(AttemptEnded(turn.now_us, path, "crashed", failure, backoff))


def _park(turn: Turn, path: str, node: Node, code: str, message: str, why: str = "crashed") -> None:
    release(turn, path, node)
    failure = Failure(code, message, retryable=False)
    if winding_down(turn.state):
        close(turn, path, "failure", b"null", failure)
        return
    turn.disarm(node.timers)
    parked = replace(node, phase="incident", session="", lease_us=0, timers=(), failure=failure)
    turn.apply(AttemptEnded(turn.now_us, path, why, failure, parked))
    incidents.open_incident(turn, path, "lease", failure)


def requeue(turn: Turn, path: str, node: Node, branch: Branch, why: str, failure: Failure | None = None) -> None:
    """Back into the queue as the node is; held while the run is paused. `failure` is for readers."""
    node = to_start(turn, path, replace(node, since_us=0), branch)
    turn.apply(AttemptEnded(turn.now_us, path, why, failure, queued_again(turn, path, node, branch)))


def to_start(turn: Turn, path: str, node: Node, branch: Branch) -> Node:
    """With the limit of its waiting in the queue, unless a pause holds it: from now on, or, where workers could not run
    it, since it has waited for one that can.
    """
    limit_us = branch.timeouts.schedule_to_start_us
    if limit_us is None or turn.state.paused_us:
        return node
    return replace(node, timers=(*node.timers, turn.arm(path, "s2s", (node.since_us or turn.now_us) + limit_us)))


def queued_again(turn: Turn, path: str, node: Node, branch: Branch) -> Node:
    """The node as queued (or held, while the run is paused), with what is owed for it."""
    if turn.state.paused_us:
        return replace(node, phase="held")
    schedule(turn, path, task_of(branch), branch.timeouts, node.attempt, node)
    return replace(node, phase="queued", queued_us=turn.now_us)
