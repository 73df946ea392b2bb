"""From what the prelude hands back (JSON text) to a completion, and from engine errors to failure codes."""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Raw, Struct

from windlass.runtimes import failures
from windlass.runtimes.asks import BadAsk, decode_asks, optional_duration_us
from windlass.runtimes.javascript_source import hint_for
from windlass.runtimes.memory_mark import rss_growth_bytes
from windlass.runtimes.port import Activation, Completion, Failure, Level, LogLine, Problem, Progress, Usage, failed

_MESSAGE_MAX: Final = 8_000
#: `quickjs` tells no columns.
_PLACE: Final = re.compile(r"<input>:(\d+)(?::(\d+))?")
#: An escape in JSON text; the group is there for half of a surrogate pair that stands alone.
_ESCAPE: Final = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)")
#: The stack of an error that was written to `console` or `ctx.log`.
_FRAMES: Final = re.compile(r"(?:(?:^|\n)    at .*)+(?:\n\Z)?")
#: As which the engine throws what it has to say about stack and memory.
_ENGINE_ERRORS: Final = ("InternalError", "RangeError", "SyntaxError")
_TOO_LONG: Final = ("invalid string length", "string too long", "invalid array buffer length")
#: The stack of what the engine could not parse in the source itself: a place and no caller.
_UNPARSED: Final = re.compile(r"at task\.js:\d+(?::\d+)?")


class _Own(Struct, rename="camel"):
    """What the author gave to `ctx.fail`."""

    code: str
    details: Raw = Raw(b"null")
    retryable: bool | None = None
    next_delay: str | int | float | None = None


class _Thrown(Struct):
    thrown: str
    name: str
    message: str
    stack: str
    own: Raw


class _Line(Struct, array_like=True):
    level: Level
    message: str
    metadata: Raw = Raw(b"")


class _Report(Struct, array_like=True):
    fraction: float
    message: str


class _Outcome(Struct):
    """One JSON object made by `$host`. Which of the first four is there says how it ended."""

    output: Raw = Raw(b"")
    failure: _Thrown | None = None
    size: int = 0
    notrun: str = ""
    patch: dict[str, Raw] = {}
    asks: Raw = Raw(b"[]")
    progress: list[_Report] = []
    checkpoint: Raw = Raw(b"")
    lost: int = 0
    logs: list[_Line] = []


_OUTCOME: Final = msgspec.json.Decoder(_Outcome)
_OWN: Final = msgspec.json.Decoder(_Own)


def completion_of(text: str, source: str, activation: Activation, used_bytes: int) -> Completion:
    """Return the completion for what `$host` returned."""
    try:
        outcome = _decode(text)
    except RecursionError:  # a little below the depth at which the engine's own stack ends
        return failed(failures.BAD_OUTPUT, "the result, or a value given to ctx, is nested too deeply")
    limit = activation.limits.output_bytes
    output = bytes(outcome.output)
    if outcome.failure is not None:
        failure = _failure(outcome.failure, source, activation)
    elif outcome.size or len(output) > limit:
        size = outcome.size or len(output)
        failure = _own(failures.OUTPUT_TOO_LARGE, f"the result is {size} bytes; the limit is {limit}")
    elif outcome.notrun:
        failure = _own(failures.BAD_CODE, f"`run` must be a function; here it is a {outcome.notrun}")
    else:
        return _success(output, outcome, used_bytes)
    return _with_reports(Completion(failure=failure, usage=Usage(peak_memory_bytes=used_bytes)), outcome)


def _decode(text: str) -> _Outcome:
    try:
        return _OUTCOME.decode(text)
    except msgspec.DecodeError:
        # JavaScript strings may hold half a surrogate pair, which no UTF-8 text can. It becomes U+FFFD, as in every
        # API of the web that takes such a string.
        return _OUTCOME.decode(_ESCAPE.sub(_whole_characters, text))


def _whole_characters(escape: re.Match[str]) -> str:
    return "\\ufffd" if escape[1] else escape[0]


def interrupted(code: str, salvaged: str, activation: Activation, error: str = "") -> Completion:
    """Return the completion of an attempt that the engine or the clock ended. `error`: what the engine said."""
    limits = activation.limits
    message = {
        failures.TIMEOUT: f"stopped after {(limits.cpu_us or limits.wall_us) / 1000:g} ms",
        failures.OUT_OF_MEMORY: f"the code needed more than its {limits.memory_bytes} bytes of memory",
        failures.STACK_OVERFLOW: f"the code recursed deeper than its {limits.stack_bytes} bytes of stack",
        failures.NEVER_SETTLED: "the promise that the code returned can never settle: nothing is left to run",
    }.get(code)
    completion = failed(code, message) if message else _thrown_in_job(code, error)
    try:
        return _with_reports(completion, _decode(salvaged)) if salvaged else completion
    except RecursionError:  # a value in the logs or the checkpoint; how the attempt ended is known without it
        return completion


def _thrown_in_job(code: str, error: str) -> Completion:
    """What a job of the queue threw comes out of the engine as text: the value, then the frames that errors have."""
    said, _, frames = error.removesuffix("\nundefined").partition("\n    at ")
    stack = author_stack(f"at {frames}") if frames else ""
    return failed(code, said[:_MESSAGE_MAX] or "the engine gave up on the code", stack=stack[:_MESSAGE_MAX])


