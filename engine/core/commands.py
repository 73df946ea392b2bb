"""What can be asked of a run. One command in, one `Decision` out (`decide`), or a `Rejection` that changes nothing.

Commands carry everything that is not recorded yet: ids, times and random numbers are made by the shell and given in.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from windlass.engine.core.definition import RetryPolicy


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """Root of all commands."""


class ParentRef(msgspec.Struct, frozen=True, array_like=True):
    """Where a child reports its end: the parent's run, visit and node path, and its close policy."""

    run_id: str
    visit: int
    path: str
    close_policy: str = "terminate"
    detached: bool = False


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """Why something failed; data, never an RPC error. `retryable` None = by the policy."""

    code: str
    message: str = ""
    retryable: bool | None = None
    details: bytes = b""  #: JSON
    stack: str = ""
    next_delay_us: int | None = None
    cause: str = ""


class Start(Command, frozen=True):
    """Create the run. Also the second half of fork/rerun: then `state` and `context` are given."""

    run_id: str
    namespace: str
    workflow_id: str
    input: bytes  #: a JSON object becomes the context; any other value becomes {"input": value}
    queue: str = ""
    priority: int | None = None
    config: bytes = b"{}"
    metadata: Mapping[str, str] = {}
    parent: ParentRef | None = None
    root_run_id: str = ""
    start_us: int = 0  #: delayed start; 0 = now
    timeout_us: int | None = None
    timeout_from: str = "start"  #: start | first_task
    state: str = ""  #: "" = the definition's initial state
    context: Mapping[str, bytes] | None = None  #: for fork: the whole context
    forked_from: str = ""
    virtual_time: bool = False
    paused: bool = False  #: paused before its first state
    retry: RetryPolicy | None = None  #: of its namespace: where neither step nor definition say one


class Spawn(msgspec.Struct, frozen=True, kw_only=True):
    """An ask from inside task code: start a child run. Its place among the asks makes its id stable."""

    workflow: str
    input: bytes = b"{}"
    detach: bool = False
    close_policy: str = "terminate"
    workflow_id: str = ""


class Asks(msgspec.Struct, frozen=True, kw_only=True):
    """What task code asked for besides its result. At most one of route/wait_for/escalate/suspend/… holds the run."""

    set: Mapping[str, bytes] = {}  #: context patch
    route: str = ""
    wait_for: tuple[str, ...] = ()
    wait_any: bool = False  #: the first of them is enough
    wait_timeout_us: int | None = None
    spawn: tuple[Spawn, ...] = ()
    escalate: bytes = b""  #: JSON: {to, message, inputs, timeout}
    suspend: bytes = b""  #: JSON resume state: ask again later
    suspend_us: int | None = None  #: how long until asked again; None = the poll body's interval
    emit: tuple[tuple[str, bytes], ...] = ()


class LogLine(msgspec.Struct, frozen=True, array_like=True):
    """A line that task code logged."""

    level: str
    message: str
    metadata: bytes = b""  #: JSON


class Denial(msgspec.Struct, frozen=True, array_like=True):
    """Something that the sandbox refused to an attempt."""

    kind: str  #: file, network, sleep, process, address, other
    call: str
    argument: str = ""
    count: int = 1


class TaskLeased(Command, frozen=True):
    """A worker's session takes the node's queued task. Opens lease_epoch = the node's epoch + 1."""

    path: str
    visit: int
    session: str
    worker: str
    lease_us: int = 0  #: when the attempt's start-to-close deadline is, absolute; 0 = none


class TaskSucceeded(Command, frozen=True):
    """The attempt under `epoch` returned a result. A stale epoch is rejected with LEASE_LOST."""

    path: str
    visit: int
    epoch: int
    output: bytes
    asks: Asks | None = None
    usage: Mapping[str, int] = {}  #: wall_us, cpu_us, memory_bytes, fuel; those that are known
    logs: tuple[LogLine, ...] = ()
    denials: tuple[Denial, ...] = ()


