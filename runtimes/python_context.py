"""What a trusted Python handler is given besides its input: who it is, and how to say things to the engine.

The same names as in JavaScript's `ctx`, in Python's spelling. Safe to use from the thread that a synchronous handler
runs in. Progress and heartbeats go out at once; everything else goes with the result.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Literal, get_args

import msgspec

from windlass.runtimes import failures
from windlass.runtimes.denials import Denials
from windlass.runtimes.durations import parse_duration_us
from windlass.runtimes.port import (
    CHECKPOINT_BYTES_MAX,
    Activation,
    Ask,
    Escalate,
    Extension,
    Failure,
    Heartbeat,
    Level,
    LogLine,
    Progress,
    Route,
    Spawn,
    Suspend,
    TaskIdentity,
    TrustedNote,
    WaitFor,
)

_LEVELS = get_args(Level)


class TaskFailure(Exception):
    """Ends the attempt with a code of the handler's own: `raise TaskFailure("CARD_DECLINED", "…", retryable=False)`.

    A code is 1 to 100 letters, digits and `_ . : -`, as in `codes` of definitions; another one
    becomes USER_ERROR.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        details: object = None,
        retryable: bool | None = None,
        next_delay: str | timedelta | None = None,
    ) -> None:
        super().__init__(message)
        refused = "" if code in failures.MEANINGS else failures.refuse_author_code(code)
        self.failure = Failure(
            failures.USER_ERROR if refused else code,
            f"TaskFailure: {refused}; the message was: {message}" if refused else message,
            "",
            to_json(details),
            retryable,
            None if next_delay is None else _duration_us(next_delay),
            authored=code not in failures.MEANINGS and not refused,
        )


class TaskCancelled(Exception):
    """Raised by `TaskContext.raise_if_cancelled`: the attempt is not wanted any more."""


class Deadline:
    """The end of an attempt, which it may put off."""

    __slots__ = ("timeout",)

    def __init__(self) -> None:
        self.timeout: asyncio.Timeout | None = None  #: None while no handler runs

    def put_off(self, span_us: int) -> None:
        """Let the attempt have so much time from now, if it still runs. Its end never comes nearer."""
        timeout = self.timeout
        if timeout is not None and not timeout.expired() and (ends_s := timeout.when()) is not None:
            timeout.reschedule(max(ends_s, asyncio.get_running_loop().time() + span_us / 1e6))


