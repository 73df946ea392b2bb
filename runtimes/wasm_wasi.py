"""`wasi_snapshot_preview1` for one standard input, one standard output and one standard error, and nothing else.

Written here and not taken from the engine: its own WASI starts threads, waits in `poll_oneoff` where no deadline
reaches it, and shows the real clock and real random numbers. Every function answers with an error number; what has no
meaning in here (files, sockets, sleeping) says so at once, and is written down with the attempt. Calls on descriptors
that nobody opened are mistakes, not denials: every C library asks for the folders it was given (`fd_prestat_get`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from windlass.runtimes.denials import ARGUMENT_CHARACTERS
from windlass.runtimes.wasm_guest import Guest, GuestExit

_SUCCESS, _BADF, _FAULT, _INVAL, _NOSYS, _NOTSUP, _SPIPE, _NOTCAPABLE = 0, 8, 21, 28, 52, 58, 70, 76
_U32: Final = 0xFFFFFFFF
_IOVECS_MAX: Final = 1024
_RANDOM_BYTES_MAX: Final = 64 << 10
_CHARACTER_DEVICE: Final = 2
_REALTIME, _MONOTONIC, _CLOCKS = 0, 1, 4
_ANSWERS: Final = {
    **dict.fromkeys(("poll_oneoff", "proc_raise"), _NOTSUP),
    **dict.fromkeys(("fd_seek", "fd_tell"), _SPIPE),
    **dict.fromkeys(("fd_prestat_get", "fd_prestat_dir_name", "fd_readdir", "fd_pread", "fd_pwrite"), _BADF),
    **dict.fromkeys(("path_open", "path_filestat_get", "path_unlink_file", "path_create_directory"), _NOTCAPABLE),
    **dict.fromkeys(("path_rename", "path_link", "path_symlink", "path_readlink"), _NOTCAPABLE),
    **dict.fromkeys(("path_remove_directory", "path_filestat_set_times"), _NOTCAPABLE),
    **dict.fromkeys(("sched_yield", "fd_close", "fd_sync", "fd_datasync", "fd_fdstat_set_flags"), _SUCCESS),
}
#: Calls that reach outside: what for, and which arguments are pointer and length of a path, or the number to show.
_DENIED: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    **dict.fromkeys(("path_open", "path_filestat_get", "path_filestat_set_times", "path_link"), ("file", (2, 3))),
    **dict.fromkeys(("path_create_directory", "path_readlink", "path_rename"), ("file", (1, 2))),
    **dict.fromkeys(("path_remove_directory", "path_unlink_file"), ("file", (1, 2))),
    "path_symlink": ("file", (0, 1)),
    **dict.fromkeys(("sock_accept", "sock_recv", "sock_send", "sock_shutdown"), ("network", (0,))),
    "poll_oneoff": ("sleep", ()),
    "proc_raise": ("process", (0,)),
}


def wasi_function(name: str, current: Callable[[], Guest]) -> Callable[..., int | None]:
    """Return the host function for a WASI import. `current` gives the guest that runs."""
    own = _FUNCTIONS.get(name)
    if own is None:
        answer = _ANSWERS.get(name, _NOSYS)
        if name in _DENIED:
            return lambda *arguments: _denied(current(), name, arguments, answer)
        return lambda *_: answer
    return lambda *arguments: own(current(), *arguments)


def _denied(guest: Guest, name: str, arguments: tuple[int, ...], answer: int) -> int:
    """Write the call down and refuse it."""
    kind, places = _DENIED[name]
    shown = ""
    if len(places) == 2:  # a path out of bounds is still a path that was asked for
        length = min(arguments[places[1]] & _U32, ARGUMENT_CHARACTERS)
        shown = (guest.peek(arguments[places[0]], length) or b"").decode("utf-8", "replace")
    elif places:
        shown = str(arguments[places[0]] & _U32)
    guest.denials.add(kind, name, shown)
    return answer


def _nothing_there(guest: Guest, count_at: int, size_at: int) -> int:
    """args_sizes_get, environ_sizes_get: none."""
    zero = bytes(4)
    return _SUCCESS if guest.poke(count_at, zero) and guest.poke(size_at, zero) else _FAULT


def _nothing_given(guest: Guest, list_at: int, text_at: int) -> int:
    return _SUCCESS


def _clock_time_get(guest: Guest, clock: int, precision: int, at: int) -> int:
    if clock & _U32 >= _CLOCKS:
        return _INVAL
    now = guest.now_ns() if clock in (_REALTIME, _MONOTONIC) else 0
    return _SUCCESS if guest.poke(at, struct.pack("<Q", now)) else _FAULT


def _clock_res_get(guest: Guest, clock: int, at: int) -> int:
    if clock & _U32 >= _CLOCKS:
        return _INVAL
    return _SUCCESS if guest.poke(at, struct.pack("<Q", 1_000)) else _FAULT


def _random_get(guest: Guest, at: int, length: int) -> int:
    if length & _U32 > _RANDOM_BYTES_MAX:
        return _INVAL
    return _SUCCESS if guest.poke(at, guest.random(length & _U32)) else _FAULT


def _iovecs(guest: Guest, at: int, count: int) -> list[tuple[int, int]] | int:
    """Return (pointer, length) pairs, or an error number."""
    if count & _U32 > _IOVECS_MAX:
        return _INVAL
    table = guest.peek(at, (count & _U32) * 8)
    return _FAULT if table is None else list(struct.iter_unpack("<II", table))


def _fd_write(guest: Guest, descriptor: int, at: int, count: int, written_at: int) -> int:
    if descriptor not in (1, 2):
        return _BADF
    pairs = _iovecs(guest, at, count)
    if isinstance(pairs, int):
        return pairs
    total = 0
    for pointer, length in pairs:
        data = guest.peek(pointer, length)
        if data is None:
            return _FAULT
        total += length
        if descriptor == 1:
            guest.write_output(data)
        else:
            guest.write_log_bytes(data)
    return _SUCCESS if guest.poke(written_at, struct.pack("<I", total & _U32)) else _FAULT


def _fd_read(guest: Guest, descriptor: int, at: int, count: int, read_at: int) -> int:
    if descriptor != 0:
        return _BADF
    pairs = _iovecs(guest, at, count)
    if isinstance(pairs, int):
        return pairs
    start = guest.input_at
    for pointer, length in pairs:
        part = guest.activation.input[guest.input_at : guest.input_at + length]
        if not guest.poke(pointer, part):
            return _FAULT
        guest.input_at += len(part)
        if len(part) < length:
            break
    return _SUCCESS if guest.poke(read_at, struct.pack("<I", guest.input_at - start)) else _FAULT


def _fd_fdstat_get(guest: Guest, descriptor: int, at: int) -> int:
    if descriptor not in (0, 1, 2):
        return _BADF
    # Rights: fd_read or fd_write, and poll_fd_readwrite, which toolchains look for before they write.
    rights = 1 << 1 if descriptor == 0 else 1 << 6
    return _SUCCESS if guest.poke(at, struct.pack("<BxHxxxxQQ", _CHARACTER_DEVICE, 0, rights, 0)) else _FAULT


def _fd_filestat_get(guest: Guest, descriptor: int, at: int) -> int:
    if descriptor not in (0, 1, 2):
        return _BADF
    return _SUCCESS if guest.poke(at, struct.pack("<QQB7x5Q", 0, 0, _CHARACTER_DEVICE, 1, 0, 0, 0, 0)) else _FAULT


def _proc_exit(guest: Guest, code: int) -> None:
    raise GuestExit(code & _U32)


_FUNCTIONS: Final[dict[str, Callable[..., int | None]]] = {
    "args_sizes_get": _nothing_there,
    "environ_sizes_get": _nothing_there,
    "args_get": _nothing_given,
    "environ_get": _nothing_given,
    "clock_time_get": _clock_time_get,
    "clock_res_get": _clock_res_get,
    "random_get": _random_get,
    "fd_write": _fd_write,
    "fd_read": _fd_read,
    "fd_fdstat_get": _fd_fdstat_get,
    "fd_filestat_get": _fd_filestat_get,
    "proc_exit": _proc_exit,
}
