"""The stored records of a run: `RunState` and its tree of open work, the `Node`s of the current visit.

One run record holds the run and the nodes of its current visit inline; only the items of a map live in records of
their own (keyed by node path), so that ten thousand items are never one big record. A run's record does not grow with
its history.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from windlass.engine.core.commands import Failure, ParentRef
from windlass.engine.core.definition import RetryPolicy

#: Run states (stored as these strings).
OPEN = frozenset({"pending", "running", "waiting", "paused", "incident", "cancelling"})
CLOSED = frozenset({"completed", "failed", "cancelled", "terminated"})


class Node(msgspec.Struct, frozen=True, array_like=True):
    """A piece of open work: the state's own step, a branch, a map item, or an action's task.

    `phase` is one of: queued, leased, backoff (a retry's timer runs), waiting (signal, delay, poll, child, escalation),
    joining (parallel or map: children open), incident, done (kept until the join takes it), held (would be queued,
    but the run is paused), ready (a map item whose turn has not come).
    """

    phase: str
    #: task, parallel, map, wait, delay, poll, spawn, escalate; events (a state that only waits for its event
    #: transitions); ask:wait, ask:spawn, ask:escalate for what task code asked
    kind: str
    attempt: int = 0
    epoch: int = 0
    session: str = ""
    worker: str = ""
    lease_us: int = 0  #: deadline of the leased attempt
    opened_us: int = 0
    crashes: int = 0
    timers: tuple[tuple[str, int], ...] = ()  #: armed timers: id, due
    failure: Failure | None = None  #: the last one
    outcome: str = ""  #: when done: success, failure, timeout, approved, rejected, route:<name>
    output: bytes = b""
    patch: Mapping[str, bytes] = {}  #: context values set by the task, merged when the node is taken
    item: bytes = b""  #: a map item's input
    data: bytes = (
        b""  #: per kind: resume state, checkpoint, form, subscribed key … (JSON or msgpack, see the kind's file)
    )
    #: per kind: map (total, created, opened, succeeded, failed, active; see `tree.py`), task and poll (checks)
    counts: tuple[int, ...] = ()
    child: str = ""  #: child run id
    children: Mapping[str, Node] = {}  #: branches of a parallel; children that task code asked for
    queued_us: int = 0  #: when the task was put into its queue, as in its ScheduleTask
    recorded: int = 0  #: epoch of the last attempt whose own result was recorded
    checkpoint: bytes = b""  #: JSON: what the last attempt kept for the next one
    unable: tuple[str, ...] = ()  #: sessions of workers that gave the task back because they cannot run it
    unable_us: int = 0  #: until when they are not asked again
    away: int = 0  #: leases that ran out while no engine was there to renew them, or that never reached their worker
    since_us: int = 0  #: given back as unable: since when it waits for a worker that can run it; else 0


class Move(msgspec.Struct, frozen=True, array_like=True):
    """Where the run goes once exit actions and compensation are through."""

    kind: str  #: state | complete | fail | cancel
    to: str = ""  #: for state
    undo: str | None = None  #: compensate first: a scope's name, "" = everything, None = nothing
    failure: Failure | None = None
    output: bytes = b""
    on: str = ""  #: the outcome or signal that led to it


class Undo(msgspec.Struct, frozen=True, array_like=True):
    """A completed state that can be undone; its compensation sees `result`."""

    state: str
    visit: int
    result: bytes


class Incident(msgspec.Struct, frozen=True, array_like=True):
    """The run is parked here until someone repairs it.

    kind: open (the step at `path` could not be opened), lease (crash cap, or an at-most-once lease was lost), items
    (the next items of the map at `path` cannot be made), unhandled (the body failed and nothing takes the failure),
    flow (an action, guard or transition could not be evaluated), loop, undo, shell.
    """

    incident_id: str
    path: str
    kind: str
    code: str
    message: str
    opened_us: int


class CancelRequest(msgspec.Struct, frozen=True, array_like=True):
    source: str
    reason: str
    at_us: int


class RunState(msgspec.Struct, frozen=True, array_like=True):
    """One run, as stored."""

    namespace: str
    run_id: str
    workflow_id: str
    workflow: str
    revision: str
    status: str
    seq: int = 0  #: number of the last event
    state: str = ""
    visit: int = 0
    context: Mapping[str, bytes] = {}
    node: Node | None = None
    queue: str = "default"
    priority: int = 5
    created_us: int = 0
    started_us: int = 0
    closed_us: int = 0
    updated_us: int = 0
    output: bytes = b""
    failure: Failure | None = None  #: the last error, kept also while the run is open (A155)
    config: bytes = b"{}"
    metadata: Mapping[str, str] = {}
    parent: ParentRef | None = None
    root_run_id: str = ""
    forked_from: str = ""
    virtual_time: bool = False
    inbox: int = 0  #: buffered signals not yet consumed
    timers: tuple[tuple[str, int], ...] = ()  #: the run's own timers (timeout, delayed start, cancel grace)
    stage: str = "start"  #: where in the visit: start, enter, body, route, exit
    cursor: int = 0  #: enter or exit actions already done
    node_path: str = ""  #: path of `node`: "" the body, enter!<i>, exit!<i>, undo!<place in `undo`>.<visit>
    outcome: str = ""  #: of the body that has ended, in stage route and exit
    result: bytes = b"null"  #: of the last body that gave one
    move: Move | None = None  #: in stage start and exit: where to
    undo: tuple[Undo, ...] = ()  #: what compensation would undo, oldest first
    incidents: tuple[Incident, ...] = ()
    cancel: CancelRequest | None = None
    last: tuple[int, str, int] = (0, "", 0)  #: visit, path, epoch of the last result recorded by a step already taken
    spin: int = 0  #: states entered, and what was written, since the run last waited for anything
    deferred: tuple[str, ...] = ()  #: tokens of `Continue` commands still to come
    paused_us: int = 0  #: since when; 0 = not paused
    pause_reason: str = ""
    held: bool = False  #: work was withheld by the pause
    left_us: int | None = None  #: while paused: what is left of the run's timeout
    timeout_us: int | None = None
    timeout_from: str = "start"
    entered_us: int = 0  #: when the current state was entered
    first_task_us: int = 0  #: when the first task was leased
    compacted: int = 0  #: number of the event that carries the whole state, the last one made; 0 = none
    step_until: int = 0  #: number of the visit before which the step that is under way ends; 0 = no step
    retry: RetryPolicy | None = None  #: of its namespace, when it was started
