"""What happened to a run: the facts of its history, numbered from 1 by their place in it.

The state of a run is the fold of its events (`evolve`), and nothing else changes it. So an event carries every value
that was chosen when it happened: rendered texts, due times, the new form of a node. Tags and the order of fields are
the stored format: add fields at the end with a default, never reuse a tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from windlass.engine.core.commands import Denial, Failure, LogLine, ParentRef
from windlass.engine.core.definition import RetryPolicy
from windlass.engine.core.state import Incident, Move, Node, RunState, Undo


class Event(msgspec.Struct, frozen=True, array_like=True):
    """Root of all events."""

    at_us: int


class RunStarted(Event, frozen=True, tag=1):
    namespace: str
    run_id: str
    workflow_id: str
    workflow: str
    revision: str
    state: str  #: to be entered first
    context: Mapping[str, bytes]
    queue: str
    priority: int
    pending: bool = False  #: a delayed start: it begins with RunBegan
    config: bytes = b"{}"
    metadata: Mapping[str, str] = {}
    parent: ParentRef | None = None
    root_run_id: str = ""
    forked_from: str = ""
    virtual_time: bool = False
    timers: tuple[tuple[str, int], ...] = ()
    timeout_us: int | None = None
    timeout_from: str = "start"
    retry: RetryPolicy | None = None  #: of its namespace, at that time


class RunBegan(Event, frozen=True, tag=2):
    """The time of a delayed start has come."""

    timers: tuple[tuple[str, int], ...]


class StateEntered(Event, frozen=True, tag=3):
    """A new visit. `node` is the body when it opens at once (no enter actions)."""

    state: str
    on: str = ""  #: the outcome or signal that led here
    node: Node | None = None
    visit: int = 0  #: the number of this visit, for readers of the history


class ContextSet(Event, frozen=True, tag=4):
    """cause: action, transition, user, incident. An action also moves the cursor on."""

    values: Mapping[str, bytes]
    cause: str
    by: str = ""


class Logged(Event, frozen=True, tag=5):
    """A log action; message is rendered."""

    level: str
    message: str


class Emitted(Event, frozen=True, tag=6):
    """An event for the outbox. `action`: by an action of the state, else by task code."""

    name: str
    payload: bytes
    action: bool = True


class NodeOpened(Event, frozen=True, tag=7):
    """A piece of work begins: a body, an action's task, a compensation, or a map item whose turn has come."""

    path: str
    node: Node


class ItemsOpened(Event, frozen=True, tag=8):
    """Records of the map's items `first` and following; those of phase ready wait for their turn."""

    path: str
    first: int
    nodes: tuple[Node, ...]


class AttemptStarted(Event, frozen=True, tag=9):
    """A worker took the task; the node's epoch rises by one."""

    path: str
    session: str
    worker: str
    lease_us: int
    timers: tuple[tuple[str, int], ...] = ()  #: the node's timers from now on
    run_timers: tuple[tuple[str, int], ...] | None = None  #: set when this attempt starts the run's timeout
    attempt: int = 0  #: for readers of the history, as is the epoch
    epoch: int = 0


class AttemptExtended(Event, frozen=True, tag=38):
    """The attempt was given more time."""

    path: str
    lease_us: int


class TaskCompleted(Event, frozen=True, tag=10):
    """The task's result. `take`: the body ends with it at once, and `key` of the context takes the output."""

    path: str
    output: bytes
    outcome: str = "success"
    patch: Mapping[str, bytes] = {}
    take: bool = False
    key: str = ""
    usage: Mapping[str, int] = {}  #: see `accounts`
    undo: Undo | None = None  #: the state can be compensated from now on
    denials: tuple[Denial, ...] = ()


class TaskAsked(Event, frozen=True, tag=11):
    """The task returned and asked for something that the step now waits for (suspend: to be asked again)."""

    path: str
    node: Node
    usage: Mapping[str, int] = {}
    denials: tuple[Denial, ...] = ()


class TaskLogged(Event, frozen=True, tag=37):
    """What task code logged in the attempt that ends next."""

    path: str
    lines: tuple[LogLine, ...]


class AttemptEnded(Event, frozen=True, tag=12):
    """An attempt ended without being the last. why: failed, returned, crashed, start_to_close, heartbeat."""

    path: str
    why: str
    failure: Failure | None
    node: Node  #: backoff, queued, held or incident
    usage: Mapping[str, int] = {}
    denials: tuple[Denial, ...] = ()


class NodeChanged(Event, frozen=True, tag=13):
    """why: retry_due, poll_due, unpaused, paused, revived, spawned …"""

    path: str
    node: Node
    why: str