class TaskContext:
    """One attempt, as its handler sees it."""

    def __init__(self, activation: Activation, tell: Callable[[TrustedNote], None], deadline: Deadline) -> None:
        self._activation = activation
        self._tell = tell
        self.deadline = deadline  #: the runtime's
        self._cancelled = False  # set on the loop, read by the handler's thread
        self._lock = threading.Lock()
        self._context: dict[str, Any] | None = None
        self.patch: dict[str, bytes] = {}
        self.asks: list[Ask] = []
        self.logs: list[LogLine] = []
        self.logs_lost = 0
        self._log_room = activation.limits.log_bytes
        self.progress_reports: list[Progress] = []
        self.left_checkpoint: bytes | None = None
        self.denials = Denials()

    def denied(self, kind: str, call: str, argument: str = "") -> None:
        """Write down with the attempt that something was refused to it; `kind` is one of `denials.KINDS`."""
        with self._lock:
            self.denials.add(kind, call, argument)

    @property
    def task(self) -> TaskIdentity:
        """Run, state, visit, attempt, idempotency key."""
        return self._activation.task

    @property
    def run_id(self) -> str:
        """The engine's id of the run."""
        return self.task.run_id

    @property
    def attempt(self) -> int:
        """From 1."""
        return self.task.attempt

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this task: pass it to outside systems."""
        return self.task.idempotency_key

    @property
    def cancelled(self) -> bool:
        """Whether the attempt is not wanted any more. A synchronous handler should look now and then."""
        return self._cancelled

    def raise_if_cancelled(self) -> None:
        """Raise TaskCancelled when the attempt is not wanted any more."""
        if self.cancelled:
            raise TaskCancelled

    def mark_cancelled(self) -> None:
        """For the runtime: the attempt is not wanted any more."""
        self._cancelled = True

    @property
    def checkpoint(self) -> Any:
        """What the previous attempt left with `heartbeat`; None on the first one."""
        return from_json(self._activation.checkpoint)

    @property
    def resume_state(self) -> Any:
        """What the previous poll left with `suspend`; None on the first one."""
        return from_json(self._activation.resume)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the run's context, with what this attempt has set."""
        if key in self.patch:
            return from_json(self.patch[key])
        if self._context is None:
            self._context = from_json(self._activation.context)
        return self._context.get(key, default)

    def set(self, key: str, value: object) -> None:
        """Set a value in the run's context; it is there when the attempt succeeds. Raises TypeError."""
        self.patch[key] = to_json(value)

    def log(self, level: Level, message: str, /, **metadata: object) -> None:
        """Write a line to the run's log. Beyond the limits, lines are only counted. Raises ValueError."""
        if level not in _LEVELS:
            raise ValueError(f"a log level is one of {', '.join(_LEVELS)}, not {level!r}")
        with self._lock:
            if len(self.logs) >= self._activation.limits.log_lines or self._log_room <= 0:
                self.logs_lost += 1
                return
            line = LogLine(level, message[: self._log_room], to_json(metadata) if metadata else b"")
            self._log_room -= len(line.message) + len(line.metadata)
            self.logs.append(line)

    def progress(self, fraction: float, message: str = "") -> None:
        """Say how far the attempt is, from 0 to 1. Raises ValueError."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"progress is a fraction from 0 to 1, not {fraction}")
        progress = Progress(fraction, message)
        with self._lock:
            del self.progress_reports[200:]
            self.progress_reports.append(progress)
        self._tell(progress)

    def heartbeat(self, checkpoint: object = None) -> None:
        """Say that the attempt is alive. A checkpoint is given to the next attempt, should this one be lost.

        Raises ValueError for a checkpoint that is too large.
        """
        if checkpoint is not None:
            text = to_json(checkpoint)
            if len(text) > CHECKPOINT_BYTES_MAX:
                raise ValueError(f"a checkpoint of {len(text)} bytes; the limit is {CHECKPOINT_BYTES_MAX}")
            self.left_checkpoint = text
        self._tell(Heartbeat(self.left_checkpoint))

    def extend(self, span: str | timedelta) -> None:
        """Say that the attempt needs more time: it has at least this long from now, whatever was left of its timeout.

        The time of the task as a whole (`schedule_to_close`, the timeouts of state and run) is not extended. Raises
        ValueError for what is no span of time.
        """
        self._tell(Extension(_duration_us(span)))

    def spawn(self, workflow: str, input: object = None, *, id: str = "", detached: bool = False) -> None:
        """Start a child run when the attempt succeeds."""
        self.asks.append(Spawn(workflow, to_json(input), id, detached))

    def wait_for(
        self,
        signals: str | Sequence[str],
        *,
        mode: Literal["any", "all"] = "any",
        timeout: str | timedelta | None = None,
    ) -> None:
        """Let the run wait for signals when the attempt succeeds. Raises ValueError."""
        names = (signals,) if isinstance(signals, str) else tuple(signals)
        if not all(names) or not names:
            raise ValueError("wait_for needs the name of at least one signal")
        if mode not in ("any", "all"):
            raise ValueError(f"wait_for takes the mode any or all, not {mode!r}")
        self.asks.append(WaitFor(names, mode, _optional_us(timeout)))

    def escalate(
        self, to: str, message: str, *, inputs: Sequence[object] = (), timeout: str | timedelta | None = None
    ) -> None:
        """Let the run wait for a person when the attempt succeeds."""
        self.asks.append(Escalate(to, message, to_json(list(inputs)), _optional_us(timeout)))

    def suspend(self, state: object, *, after: str | timedelta | None = None) -> None:
        """Poll body: not ready yet; ask again with this state."""
        self.asks.append(Suspend(to_json(state), _optional_us(after)))

    def route(self, name: str) -> None:
        """Take the state's declared route of this name."""
        self.asks.append(Route(name))


def to_json(value: object) -> bytes:
    """Return `value` as JSON text: plain values, dataclasses, structs and pydantic models. Raises TypeError."""
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: object) -> object:
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"a {type(value).__name__} is no JSON value")
    return dump(mode="json")


def from_json(text: bytes | None) -> Any:
    """Return the value of JSON text; None for None."""
    return None if text is None else msgspec.json.decode(text)


def _duration_us(value: str | timedelta) -> int:
    return parse_duration_us(value.total_seconds() * 1000 if isinstance(value, timedelta) else value)


def _optional_us(value: str | timedelta | None) -> int | None:
    return None if value is None else _duration_us(value)