def code_of_engine_error(error: Exception, memory_bytes: int) -> str:
    """Return the failure code for an exception that left `$host`: the engine's own, or what a microtask threw."""
    said = str(error).partition("\n")[0]
    name, _, message = said.partition(": ")
    if said.startswith("InternalError: interrupted"):
        return failures.TIMEOUT
    if name not in _ENGINE_ERRORS:
        return failures.OUT_OF_MEMORY if said == "null" and _ran_out(memory_bytes) else failures.USER_ERROR
    if "stack overflow" in message or "call stack size" in message:
        return failures.STACK_OVERFLOW
    if "out of memory" in message or message in _TOO_LONG:
        return failures.OUT_OF_MEMORY
    return failures.USER_ERROR


def _ran_out(memory_bytes: int) -> bool:
    """Whether a `null` was thrown by the engine, which does that when too little memory is left for an error object."""
    return rss_growth_bytes() > memory_bytes // 4


def syntax_problem(text: str, source: str, shift: int) -> Problem:
    """Return the problem for a SyntaxError's text. `shift`: columns that were put before the first line."""
    message = text.split("\n", 1)[0].removeprefix("SyntaxError: ")
    place = _PLACE.search(text)
    line, column = (int(place[1]), int(place[2] or 0)) if place else (0, 0)
    hint = hint_for(source, message)
    return Problem(f"{message}. {hint}" if hint else message, line, max(0, column - shift) if line == 1 else column)


def _own(code: str, message: str, stack: str = "") -> Failure:
    return Failure(code, message, stack, retryable=False if code in failures.NOT_RETRYABLE else None)


def _success(output: bytes, outcome: _Outcome, used_bytes: int) -> Completion:
    try:
        asks = decode_asks(outcome.asks)
    except BadAsk as error:
        return _with_reports(Completion(failure=_own(failures.USER_ERROR, str(error))), outcome)
    patch = {key: bytes(value) for key, value in outcome.patch.items()}
    completion = Completion(output=output, patch=patch, asks=asks, usage=Usage(peak_memory_bytes=used_bytes))
    return _with_reports(completion, outcome)


def _with_reports(completion: Completion, outcome: _Outcome) -> Completion:
    if not (outcome.logs or outcome.progress or outcome.lost or outcome.checkpoint):
        return completion
    return msgspec.structs.replace(
        completion,
        logs=tuple(LogLine(line.level, _logged(line.message), bytes(line.metadata)) for line in outcome.logs),
        logs_lost=outcome.lost,
        progress=tuple(Progress(report.fraction, report.message) for report in outcome.progress),
        checkpoint=bytes(outcome.checkpoint) or None,
    )


def _failure(thrown: _Thrown, source: str, activation: Activation) -> Failure:
    stack = author_stack(thrown.stack)
    if bytes(thrown.own) != b"null":
        return _authored(thrown, stack)
    text = f"{thrown.name}: {thrown.message}" if thrown.name else thrown.message
    if thrown.name == "SyntaxError" and _UNPARSED.fullmatch(stack):
        problem = syntax_problem(f"SyntaxError: {thrown.message}", source, 0)
        return _own(failures.BAD_CODE, f"SyntaxError: {problem.message}", stack)
    if thrown.name == "InternalError" and "out of memory" in thrown.message:
        return _own(failures.OUT_OF_MEMORY, text, stack)
    if thrown.name in ("RangeError", "InternalError") and thrown.message in _TOO_LONG:
        return _own(failures.OUT_OF_MEMORY, text, stack)
    if thrown.name in _ENGINE_ERRORS and ("stack overflow" in thrown.message or "call stack size" in thrown.message):
        return _own(failures.STACK_OVERFLOW, text, stack)
    memory_bytes = activation.limits.memory_bytes
    if thrown.thrown == "null" and _ran_out(memory_bytes):
        return _own(failures.OUT_OF_MEMORY, f"the code needed more than its {memory_bytes} bytes of memory")
    return _own(failures.USER_ERROR, text[:_MESSAGE_MAX], stack)


def _authored(thrown: _Thrown, stack: str) -> Failure:
    try:
        own = _OWN.decode(thrown.own)
        refused = failures.refuse_author_code(own.code)
        delay_us = optional_duration_us(own.next_delay)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        return _own(failures.USER_ERROR, f"ctx.fail was given something else than it takes: {error}", stack)
    if refused:
        return _own(failures.USER_ERROR, f"ctx.fail: {refused}; the message was: {thrown.message}", stack)
    return Failure(own.code, thrown.message, stack, bytes(own.details), own.retryable, delay_us, authored=True)


def _logged(message: str) -> str:
    """Return a line of the log with the stacks in it as those of failures are shown: the author's frames only."""
    if "    at " not in message:
        return message
    return _FRAMES.sub(_frames_logged, message)


def _frames_logged(found: re.Match[str]) -> str:
    frames = "\n".join(f"    {frame}" for frame in author_stack(found[0]).splitlines())
    return f"\n{frames}" if frames and found[0].startswith("\n") else frames


def author_stack(stack: str) -> str:
    """Return the frames of the author's own code, with the file called task.js.

    A first place without a name is one in a text that was parsed; with callers below it, in another than the file.
    """
    frames: list[str] = []
    for line in stack.splitlines():
        frame = line.strip()
        if not frame:
            continue
        if frame.startswith("at $host "):
            break
        if frame.startswith("at $host"):
            continue  # `ctx.fail` and its like, called by the author's frame below
        frames.append(frame.replace("<eval> (<input>:", "task.js (<input>:").replace("<input>", "task.js"))
    if frames and frames[-1] == "at eval (native)":  # by which `$host` runs the source
        frames.pop()
    return "\n".join(frames[1:] if len(frames) > 1 and _UNPARSED.fullmatch(frames[0]) else frames)
