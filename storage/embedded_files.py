"""The files of an embedded store: its directory, its lock, its format, and the LMDB environment over them.

A store is a directory with `data.mdb` and `lock.mdb` (LMDB's) and `windlass.lock` (ours: held for as long as a
process may write, so that a second engine is refused instead of interleaving with the first). Programs that only
read, such as backup and dump, open beside a running engine without our lock; LMDB keeps what they read.

Keys that begin with 0xff are the store's own: its format, and the version of its last commit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
from pathlib import Path
from typing import Final

import lmdb

from windlass.storage.port import StorageError, StoreFormat, StoreFull, StoreLocked, StoreReadOnly

FORMAT_KEY: Final = b"\xff/format"
FORMAT: Final = b"windlass 1"
VERSION_KEY: Final = b"\xff/version"
DATA_FILE: Final = "data.mdb"
LMDB_LOCK_FILE: Final = "lock.mdb"
LOCK_FILE: Final = "windlass.lock"
#: The first size of the memory map. It is address space, not memory, and doubles when it is full.
MAP_BYTES: Final = 1 << 30
#: Snapshots open at once, in all processes.
READERS_MAX: Final = 1024

#: With less than this much room, what fails does so for want of room.
_ROOM: Final = 1 << 16
_NO_ROOM: Final = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
#: What LMDB says of a write that was cut off half-way for want of room: in a commit, and in a copy.
_CUT_OFF: Final = tuple(os.strerror(code) for code in (errno.EIO, errno.EINVAL))
_NO_WRITE: Final = tuple(os.strerror(code) for code in (errno.EROFS, errno.EACCES, errno.EPERM))


def named(error: Exception, directory: Path) -> StorageError:
    """The port's error for one of LMDB or of the system."""
    text = str(error)
    told = isinstance(error, (lmdb.DiskError, lmdb.MapFullError)) or any(reason in text for reason in _NO_ROOM)
    if told or (any(sign in text for sign in _CUT_OFF) and _is_full(directory)):
        return StoreFull(f"no room in {directory}: {text}. Nothing of this commit was kept; free space and try again")
    if isinstance(error, lmdb.ReadonlyError) or any(reason in text for reason in _NO_WRITE):
        return StoreReadOnly(f"{directory} cannot be written: {text}")
    if isinstance(error, (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError)):
        return StoreFormat(f"{directory / DATA_FILE} is not a store of Windlass, or it is damaged: {text}")
    return StorageError(f"{directory}: {text}")


def _is_full(directory: Path) -> bool:
    """True if the data file cannot grow."""
    system = os.statvfs(directory)
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (directory / DATA_FILE).stat().st_size
    return system.f_bavail * system.f_frsize < _ROOM or (limit != resource.RLIM_INFINITY and size > limit - _ROOM)


class DirectoryLock:
    """The right to write a store, from construction to `release`. The system frees it when the process dies."""

    def __init__(self, directory: Path) -> None:
        """Raises `StoreLocked`, or `StoreReadOnly` if the directory cannot be made or written."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreReadOnly(f"{directory} cannot be written: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._file, 20, 0).decode(errors="replace") or "unknown"
            os.close(self._file)
            message = f"{directory} is in use by process {holder}: stop it, or give this one a directory of its own"
            raise StoreLocked(message) from error
        self._write_holder(directory)

    def _write_holder(self, directory: Path) -> None:
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, str(os.getpid()).encode(), 0)
        except OSError as error:
            os.close(self._file)
            raise named(error, directory) from error

    @property
    def released(self) -> bool:
        """True after `release`."""
        return self._file < 0

    def release(self) -> None:
        """Let others open the store. Safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def open_environment(directory: Path, map_bytes: int, *, readonly: bool) -> lmdb.Environment:
    """LMDB on this directory.

    Its defaults for safety: every commit is synced, data before the page that refers to it.
    """
    try:
        size = (directory / DATA_FILE).stat().st_size if (directory / DATA_FILE).exists() else 0
        return lmdb.open(
            str(directory),
            map_size=max(map_bytes, 2 * size),
            readonly=readonly,
            create=not readonly,
            mode=0o600,
            max_readers=READERS_MAX,
            # Pages are wholly overwritten before they are written out; zeroing them first costs time for nothing.
            meminit=False,
        )
    except (lmdb.Error, OSError) as error:
        raise named(error, directory) from error


def sync_names(directory: Path) -> None:
    """Make the names of its files, and its own, outlive a loss of power: to sync a file does not do that.

    Those above it, too, for it may have been made with them. Some file systems cannot do it, and some directories may
    be entered but not read; then nothing more can be done.
    """
    for place in (directory.absolute(), *directory.absolute().parents):
        with contextlib.suppress(OSError):
            opened = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


def check_format(environment: lmdb.Environment, directory: Path) -> None:
    """Raise `StoreFormat` unless this program can read the store."""
    with environment.begin() as reading:
        found = reading.get(FORMAT_KEY)
    if found != FORMAT:
        what = "has no format mark" if found is None else f"has format {found!r}"
        raise StoreFormat(f"the store in {directory} {what}; this program reads {FORMAT!r}")


def initialise(environment: lmdb.Environment, directory: Path) -> None:
    """Mark an empty store with the format; check that of one that is not empty."""
    if environment.stat()["entries"]:
        check_format(environment, directory)
        return
    try:
        with environment.begin(write=True) as writing:
            writing.put(FORMAT_KEY, FORMAT)
            writing.put(VERSION_KEY, bytes(8))
    except lmdb.Error as error:
        raise named(error, directory) from error


def stored_version(reading: lmdb.Transaction) -> int:
    """The version of the last commit that a snapshot sees."""
    return int.from_bytes(reading.get(VERSION_KEY) or b"", "big")
