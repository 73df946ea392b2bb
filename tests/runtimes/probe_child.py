"""A child with one runtime more, `probe`: what an attacker could do who has taken the whole process over.

Its "code" is the name of an attempt. Started like the real child; `mode` (the first argument) makes it misbehave as a
process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from windlass.runtimes import child, jail_isolation
from windlass.runtimes.jail_frames import Checked, Done, Job, Noted, Ready, Recalled, encode_frame
from windlass.runtimes.port import (
    Activation,
    Completion,
    Denial,
    Failure,
    LogLine,
    Problem,
    Progress,
    Report,
    Route,
    Spawn,
    WaitFor,
)

_PIPE_OUT = 4


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _parent_memory(argument: str) -> str:
    class Range(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(64)
    here, there = Range(ctypes.addressof(buffer), 64), Range(0x400000, 64)
    if libc.process_vm_readv(os.getppid(), ctypes.byref(here), 1, ctypes.byref(there), 1, 0) < 0:
        raise OSError(ctypes.get_errno(), "process_vm_readv")
    return buffer.raw.hex()


def _ptrace(argument: str) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, os.getppid(), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    return "attached"


def _signal_parent(argument: str) -> str:
    os.kill(os.getppid(), signal.SIGTERM)
    return "sent"


def _become_root(argument: str) -> str:
    os.setuid(0)
    return "root"


def _spin(seconds: str) -> str:
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        pass
    return "spun"


def _endless_words(argument: str) -> str:
    while True:
        os.write(2, b"x" * 65536)


def _ready_again(argument: str) -> str:
    time.sleep(0.1)  # so that nothing else is read with it
    return _raw(encode_frame(Ready((), ())))


def _raw(data: bytes) -> str:
    os.write(_PIPE_OUT, data)
    time.sleep(60)
    return "written"


ATTEMPTS: dict[str, Callable[[str], str]] = {
    "pid": lambda _: str(os.getpid()),
    "environment": lambda _: repr(dict(os.environ)),
    "read": _read,
    "write": lambda path: str(os.open(path, os.O_WRONLY | os.O_CREAT)),
    "list": lambda path: repr(os.listdir(path)),
    "stat": lambda path: repr(os.stat(path)),
    "parent_environment": lambda _: _read(f"/proc/{os.getppid()}/environ"),
    "parent_memory_file": lambda _: _read(f"/proc/{os.getppid()}/mem"),
    "parent_memory": _parent_memory,
    "ptrace": _ptrace,
    "signal_parent": _signal_parent,
    "socket": lambda _: repr(socket.socket()),
    "unix_socket": lambda _: repr(socket.socket(socket.AF_UNIX)),
    "socketpair": lambda _: repr(socket.socketpair()),
    "connect": lambda port: repr(socket.create_connection(("127.0.0.1", int(port)), 1)),
    "fork": lambda _: str(os.fork()),
    "execute": lambda _: str(subprocess.run(["/bin/true"], check=True)),
    "execv": lambda _: str(os.execv("/bin/true", ["true"])),
    "pipe": lambda _: repr(os.pipe()),
    "memfd": lambda _: str(os.memfd_create("x")),
    "more_descriptors": lambda _: str(os.dup(0)),
    "raise_limits": lambda _: str(__import__("resource").setrlimit(__import__("resource").RLIMIT_NOFILE, (100, 100))),
    "become_root": _become_root,
    "mount": lambda _: str(ctypes.CDLL(None).mount(b"proc", b"/proc", b"proc", 0, None)),
    "memory": lambda count: str(len(bytearray(int(count)))),
    "segfault": lambda _: str(ctypes.string_at(0)),
    "abort": lambda _: str(os.abort()),
    "exit": lambda code: str(os._exit(int(code))),
    "spin": _spin,
    "garbage": lambda _: _raw(b"\x05\0\0\0hello"),
    "huge_frame": lambda _: _raw(struct.pack("<I", 1 << 31) + b"x" * 1000),
    "forged_answer": lambda _: _raw(encode_frame(Done(999_999_999, Completion(output=b'"forged"')))),
    "ready_again": _ready_again,
    "recalled_nothing": lambda _: _raw(encode_frame(Recalled((7,)))),
    "note_on_another": lambda _: _raw(encode_frame(Noted(999_999_999, Progress(0.5)))),
    "endless_words": _endless_words,
}
_MORE = 5 << 20
#: Nor these.
MISNAMED = {
    "long_code": Completion(failure=Failure("C" * 500_000, "")),
    "borrowed_code": Completion(failure=Failure("CRASHED", "", authored=True)),
}
#: What no runtime of ours would say, whatever the code asked it to.
BEYOND = {
    "not_json": Completion(output=b"{not json"),
    "large_patch": Completion(patch={"k": b'"' + b"x" * _MORE + b'"'}),
    "long_key": Completion(patch={"k" * _MORE: b"1"}),
    "large_checkpoint": Completion(checkpoint=b"1" * _MORE),
    "large_ask": Completion(asks=(Spawn("w" * _MORE),)),
    "long_signals": Completion(asks=(WaitFor(("s" * 1000,) * 5000),)),
    "many_asks": Completion(asks=(Route("r"),) * 1_001),
    "many_lines": Completion(logs=(LogLine("info", ""),) * 1_001),
    "long_line": Completion(logs=(LogLine("info", "x" * _MORE),)),
    "much_progress": Completion(progress=(Progress(0.5),) * 1_000),
    "long_failure": Completion(failure=Failure("USER_ERROR", "x" * _MORE)),
}


def _job(report: Report) -> Job:
    """The request that is being served, as whoever has the process finds it in its memory."""
    cells = [cell.cell_contents for cell in getattr(report, "__closure__", ()) or ()]
    return next(content for content in cells if isinstance(content, Job))


def _answer_and_stay(number: int) -> None:
    """Answer for the running job once it has been taken for a straggler, and then nothing: no Recall either."""
    time.sleep(0.3)
    os.write(_PIPE_OUT, encode_frame(Done(number, Completion(output=b'"stayed"'))))
    time.sleep(60)


def _answer_what_was_taken_back(number: int) -> None:
    """Say for ever that the job behind this one is done, so that there is always something new."""
    while True:
        time.sleep(0.05)
        os.write(_PIPE_OUT, encode_frame(Done(number + 1, Completion())))


#: What these do once their input is true; before, they are as short as a task can be, so that others wait behind them.
STRAGGLERS: dict[str, Callable[[int], None]] = {
    "answer_and_stay": _answer_and_stay,
    "answer_what_was_taken_back": _answer_what_was_taken_back,
}


class Probe:
    """A runtime that does what its code says."""

    name = "probe"
    version = "probe 1"
    prepares = False

    def warm_up(self) -> None:
        """Nothing to do."""

    def rest(self) -> None:
        """Nothing to do."""

    def check(self, code: bytes) -> tuple[Problem, ...]:
        """Everything is fine."""
        return ()

    def prepare(self, code: bytes, flavour: str) -> bytes:
        """Nothing to prepare."""
        return b""

    def activate(self, activation: Activation, prepared: bytes, report: Report) -> Completion:
        """Try; the output says what came of it."""
        name, _, argument = activation.code.decode().partition(" ")
        report(Progress(0.0, name))
        if name == "wrong_kind":
            _raw(encode_frame(Checked(_job(report).number, ())))
        if name in STRAGGLERS:
            if activation.input == b"true":
                STRAGGLERS[name](_job(report).number)
            return Completion(output=b'"short"')
        if name == "many_denials":
            one = Denial("file" * 100, "path_open" * 100, "/" * 10_000, -1)
            return Completion(output=b"1", denials=(one,) + (Denial("file", "path_open"),) * 90_000)
        if name in BEYOND or name in MISNAMED:
            return BEYOND.get(name) or MISNAMED[name]
        try:
            outcome = ATTEMPTS[name](argument)
        except Exception as error:  # noqa: BLE001 - whatever stops an attempt is a refusal
            outcome = f"refused: {type(error).__name__}: {error}"
        return Completion(output=msgspec.json.encode(outcome), runtime=self.version)


def _without_seccomp() -> str:
    raise OSError(38, "Function not implemented")


def main(mode: str) -> None:
    """Be the real child, or one that is broken in some way."""
    if mode == "dies":
        print("no such library", file=sys.stderr)
        sys.exit(3)
    if mode == "no-seccomp":
        setattr(jail_isolation, "install_filter", _without_seccomp)  # noqa: B010 - a name that it only imports
    if mode == "deaf":
        child.Child.serve = lambda self: time.sleep(600)  # type: ignore[method-assign]
    child.main({**child.RUNTIMES, "probe": "__main__:Probe"})


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(sys.argv[1] if len(sys.argv) > 1 else "")