class NodeClosed(Event, frozen=True, tag=14):
    """The piece of work has its outcome."""

    path: str
    outcome: str
    output: bytes = b"null"
    failure: Failure | None = None
    patch: Mapping[str, bytes] = {}
    by: str = ""
    recorded: bool = False  #: by the leased attempt's own report
    usage: Mapping[str, int] = {}
    denials: tuple[Denial, ...] = ()
    joined: bool = False  #: the end of its branches is all that closed it: by itself no sign that the run waited


class BodyEnded(Event, frozen=True, tag=15):
    """The run takes the outcome of its open node: patches and outputs land in the context."""

    outcome: str
    key: str = ""
    failure: Failure | None = None  #: another than the node's
    merge: bool = True
    undo: Undo | None = None  #: the state can be compensated from now on


class Leaving(Event, frozen=True, tag=16):
    """The state is being left: open work is dropped, exit actions and compensation come next, then `move`."""

    move: Move
    on: str = ""


class Undone(Event, frozen=True, tag=17):
    """One completed state was compensated; `failure` if that did not work."""

    index: int
    failure: Failure | None = None
    undone: str = ""  #: that state, for readers; "" in what was recorded before this was


class RunClosed(Event, frozen=True, tag=18):
    status: str
    output: bytes = b""
    failure: Failure | None = None


class CancelRequested(Event, frozen=True, tag=19):
    source: str
    reason: str
    timers: tuple[tuple[str, int], ...]


class NodesStopped(Event, frozen=True, tag=20):
    """Open work that ended because something else decided: joined without it, or the run is being cancelled."""

    paths: tuple[str, ...]
    reason: str


class RunTimersSet(Event, frozen=True, tag=21):
    timers: tuple[tuple[str, int], ...]
    why: str


class RunPaused(Event, frozen=True, tag=22):
    reason: str
    timers: tuple[tuple[str, int], ...]
    left_us: int | None


class RunUnpaused(Event, frozen=True, tag=23):
    timers: tuple[tuple[str, int], ...]


class RunStepped(Event, frozen=True, tag=36):
    """A paused run goes on until it enters its visit `until`, and is paused again there."""

    timers: tuple[tuple[str, int], ...]
    until: int


class IncidentOpened(Event, frozen=True, tag=24):
    incident: Incident
    failure: Failure | None = None


class IncidentResolved(Event, frozen=True, tag=25):
    incident_id: str
    action: str
    by: str = ""


class SignalBuffered(Event, frozen=True, tag=26):
    """Nothing waits for it yet; it lies in the run's inbox."""

    name: str
    payload: bytes


class SignalTaken(Event, frozen=True, tag=27):
    """A wait (or an event transition: path "") consumed a signal. `data` is what the wait has received by now."""

    name: str
    payload: bytes
    path: str
    buffered: bool = False
    data: bytes | None = None


class SignalDropped(Event, frozen=True, tag=28):
    """A buffered signal did not fit the schema of the wait that took it."""

    name: str
    payload: bytes
    why: str


class UpdateApplied(Event, frozen=True, tag=29):
    name: str
    input: bytes
    values: Mapping[str, bytes]
    reply: bytes


class Deferred(Event, frozen=True, tag=30):
    """More to do than one transaction should hold; goes on with Continue(token)."""

    token: str


class Continued(Event, frozen=True, tag=31):
    token: str


class FailRequested(Event, frozen=True, tag=32):
    """An operator ends the run as failed."""

    failure: Failure


class WorkHeld(Event, frozen=True, tag=33):
    """While paused, a step that would go on was withheld."""


class ItemsDropped(Event, frozen=True, tag=35):
    """The records of these maps' items go: the step is opened anew."""

    paths: tuple[str, ...]


class Compacted(Event, frozen=True, tag=34):
    """The whole state at this point; the events before it are no longer needed."""

    state: RunState
    items: Mapping[str, Node] = {}


AnyEvent = (
    RunStarted
    | RunBegan
    | StateEntered
    | ContextSet
    | Logged
    | Emitted
    | NodeOpened
    | ItemsOpened
    | AttemptStarted
    | AttemptExtended
    | TaskCompleted
    | TaskAsked
    | TaskLogged
    | AttemptEnded
    | NodeChanged
    | NodeClosed
    | BodyEnded
    | Leaving
    | Undone
    | RunClosed
    | CancelRequested
    | NodesStopped
    | RunTimersSet
    | RunPaused
    | RunUnpaused
    | RunStepped
    | IncidentOpened
    | IncidentResolved
    | SignalBuffered
    | SignalTaken
    | SignalDropped
    | UpdateApplied
    | Deferred
    | Continued
    | FailRequested
    | WorkHeld
    | ItemsDropped
    | Compacted
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[AnyEvent])


def encode_events(events: Iterable[AnyEvent]) -> bytes:
    """One decision's events as they are stored."""
    return _encoder.encode(list(events))


def decode_events(data: bytes) -> list[AnyEvent]:
    """The inverse. Raises msgspec.MsgspecError for bytes that are not events."""
    return _decoder.decode(data)
