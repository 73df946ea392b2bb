"""The stored records of a run: `RunState` and its tree of open work, the `Node`s of the current visit.

One run record holds the run and the nodes of its current visit inline; only the items of a map live in records of their own
(keyed by node path), so that ten thousand items are never one big record. A run's record does not grow with its history.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from windlass.engine.core.commands import Failure, ParentRef

#: Run states (stored as these strings).
OPEN = frozenset({"pending", "running", "waiting", "paused", "incident", "cancelling"})
CLOSED = frozenset({"completed", "failed", "cancelled", "terminated"})


class Node(msgspec.Struct, frozen=True, array_like=True):
    """A piece of open work: the state's own step, a branch, a map item, or an action's task.

    `phase` is one of: queued, leased, backoff (a retry's timer runs), waiting (signal, delay, poll, child, escalation),
    joining (parallel or map: children open), incident, done (kept until the join takes it).
    """

    phase: str
    kind: str  #: task, parallel, map, wait, delay, poll, spawn, escalate, or ask:<kind> for what task code asked
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
    data: bytes = b""  #: per kind: resume state, checkpoint, form, subscribed key … (JSON or msgpack, see the kind's file)
    counts: tuple[int, ...] = ()  #: per kind: map (total, opened, succeeded, failed), poll (checks) …
    child: str = ""  #: child run id
    children: Mapping[str, Node] = {}  #: branches of a parallel


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
    #: session G adds what pause, cancel, scopes, actions and compensation need, below this line, always with a default
