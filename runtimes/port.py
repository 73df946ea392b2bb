"""The port between a worker and the runtimes: an activation goes in, a completion comes out, and nothing is raised.

Values cross as UTF-8 JSON text in bytes, unparsed wherever nobody has to look inside. The records are msgspec structs
written as arrays, because each of them also crosses the pipe into the jail (see `jail_frames`). Fields are only ever
added at the end, with a default: a worker and its children are the same version, but recorded activations are kept.

Units: microseconds in names that end in `_us`, bytes in names that end in `_bytes`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Literal, Protocol, TypeAlias, TypeVar

from msgspec import Meta, Struct

from windlass.runtimes import failures

MIB = 1 << 20
#: What an activation may be granted beyond the default (`GRANTS` in definition/fields.py, which this package may not
#: import; a test compares them). "clock": a real clock.
GRANTS = ("clock",)
_Item = TypeVar("_Item")
#: A list that is read from a child: its length is looked at before any of it is made, and a frame of 64 MB could hold
#: millions that take forty times as much. More than any of ours, whose limits are looked at afterwards.
Several: TypeAlias = Annotated[tuple[_Item, ...], Meta(max_length=100_000)]
#: Of a checkpoint. The engine keeps no larger one, so code that leaves one hears of it at once.
CHECKPOINT_BYTES_MAX = 100_000


class TaskKey(Struct, frozen=True, array_like=True):
    """One attempt of one task. `path` is the node path inside the visit ("" is the state's own step)."""

    namespace: str
    run_id: str
    visit: int
    path: str
    attempt: int


class TaskIdentity(Struct, frozen=True, array_like=True):
    """What the task's code may know about where it runs."""

    namespace: str
    run_id: str
    definition: str
    state: str
    visit: int
    path: str
    attempt: int
    #: The same for every attempt of the task: pass it to outside systems.
    idempotency_key: str
    #: 0: unlimited within the timeouts.
    max_attempts: int = 0

    @property
    def key(self) -> TaskKey:
        """The name of this attempt, as `SlotPool.cancel` takes it."""
        return TaskKey(self.namespace, self.run_id, self.visit, self.path, self.attempt)


class Limits(Struct, frozen=True, array_like=True):
    """What one attempt may use. Each limit has a floor and a ceiling of the runtime; see `docs/sandbox.md`."""

    wall_us: int = 30_000_000
    #: 0: as much as the wall limit allows.
    cpu_us: int = 0
    #: The engine's own heap: the JavaScript heap, or the module's linear memory.
    memory_bytes: int = 64 * MIB
    stack_bytes: int = 256 << 10
    #: For the output, and again for everything else that the code hands over (context patch, asks, checkpoint).
    output_bytes: int = 1 * MIB
    log_lines: int = 1_000
    log_bytes: int = 64 << 10
    #: WebAssembly instructions, roughly; 0: not metered.
    fuel: int = 0


class Activation(Struct, frozen=True, array_like=True):
    """Run this code, on this input, within these limits."""

    task: TaskIdentity
    #: A name in the worker's registry of runtimes: "javascript", "wasm", "python".
    runtime: str
    #: The code itself; empty for "python". It crosses into each child once and is known by `digest` afterwards.
    code: bytes = b""
    #: sha256 of `code` in hex. Empty: computed by the pool. Must match: a wrong digest would run another task's code.
    digest: str = ""
    #: python: the handler's type. wasm: "wasi" or "ptr", or empty to tell by the exports. Unused by javascript.
    entry: str = ""
    input: bytes = b"null"
    config: bytes = b"null"
    #: The run's context: a JSON object.
    context: bytes = b"{}"
    limits: Limits = Limits()
    #: Seeded random, no weak references; the clock stands still with or without it unless "clock" is granted.
    deterministic: bool = False
    #: 0: derived from the idempotency key, so that every attempt sees the same numbers.
    seed: int = 0
    #: The time that the code sees. Microseconds since the epoch.
    start_us: int = 0
    #: What the definition allows beyond the default: some of `GRANTS`.
    grants: tuple[str, ...] = ()
    #: What the previous attempt left with `heartbeat`; JSON, or None.
    checkpoint: bytes | None = None
    #: What the previous poll left with `suspend`; JSON, or None on the first one.
    resume: bytes | None = None


class Spawn(Struct, frozen=True, array_like=True, tag="spawn"):
    """Start a child run. `detached`: do not wait for its output."""

    workflow: str
    input: bytes = b"null"
    id: str = ""
    detached: bool = False


class WaitFor(Struct, frozen=True, array_like=True, tag="wait_for"):
    """Stand still until any, or all, of the signals arrived. `timeout_us` None: for ever."""

    signals: Several[str]
    mode: Literal["any", "all"] = "any"
    timeout_us: int | None = None


class Escalate(Struct, frozen=True, array_like=True, tag="escalate"):
    """Ask a person. `inputs`: a JSON list of typed inputs, as in the definition format."""

    to: str
    message: str
    inputs: bytes = b"[]"
    timeout_us: int | None = None


class Suspend(Struct, frozen=True, array_like=True, tag="suspend"):
    """Poll body: not ready; ask again with this state. `after_us` None: after the definition's interval."""

    state: bytes = b"null"
    after_us: int | None = None


class Route(Struct, frozen=True, array_like=True, tag="route"):
    """Take the state's declared route of this name."""

    name: str


Ask: TypeAlias = Spawn | WaitFor | Escalate | Suspend | Route

Level: TypeAlias = Literal["debug", "info", "warn", "error"]


class LogLine(Struct, frozen=True, array_like=True, tag="log"):
    """One line that the code wrote. `metadata` is JSON, or empty."""

    level: Level
    message: str
    metadata: bytes = b""


class Progress(Struct, frozen=True, array_like=True, tag="progress"):
    """How far the code says it is: 0.0 to 1.0."""

    fraction: float
    message: str = ""


class Heartbeat(Struct, frozen=True, array_like=True, tag="heartbeat"):
    """The code is alive; `checkpoint` is what the next attempt will see, as JSON, or None to keep the last one."""

    checkpoint: bytes | None = None


class Extension(Struct, frozen=True, array_like=True):
    """The attempt has at least this long from now. Trusted handlers may say so; no child in the jail can."""

    span_us: int


Note: TypeAlias = Progress | Heartbeat | LogLine
#: What a runtime in the worker's own process may say besides.
TrustedNote: TypeAlias = Note | Extension


class Usage(Struct, frozen=True, array_like=True):
    """What the attempt used. A figure that a runtime cannot tell is 0."""

    wall_us: int = 0
    cpu_us: int = 0
    fuel: int = 0
    peak_memory_bytes: int = 0


class Denial(Struct, frozen=True, array_like=True):
    """Something that the sandbox refused, and how often. See `denials` for what is kept."""

    #: One of `denials.KINDS`.
    kind: str
    #: What was called: `path_open`, `sock_send`, `http.request`.
    call: str
    #: The path, the address; cut. Empty: the call has none, or there were too many to keep.
    argument: str = ""
    count: int = 1


class Failure(Struct, frozen=True, array_like=True):
    """Why an attempt failed."""

    #: One of `failures.MEANINGS`, or a code of the author's own (then `authored`).
    code: str
    message: str
    #: With line numbers of the author's own source where there are any.
    stack: str = ""
    #: JSON.
    details: bytes = b"null"
    #: None: not said; the retry policy decides.
    retryable: bool | None = None
    #: The author's wish for the next attempt, or None.
    next_delay_us: int | None = None
    #: True when the author chose the code with `ctx.fail`.
    authored: bool = False


class Completion(Struct, frozen=True, array_like=True):
    """The whole outcome of one attempt. Exactly one of `failure` and the success fields counts.

    Logs, progress, checkpoint, usage and denials are there in both cases; the output, the context patch and the
    asks only on success (a failed attempt changes nothing in the run).
    """

    failure: Failure | None = None
    output: bytes = b"null"
    #: Context key → JSON value.
    patch: Annotated[dict[str, bytes], Meta(max_length=500_000)] = {}
    asks: Several[Ask] = ()
    logs: Several[LogLine] = ()
    #: Lines that did not fit into the log limits.
    logs_lost: int = 0
    progress: Several[Progress] = ()
    #: What the next attempt should see as `ctx.checkpoint`; JSON, or None.
    checkpoint: bytes | None = None
    usage: Usage = Usage()
    #: Name and version of what ran the code, recorded per attempt: engines change behaviour between versions.
    runtime: str = ""
    #: What the sandbox refused; there in both cases, too, for refused code may well succeed.
    denials: Several[Denial] = ()

    @property
    def kind(self) -> Literal["success", "failure"]:
        """Which half of the record counts."""
        return "success" if self.failure is None else "failure"


class Problem(Struct, frozen=True, array_like=True):
    """Something wrong with code that was handed in. Line and column count from 1; 0 when there is none."""

    message: str
    line: int = 0
    column: int = 0


Report: TypeAlias = Callable[[Note], None]


class Runtime(Protocol):
    """One way to run code, inside the jail. Instances live in a child process and run one activation at a time."""

    #: Its name in activations.
    name: str
    #: Name and version of the engine, for records and lists.
    version: str
    #: True when `prepare` makes something worth keeping (compiled code).
    prepares: bool

    def warm_up(self) -> None:
        """Import and start what will be needed later: called once, before the files are gone and threads forbidden."""

    def rest(self) -> None:
        """Called when nothing waits: make ready for the next activation what does not depend on it."""

    def check(self, code: bytes) -> tuple[Problem, ...]:
        """Say what is wrong with `code` before anything runs it. Empty: nothing found."""

    def prepare(self, code: bytes, flavour: str) -> bytes:
        """Turn `code` into what `activate` takes as `prepared`. Raises BadCode. Only called where `prepares`."""

    def activate(self, activation: Activation, prepared: bytes, report: Report) -> Completion:
        """Run the code. Never raises: whatever happens is a completion. `report` may be called while it runs."""


class BadCode(Exception):
    """The code cannot be loaded."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = problems


def digest_of(code: bytes) -> str:
    """Return the name of `code`: its sha256 in hex."""
    return hashlib.sha256(code).hexdigest()


def flavour_of(limits: Limits) -> str:
    """Return which form of prepared code these limits need: metering is compiled in, and costs half the speed."""
    return "metered" if limits.fuel else "plain"


def failed(code: str, message: str, *, stack: str = "", usage: Usage | None = None) -> Completion:
    """Return a failed completion with one of our own codes."""
    retryable = False if code in failures.NOT_RETRYABLE else None
    return Completion(failure=Failure(code, message, stack, retryable=retryable), usage=usage or Usage())
