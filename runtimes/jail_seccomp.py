"""A seccomp filter without libseccomp: the allow-list below as a few dozen classic BPF instructions.

The program loads the architecture and refuses any other, loads the system call's number, walks the list, and
answers EPERM to what is not on it. Two calls are looked at more closely: `prlimit64` is for this process itself only,
and `clone3` is answered with ENOSYS (so that libc does not treat it as fatal). There is no `clone`: a list with plain
`clone` on it allows fork as well. `openat`, `socket`, `execve`, `ptrace`, `process_vm_readv`, `kill` are simply
absent, and so is `newfstatat`, which would tell whether a path exists.

The filter is set with TSYNC, so that the clock thread, which must be there before (no `clone`), is under it too.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from typing import Final

_SECCOMP_SET_MODE_FILTER: Final = 1
_FLAG_TSYNC: Final = 1
_LOAD_WORD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_KILL_PROCESS: Final = 0x80000000
_ERRNO: Final = 0x00050000
_EPERM: Final = 1
_ENOSYS: Final = 38
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16

# name: (x86_64, aarch64); None where the architecture has no such call.
_NUMBERS: Final[dict[str, tuple[int, int | None]]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "close": (3, 57),
    "fstat": (5, 80), "lseek": (8, 62), "mmap": (9, 222), "munmap": (11, 215),
    "mprotect": (10, 226), "madvise": (28, 233), "mremap": (25, 216), "brk": (12, 214), "futex": (202, 98),
    "clock_gettime": (228, 113), "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "exit": (60, 93), "exit_group": (231, 94), "getpid": (39, 172), "gettid": (186, 178), "sched_yield": (24, 124),
    "getrandom": (318, 278), "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    "restart_syscall": (219, 128), "getrusage": (98, 165), "sched_getaffinity": (204, 123),
    "set_robust_list": (273, 99), "rseq": (334, 293), "membarrier": (324, 283), "epoll_wait": (232, None),
    "epoll_pwait": (281, 22), "epoll_ctl": (233, 21), "prlimit64": (302, 261), "clone3": (435, 435),
    "seccomp": (317, 277),
}  # fmt: skip
_LOOKED_AT: Final = frozenset({"prlimit64", "clone3", "seccomp"})
_ARCHITECTURES: Final = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install_filter() -> str:
    """Put this process, with all its threads, under the filter. Returns what was done. Raises OSError."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise OSError(f"no list of system calls for {machine}")
    column, architecture = _ARCHITECTURES[machine]
    code = ctypes.create_string_buffer(_filter(column, architecture))
    program = _Program(len(code.raw) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    seccomp = _NUMBERS["seccomp"][column]
    answer = libc.syscall(seccomp, _SECCOMP_SET_MODE_FILTER, _FLAG_TSYNC, ctypes.byref(program))
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if answer > 0:
        raise OSError(f"thread {answer} could not be put under the filter")
    return "only the system calls that computing needs"


def _filter(column: int, architecture: int) -> bytes:
    """Return the program: 8 bytes an instruction (code, jump if true, jump if false, operand)."""
    allowed = [numbers[column] for name, numbers in _NUMBERS.items() if name not in _LOOKED_AT]
    lines = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _NUMBER_AT),
        (_JUMP_EQUAL, 0, 1, _NUMBERS["clone3"][column]),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
        (_JUMP_EQUAL, 0, 4, _NUMBERS["prlimit64"][column]),
        (_LOAD_WORD, 0, 0, _FIRST_ARGUMENT_AT),
        (_JUMP_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
    ]
    for number in filter(None.__ne__, allowed):
        lines += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    lines.append((_RETURN, 0, 0, _ERRNO | _EPERM))
    return b"".join(struct.pack("=HBBI", code, yes, no, operand or 0) for code, yes, no, operand in lines)
