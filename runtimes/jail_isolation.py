"""Lock this process in: what a child of the worker does to itself before it takes the first task.

Theory of operation. The layers are independent, so that a hole in one is not a hole in the jail, and each says whether
it holds: containers forbid some of them, and a worker must know (and may insist, see `required`). The order matters:

1. process flags (die with the parent, no new privileges, no core dumps) and namespaces, while there is one thread;
2. the user: root becomes nobody, for good. This clears the parent-death signal, so it is set again;
3. Landlock, which the threads made later inherit;
4. the caller starts its threads and warms up (`between`);
5. resource limits, of which "no more file descriptors" alone stops open, socket and pipe on any kernel;
6. seccomp last, since it forbids the calls that the others are made of.

Before all of this every module that will ever be needed must have been imported: there are no files afterwards.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from windlass.runtimes.jail_seccomp import install_filter

LAYERS: Final = ("process", "namespaces", "user", "landlock", "rlimits", "seccomp")
_NOBODY: Final = 65534

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_CAPABILITY_VERSION_3: Final = 0x20080522
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_LANDLOCK_VERSION_FLAG: Final = 1
#: Access rights to files that each Landlock version knows (index: version), and to the network since version 4.
_LANDLOCK_FILES: Final = (0, 0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF)
_LANDLOCK_NETWORK: Final = 0x3
_LANDLOCK_SCOPES: Final = 0x3


class Layer(Struct, frozen=True, array_like=True):
    """One layer of the jail, and whether it holds."""

    name: str
    active: bool
    detail: str


class _LandlockRules(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


def lock_down(address_space_bytes: int, between: Callable[[], None]) -> tuple[Layer, ...]:
    """Apply every layer that the system allows and return what holds. `between`: start threads, warm up."""
    layers = [
        _layer("process", _process_flags),
        _layer("namespaces", _namespaces),
        _layer("user", _drop_user),
        _layer("landlock", _landlock),
    ]
    between()
    layers.append(_layer("rlimits", lambda: _resource_limits(address_space_bytes)))
    layers.append(_layer("seccomp", install_filter))
    return tuple(layers)


def _layer(name: str, apply: Callable[[], str]) -> Layer:
    try:
        return Layer(name, True, apply())
    except (OSError, ValueError) as error:
        return Layer(name, False, str(error))


def _process_flags() -> str:
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    return "dies with the worker, no new privileges, not dumpable"


def _namespaces() -> str:
    """Leave the worker's network, IPC and host name. Root can do it at once; others need a user namespace first."""
    wanted = _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS | _CLONE_NEWNS
    if os.geteuid() == 0 and _libc.unshare(wanted) == 0:
        return "own network, IPC, host name and mounts"
    _checked(_libc.unshare(_CLONE_NEWUSER | wanted))
    return "own users, network, IPC, host name and mounts"


def _drop_user() -> str:
    if os.geteuid() != 0 and os.getuid() != 0:
        _drop_capabilities()
        _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
        return f"user {os.geteuid()}, not root"
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    _checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    return "root became nobody"


def _drop_capabilities() -> None:
    """Give up what the new user namespace brought: in it, an ordinary user would be almighty."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(nothing)))


def _landlock() -> str:
    version = _checked(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), _LANDLOCK_VERSION_FLAG))
    files = _LANDLOCK_FILES[min(version, len(_LANDLOCK_FILES) - 1)]
    network = _LANDLOCK_NETWORK if version >= 4 else 0
    scopes = _LANDLOCK_SCOPES if version >= 6 else 0
    rules = _LandlockRules(files, network, scopes)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _checked(_libc.syscall(_LANDLOCK_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), 0))
    try:
        _checked(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)
    return f"version {version}: no files" + (", no TCP" if network else "")


def _resource_limits(address_space_bytes: int) -> str:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))
    # Not below the descriptors that are open: poll refuses more entries than the limit.
    descriptors = _open_descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    if os.geteuid() != 0:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    return f"{address_space_bytes >> 20} MB of address space, {descriptors} descriptors, no new processes, no files"


def _open_descriptors() -> int:
    """Close every gap and return the count: descriptors 0 to count-1 are all taken, so no new one fits."""
    highest = 0
    for descriptor in range(256):
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        highest = descriptor
    for descriptor in range(highest):
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(0, descriptor)
    return highest + 1
