"""From how a module's run ended to a completion."""

from __future__ import annotations

from typing import Final

import msgspec
import wasmtime

from windlass.runtimes import failures
from windlass.runtimes.asks import BadAsk, decode_asks
from windlass.runtimes.json_text import not_json
from windlass.runtimes.port import Activation, Ask, Completion, Failure, Usage
from windlass.runtimes.wasm_engine import STACK_BYTES
from windlass.runtimes.wasm_guest import Guest, GuestEnded, GuestExit

_FRAMES_SHOWN: Final = 20
_NAME_SHOWN: Final = 200
#: No module is as large; the engine says "unknown" with more than that.
_NOWHERE: Final = 1 << 32
_TRAP_CODES: Final = {
    wasmtime.TrapCode.INTERRUPT: failures.TIMEOUT,
    wasmtime.TrapCode.STACK_OVERFLOW: failures.STACK_OVERFLOW,
    wasmtime.TrapCode.OUT_OF_FUEL: failures.OUT_OF_FUEL,
}


def failure_of(error: Exception, guest: Guest) -> Failure:
    """Return the failure for what ended the run."""
    match error:
        case GuestEnded():
            return error.failure
        case GuestExit():
            message = guest.last_line or f"the module ended with exit code {error.code}"
            return Failure(failures.USER_ERROR, message, details=b'{"exit_code":%d}' % error.code)
        case wasmtime.Trap():
            return _trap(error, guest.activation)
        case _:
            return _refused(str(error))


def completion_of(output: bytes | None, failure: Failure | None, guest: Guest, usage: Usage) -> Completion:
    """Return the completion with everything that the module left behind."""
    asks: tuple[Ask, ...] = ()
    if failure is None:
        if wrong := not_json(output or b""):
            failure = _own(failures.BAD_OUTPUT, f"the result is {wrong}")
        else:
            try:
                asks = decode_asks(b"[" + b",".join(guest.asks) + b"]")
            except BadAsk as error:
                failure = _own(failures.USER_ERROR, str(error))
    ended_well = failure is None
    return Completion(
        failure=failure,
        output=(output or b"null") if ended_well else b"null",
        patch=guest.patch if ended_well else {},
        asks=asks,
        logs=tuple(guest.logs),
        logs_lost=guest.logs_lost,
        progress=tuple(guest.progress),
        checkpoint=guest.checkpoint,
        usage=usage,
        denials=guest.denials.all(),
    )


def _own(code: str, message: str, stack: str = "", details: bytes = b"null") -> Failure:
    return Failure(code, message, stack, details, retryable=False if code in failures.NOT_RETRYABLE else None)


def _trap(trap: wasmtime.Trap, activation: Activation) -> Failure:
    kind = trap.trap_code
    code = _TRAP_CODES.get(kind, failures.TRAP) if kind is not None else failures.TRAP
    limits = activation.limits
    message = {
        failures.TIMEOUT: f"stopped after {(limits.cpu_us or limits.wall_us) / 1000:g} ms",
        failures.STACK_OVERFLOW: f"the module recursed deeper than its {STACK_BYTES} bytes of stack",
        failures.OUT_OF_FUEL: f"the module used up its {limits.fuel} units of fuel",
    }.get(code, trap.message.strip().split("\n")[-1].strip().removeprefix("wasm trap: "))
    frames = [
        f"at {(frame.func_name or f'function {frame.func_index}')[:_NAME_SHOWN]}{_place(frame.module_offset)}"
        for frame in trap.frames[:_FRAMES_SHOWN]
    ]
    details = msgspec.json.encode({"trap": kind.name}) if kind is not None else b"null"
    return _own(code, message, "\n".join(frames), details)


def _place(offset: int) -> str:
    """Where in the module; the engine has no place for the first instruction of a function, where stacks overflow."""
    return f" (+{offset:#x})" if offset < _NOWHERE else ""


def _refused(text: str) -> Failure:
    """What the engine refuses without running it: mostly a memory or a table that is too large from the start."""
    if any(word in text for word in ("exceeds", "allocate", "mmap", "Cannot allocate")):
        return _own(
            failures.OUT_OF_MEMORY, f"the module needs more than it may have: {text.splitlines()[-1].strip()[:2000]}"
        )
    return _own(failures.BAD_CODE, f"the module cannot be started: {text[:2000]}")
