"""Definitions as the core sees them: frozen records, already checked and compiled.

`windlass.definition` makes these from what authors write; nothing here is stored (the stored form is the canonical JSON
document, compiled again when an engine loads the revision). Expressions and schemas arrive as compiled callables, so
that the core evaluates them without knowing the library. All durations are integer microseconds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from windlass.engine.core.selectors import NO_INPUT, Selector, Template


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A frozen record, given by keyword. Subclasses repeat both options: neither is inherited by type checkers."""


class Expression(Record, frozen=True, kw_only=True):
    """A compiled CEL expression. `evaluate` sees plain JSON values by name and raises `ExpressionError`."""

    source: str
    evaluate: Callable[[Mapping[str, Any]], Any]


class ExpressionError(Exception):
    """An expression failed at run time. The message names the expression and what was wrong."""


class Schema(Record, frozen=True, kw_only=True):
    """A compiled JSON Schema. `check` returns what is wrong with a parsed value, with paths; empty when it fits."""

    document: bytes
    check: Callable[[Any], list[str]]


class RetryPolicy(Record, frozen=True, kw_only=True):
    """When a failed attempt is tried again: delay(n) = min(initial * multiplier**(n-1), maximum), then jitter."""

    max_attempts: int = 3  #: 1 = never again, 0 = unlimited within the timeouts
    initial_delay_us: int = 1_000_000
    max_delay_us: int = 60_000_000
    multiplier: float = 2.0
    jitter: float = 0.1  #: share of the delay that is random, 0 to 1
    non_retryable: tuple[str, ...] = ()  #: failure codes, exact
    retryable: tuple[str, ...] = ()  #: codes tried again although they are not by default (OUT_OF_MEMORY …)


class Timeouts(Record, frozen=True, kw_only=True):
    """The four of a task. None = not limited (start_to_close then is the engine's default)."""

    schedule_to_start_us: int | None = None
    start_to_close_us: int | None = None
    schedule_to_close_us: int | None = None
    heartbeat_us: int | None = None


class Limits(Record, frozen=True, kw_only=True):
    """What one attempt may use. None = the worker's default."""

    memory_bytes: int | None = None
    fuel: int | None = None
    output_bytes: int | None = None
    log_lines: int | None = None
    deterministic: bool = False
    stack_bytes: int | None = None
    cpu_us: int | None = None
    log_bytes: int | None = None
    grants: tuple[str, ...] = ()  #: what it may have beyond the default, such as "clock"


class TaskBody(Record, frozen=True, kw_only=True):
    """Run code on a worker: `digest` names a stored module (javascript, wasm), `handler` a trusted Python handler."""

    runtime: str
    digest: str = ""
    handler: str = ""
    queue: str = ""  #: "" = the run's queue
    limits: Limits = Limits()
    at_most_once: bool = False  #: a lost lease becomes an incident, never a second attempt
    context: tuple[str, ...] | None = None  #: context keys sent to the task for ctx.get; None = all
    needs: str = ""  #: units that it takes of its worker, as canonical text (units.py)


class Branch(Record, frozen=True, kw_only=True):
    """One body with what belongs to it: the form of a state's own step, of a parallel branch and of a map's item."""

    body: Body
    input: Selector = NO_INPUT
    output: str = ""  #: context key that takes the result; "" = the result is not kept
    config: bytes = b"{}"  #: JSON object
    retry: RetryPolicy | None = None  #: None = the definition's default
    timeouts: Timeouts = Timeouts()
    output_schema: Schema | None = None
    input_schema: Schema | None = None
    config_schema: Schema | None = None


class Join(enum.Enum):
    ALL = "all"
    ANY = "any"
    FIRST_SUCCESS = "first_success"
    QUORUM = "quorum"


class ParallelBody(Record, frozen=True, kw_only=True):
    """Several named branches; the outputs of branches land in the context at the join, in the order written."""

    branches: tuple[tuple[str, Branch], ...]
    join: Join = Join.ALL
    quorum: int = 0


class MapBody(Record, frozen=True, kw_only=True):
    """The same branch over each item of a list. Result: the list of outputs in item order (null where failed)."""

    items: Selector
    branch: Branch
    concurrency: int = 0  #: 0 = as many as the engine's cap (MAP_OPEN_MAX) allows
    tolerated_failures: int = 0
    tolerated_percent: float = 0.0


class WaitBody(Record, frozen=True, kw_only=True):
    """Until named signals arrive (all, or any), or a time comes. Result: {name: payload} of those that came."""

    names: tuple[str, ...]
    any: bool = False
    until: Expression | None = None  #: an RFC 3339 time or seconds since the epoch; success with what came so far
    correlate: Expression | None = None  #: business key; published messages with this key reach this wait
    schemas: tuple[tuple[str, Schema], ...] = ()  #: per signal name


class DelayBody(Record, frozen=True, kw_only=True):
    """A durable timer: a fixed span, or an expression giving seconds, a duration string, or an RFC 3339 time."""

    duration_us: int = 0
    until: Expression | None = None


class PollBody(Record, frozen=True, kw_only=True):
    """Ask a task again every interval: it returns `suspend(state)` while not ready, a result when ready."""

    task: TaskBody
    interval_us: int
    max_wait_us: int | None = None
    max_checks: int = 0  #: 0 = unlimited