class TaskFailed(Command, frozen=True):
    path: str
    visit: int
    epoch: int
    failure: Failure
    jitter: float = 0.5  #: random number in [0, 1), made by the shell
    asks: Asks | None = None  #: only `set` and `emit` are honoured
    usage: Mapping[str, int] = {}
    logs: tuple[LogLine, ...] = ()
    denials: tuple[Denial, ...] = ()


class TaskReturned(Command, frozen=True):
    """The lease ended without a result. `crashed`: the worker or its slot died; `unable`: it lacks what the task needs;
    `unattended`: the lease ran out while no engine was there to renew it; `interrupted`: the worker stopped it after it
    had begun; `undelivered`: its worker came back without having received it; else it was drained."""

    path: str
    visit: int
    epoch: int
    crashed: bool
    reason: str = ""
    jitter: float = 0.5
    unable: bool = False
    unattended: bool = False
    interrupted: bool = False
    undelivered: bool = False


class TaskHeartbeat(Command, frozen=True):
    """Progress or checkpoint that the next attempt must see. Not an event; stored on the node."""

    path: str
    visit: int
    epoch: int
    checkpoint: bytes


class TaskExtended(Command, frozen=True):
    """The attempt needs more time: its start-to-close deadline is `lease_us`, absolute, unless it is later already."""

    path: str
    visit: int
    epoch: int
    lease_us: int


class TaskTimedOut(Command, frozen=True):
    """kind: start_to_close or heartbeat, judged by the engine that holds the lease. `lease_us`: the start-to-close
    deadline by which it judged; it may have been extended since, or through another engine.
    """

    path: str
    visit: int
    epoch: int
    kind: str
    jitter: float = 0.5
    lease_us: int = 0


class TimerFired(Command, frozen=True):
    """A timer armed by `ArmTimer` is due. One that the run no longer waits for changes nothing."""

    timer: str
    due_us: int
    jitter: float = 0.5


class Signal(Command, frozen=True):
    """A named message. With `wait_id` it is for this wait only (a message published under its business key)."""

    name: str
    payload: bytes
    wait_id: str = ""


class ResolveWait(Command, frozen=True):
    """The directed form: resolve the wait named `wait_id` (node path and visit) with data."""

    wait_id: str
    payload: bytes


class ReplyEscalation(Command, frozen=True):
    escalation_id: str
    approved: bool
    values: bytes
    by: str = ""
    withdrawn: bool = False  #: nobody answered: the question was taken back


class ChildClosed(Command, frozen=True):
    visit: int
    path: str
    child_run_id: str
    status: str
    output: bytes = b""
    failure: Failure | None = None


class ApplyUpdate(Command, frozen=True):
    name: str
    input: bytes


class SetVariables(Command, frozen=True):
    values: Mapping[str, bytes]
    by: str = ""


class Cancel(Command, frozen=True):
    source: str  #: user | timeout | system | parent
    reason: str = ""


class Terminate(Command, frozen=True):
    reason: str = ""
    source: str = "user"


class Fail(Command, frozen=True):
    code: str
    reason: str


class Pause(Command, frozen=True):
    reason: str = ""
    keep_timeout: bool = False  #: the run's own timeout goes on, too


class Unpause(Command, frozen=True):
    pass


class Step(Command, frozen=True):
    """Let a paused run finish the state it stands in, and pause it again as it enters the next one."""


class ResolveIncident(Command, frozen=True):
    """Repair and continue at the same point: action is retry | skip | fail; `set` edits the context first."""

    incident_id: str
    action: str = "retry"
    set: Mapping[str, bytes] = {}
    output: bytes = b"null"  #: for skip: the result taken instead
    by: str = ""


class Continue(Command, frozen=True):
    """Work left over from a decision that had too much to do at once (see `Defer`)."""

    token: str


class RaiseIncident(Command, frozen=True):
    """The shell could not process something for this run (too large, missing definition): park it visibly."""

    code: str
    message: str
