"""One run of a module, as its host functions see it: its memory, what it reads, what it wrote, what it asked for.

Everything that comes from the module is a number that it chose. Pointers and lengths arrive as signed 32-bit integers
and are taken as unsigned; a range is checked against the memory as it is at that moment, before a byte is touched (the
binding's own `read` cuts a range that is out of bounds silently). A bad range in a `task` call ends the attempt.
"""

from __future__ import annotations

import ctypes
import time
from typing import Final

import msgspec
import wasmtime

from windlass.runtimes import failures
from windlass.runtimes.asks import MAX_ASKS, optional_duration_us
from windlass.runtimes.denials import Denials
from windlass.runtimes.determinism import ByteStream, seed_bytes
from windlass.runtimes.json_text import not_json
from windlass.runtimes.port import (
    CHECKPOINT_BYTES_MAX,
    Activation,
    Failure,
    Heartbeat,
    Level,
    LogLine,
    Progress,
    Report,
)

_U32: Final = 0xFFFFFFFF
_LEVELS: Final[tuple[Level, ...]] = ("debug", "info", "warn", "error")
_PROGRESS_KEPT: Final = 200
_REPORT_SECONDS: Final = 0.1
_MESSAGE_BYTES: Final = 8_000
_KEY_BYTES_MAX: Final = 1_024
#: As much of one write to the standard error is cut into lines at once.
_WRITE_BYTES: Final = 1 << 16


class GuestEnded(Exception):
    """The attempt ends here, as a failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class GuestExit(Exception):
    """The module called proc_exit."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Fail(msgspec.Struct, rename="camel"):
    code: str
    message: str = ""
    details: msgspec.Raw = msgspec.Raw(b"null")
    retryable: bool | None = None
    next_delay: str | int | float | None = None