class ClosePolicy(enum.Enum):
    """What happens to an open child when its parent closes."""

    TERMINATE = "terminate"
    ABANDON = "abandon"
    CANCEL = "cancel"


class SpawnBody(Record, frozen=True, kw_only=True):
    """Start a child run and wait for its output, or detach (result: {"run_id": …} at once)."""

    workflow: str
    revision: str = ""  #: "" = the revision that was default when the parent started; "latest" = default at spawn time
    detach: bool = False
    close_policy: ClosePolicy = ClosePolicy.TERMINATE
    workflow_id: Template | None = None
    queue: str = ""


class FormField(Record, frozen=True, kw_only=True):
    """One typed input of an escalation: kind is select, comment, text, number, boolean, date."""

    id: str
    kind: str
    label: str = ""
    options: tuple[tuple[str, str], ...] = ()  #: value, label
    required: bool = False


class EscalateBody(Record, frozen=True, kw_only=True):
    """Ask a person or an outside system. Outcomes: approved, rejected, timeout. Result: the reply's values."""

    to: Template
    message: Template
    fields: tuple[FormField, ...] = ()
    channel: str = "person"  #: "person" or the name of an external system


class AgentBody(Record, frozen=True, kw_only=True):
    """Place for the durable tool-calling loop; refused at registration for now."""


Body = TaskBody | ParallelBody | MapBody | WaitBody | DelayBody | PollBody | SpawnBody | EscalateBody | AgentBody


class SetAction(Record, frozen=True, kw_only=True):
    values: tuple[tuple[str, Template], ...]


class LogAction(Record, frozen=True, kw_only=True):
    message: Template
    level: str = "info"


class EmitAction(Record, frozen=True, kw_only=True):
    """Append an event to the outbox."""

    name: str
    payload: Template | None = None


class TaskAction(Record, frozen=True, kw_only=True):
    """A task run before the body starts (enter) or when the state is left (exit), in the order written."""

    branch: Branch


Action = SetAction | LogAction | EmitAction | TaskAction


class Transition(Record, frozen=True, kw_only=True):
    """Tried in the order written; the first whose `on` and `when` match is taken. `to` None ends the run as completed.

    `on`: success, failure, timeout, approved, rejected, route:<name>, event:<signal name>, or "" for any outcome.
    `codes`: for failure, the error codes it catches (empty = all).
    """

    on: str = ""
    to: str | None = None
    when: Expression | None = None
    codes: tuple[str, ...] = ()
    set: tuple[tuple[str, Template], ...] = ()  #: context mapping applied when the transition is taken (A17)


class State(Record, frozen=True, kw_only=True):
    name: str
    enter: tuple[Action, ...] = ()
    step: Branch | None = None
    exit: tuple[Action, ...] = ()
    transitions: tuple[Transition, ...] = ()
    timeout_us: int | None = None  #: the body as a whole (waits, delays, polls, spawns, escalations, parallels, maps)
    outcome: str = "success"  #: for a final state: success or failure
    error_code: str = ""  #: for a final failure state
    routes: tuple[tuple[str, str], ...] = ()  #: declared routes: name, description
    scope: str = ""
    compensate: Branch | None = None
    description: str = ""

    @property
    def final(self) -> bool:
        """True if the run ends here: there is nowhere to go."""
        return not self.transitions


class Catch(Record, frozen=True, kw_only=True):
    """Takes failures that no transition of the failing state handles: by code (empty = any)."""

    codes: tuple[str, ...] = ()
    to: str
    compensate: bool = True  #: first undo the scope's completed states, in reverse order


class Scope(Record, frozen=True, kw_only=True):
    """A named group of states with its own catches. `parent` "" = the run itself."""

    name: str
    parent: str = ""
    catches: tuple[Catch, ...] = ()


class Update(Record, frozen=True, kw_only=True):
    """A validated synchronous change from outside (B3): refused unless `when` holds; then `set` is applied."""

    name: str
    when: Expression | None = None
    set: tuple[tuple[str, Template], ...] = ()
    reply: Template | None = None
    schema: Schema | None = None


class Definition(Record, frozen=True, kw_only=True, weakref=True):
    """One immutable revision, checked and compiled."""

    name: str
    revision: str  #: sha256 of the canonical document, hex
    initial: str
    states: Mapping[str, State]
    scopes: Mapping[str, Scope] = {}
    updates: Mapping[str, Update] = {}
    catches: tuple[Catch, ...] = ()
    retry: RetryPolicy | None = None  #: None = the namespace's default
    on_unhandled: str = "fail"  #: fail | incident
    unread_signals: str = "allow"  #: allow | refuse completion (the run then fails with UNREAD_SIGNALS)
    compensate_on: tuple[str, ...] = ("failure", "cancel")
    timeout_us: int | None = None
    timeout_route: str = ""  #: state entered when the run's timeout expires; "" = cancel with source timeout
    cancel_grace_us: int = 10_000_000
    input_schema: Schema | None = None
    output_schema: Schema | None = None
    output: Selector | None = None  #: what the run returns; None = the last body's result
    config: bytes = b"{}"
    config_schema: Schema | None = None  #: what a run's config, with its overrides, must fit
    queue: str = "default"
    priority: int = 5
    description: str = ""
    display_name: str = ""
    version: str = ""