class Guest:
    """State of one attempt."""

    def __init__(self, activation: Activation, store: wasmtime.Store, report: Report) -> None:
        self.activation = activation
        self._store = store
        self._report = report
        self._reported_at = 0.0
        self.memory: wasmtime.Memory | None = None
        self.input_at = 0
        self.output = bytearray()
        self.logs: list[LogLine] = []
        self.logs_lost = 0
        self._log_room = activation.limits.log_bytes
        self._stderr = b""
        self._last_line = b""
        self.progress: list[Progress] = []
        self.checkpoint: bytes | None = None
        self.patch: dict[str, bytes] = {}
        self.asks: list[bytes] = []
        self._room = activation.limits.output_bytes
        self._random: ByteStream | None = None
        self.denials = Denials()

    # --- memory -------------------------------------------------------------------------------------------------

    def _address(self, pointer: int, length: int) -> int | None:
        """Return the host address of a range of the module's memory, or None when it is not all inside."""
        if self.memory is None:
            return None
        if pointer + length > self.memory.data_len(self._store):
            return None
        return ctypes.addressof(self.memory.data_ptr(self._store).contents) + pointer

    def peek(self, pointer: int, length: int) -> bytes | None:
        """Return a copy of a range, or None when it is out of bounds."""
        pointer, length = pointer & _U32, length & _U32
        address = self._address(pointer, length)
        return None if address is None else ctypes.string_at(address, length)

    def poke(self, pointer: int, data: bytes) -> bool:
        """Write `data`; False when it does not fit."""
        address = self._address(pointer & _U32, len(data))
        if address is None:
            return False
        ctypes.memmove(address, data, len(data))
        return True

    def take(self, pointer: int, length: int, what: str) -> bytes:
        """Return a range that a `task` function was given. Raises GuestEnded when there is none."""
        self._need_memory(what)
        data = self.peek(pointer, length)
        if data is None:
            raise self.ended(
                failures.BAD_OUTPUT, f"{what}: {length & _U32} bytes at {pointer & _U32} are out of bounds"
            )
        return data

    def _need_memory(self, what: str) -> None:
        """Raises GuestEnded while a start function runs: what the module exports can be reached only after that."""
        if self.memory is None:
            message = f"{what}: the module's memory cannot be reached before its start function is through"
            raise self.ended(failures.BAD_CODE, f"{message}; call it from run, _initialize or _start")

    def ended(self, code: str, message: str) -> GuestEnded:
        """Return the exception that ends the attempt with one of our codes."""
        return GuestEnded(Failure(code, message, retryable=False if code in failures.NOT_RETRYABLE else None))

    # --- what it writes -----------------------------------------------------------------------------------------

    def write_output(self, data: bytes) -> None:
        """Take some of the standard output. Raises GuestEnded beyond the limit."""
        if len(self.output) + len(data) > self.activation.limits.output_bytes:
            limit = self.activation.limits.output_bytes
            raise self.ended(failures.OUTPUT_TOO_LARGE, f"the result is larger than its limit of {limit} bytes")
        self.output += data

    def write_log_bytes(self, data: bytes) -> None:
        """Take some of the standard error; each line is a log line."""
        for at in range(0, len(data), _WRITE_BYTES):
            *lines, self._stderr = (self._stderr + data[at : at + _WRITE_BYTES]).split(b"\n")
            for line in lines:
                self.log("info", line)
            if len(self._stderr) > _MESSAGE_BYTES:
                self.flush_log()

    def flush_log(self) -> None:
        """Take what was written to the standard error after the last line end."""
        if self._stderr:
            rest, self._stderr = self._stderr, b""
            self.log("info", rest)

    def log(self, level: Level, text: bytes) -> None:
        """Keep a line while there is room, then only count."""
        if text and not text.isspace():
            self._last_line = text
        if len(self.logs) >= self.activation.limits.log_lines or self._log_room <= 0:
            self.logs_lost += 1
            return
        if len(text) > self._log_room:
            self.logs_lost += 1
        kept = text[: self._log_room]
        self._log_room -= len(kept)
        self.logs.append(LogLine(level, kept.decode("utf-8", "replace")))

    @property
    def last_line(self) -> str:
        """The last log line with anything on it, kept or not, which for a WASI command says why it failed."""
        return self._last_line[:_MESSAGE_BYTES].decode("utf-8", "replace")

    # --- the `task` functions -----------------------------------------------------------------------------------

    def task_log(self, level: int, pointer: int, length: int) -> None:
        """`task.log`."""
        self.log(_LEVELS[min(level & _U32, 3)], self.take(pointer, length, "task.log"))

    def task_fail(self, pointer: int, length: int) -> None:
        """`task.fail`: ends the attempt."""
        text = self.take(pointer, length, "task.fail")[: 1 << 16]
        raise GuestEnded(_failure_of(text))

    def task_progress(self, fraction: float, pointer: int, length: int) -> None:
        """`task.progress`: kept, and reported while the task runs, at most ten times a second."""
        message = self.take(pointer, length, "task.progress")[:1_000].decode("utf-8", "replace")
        if not 0.0 <= fraction <= 1.0:
            raise self.ended(failures.USER_ERROR, "task.progress: the fraction must lie between 0 and 1")
        progress = Progress(fraction, message)
        if len(self.progress) >= _PROGRESS_KEPT:
            self.progress.pop()
        self.progress.append(progress)
        self._tell(progress)

    def task_heartbeat(self, pointer: int, length: int) -> None:
        """`task.heartbeat`: alive; what is given becomes the next attempt's checkpoint."""
        if length & _U32 > CHECKPOINT_BYTES_MAX:
            message = f"task.heartbeat: a checkpoint of {length & _U32} bytes; the limit is {CHECKPOINT_BYTES_MAX}"
            raise self.ended(failures.OUTPUT_TOO_LARGE, message)
        if length & _U32:
            self.checkpoint = self._json(self.take(pointer, length, "task.heartbeat"), "task.heartbeat")
        self._tell(Heartbeat(self.checkpoint))

    def task_set(self, key_pointer: int, key_length: int, pointer: int, length: int) -> None:
        """`task.set`: a context value for the run."""
        if key_length & _U32 > _KEY_BYTES_MAX:
            message = f"task.set: a key of {key_length & _U32} bytes; the limit is {_KEY_BYTES_MAX}"
            raise self.ended(failures.USER_ERROR, message)
        key = self.take(key_pointer, key_length, "task.set").decode("utf-8", "replace")
        if not key:
            raise self.ended(failures.USER_ERROR, "task.set: the key is empty")
        self._use(len(key.encode()), "task.set")
        self.patch[key] = self._json(self.take(pointer, length, "task.set"), "task.set")

    def task_ask(self, pointer: int, length: int) -> None:
        """`task.ask`: one thing for the engine to do."""
        if len(self.asks) >= MAX_ASKS:
            raise self.ended(failures.USER_ERROR, f"task.ask: more than {MAX_ASKS} asks")
        self.asks.append(self._json(self.take(pointer, length, "task.ask"), "task.ask"))

    def task_read(self, what: int, pointer: int, room: int) -> int:
        """`task.read`: the length of what is there, of which at most `room` bytes are written; -1: no such thing."""
        data = self._readable(what & _U32)
        if data is None:
            return -1
        self._need_memory("task.read")
        if not self.poke(pointer, data[: room & _U32]):
            raise self.ended(failures.BAD_OUTPUT, "task.read: the place to write to is out of bounds")
        return len(data)

    def _readable(self, what: int) -> bytes | None:
        activation = self.activation
        values = (
            activation.input,
            activation.config,
            activation.context,
            b"",
            activation.checkpoint,
            activation.resume,
        )
        if what == 3:
            return msgspec.json.encode(
                {name: getattr(self.activation.task, name) for name in self.activation.task.__struct_fields__}
            )
        return (values[what] or b"null") if what < len(values) else None

    def _use(self, count: int, what: str) -> None:
        """Take room for `count` bytes that are handed over. Raises GuestEnded when there is none left."""
        self._room -= count
        if self._room < 0:
            limit = self.activation.limits.output_bytes
            raise self.ended(
                failures.OUTPUT_TOO_LARGE, f"{what}: more than {limit} bytes of values, asks and checkpoints"
            )

    def _json(self, text: bytes, what: str) -> bytes:
        self._use(len(text), what)
        if wrong := not_json(text):
            raise self.ended(failures.BAD_OUTPUT, f"{what}: {wrong}")
        return text

    def _tell(self, note: Progress | Heartbeat) -> None:
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = now
            self._report(note)

    # --- chance and time ----------------------------------------------------------------------------------------

    def random(self, count: int) -> bytes:
        """Return random bytes: seeded when the attempt is deterministic."""
        if self._random is None:
            self._random = ByteStream(seed_bytes(self.activation))
        return self._random.take(count)

    def now_ns(self) -> int:
        """Return the time that the module sees: the start of the task, unless a real clock is granted."""
        return time.time_ns() if "clock" in self.activation.grants else self.activation.start_us * 1000


def _failure_of(text: bytes) -> Failure:
    """Return the failure for what `task.fail` was given: a JSON object with a code, or just a message."""
    message = text[:_MESSAGE_BYTES].decode("utf-8", "replace")
    if not text.startswith(b"{"):
        return Failure(failures.USER_ERROR, message)
    try:
        own = msgspec.json.decode(text, type=_Fail)
        delay_us = optional_duration_us(own.next_delay)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return Failure(failures.USER_ERROR, f"task.fail was given something else than it takes: {error}")
    if refused := failures.refuse_author_code(own.code):
        return Failure(failures.USER_ERROR, f"task.fail: {refused}; the message was: {own.message}")
    return Failure(own.code, own.message, "", bytes(own.details), own.retryable, delay_us, authored=True)
