"""Compiled modules, once per worker: in memory, and in a directory that only this worker writes.

What lies here is machine code that children map and run. So a file counts only if this process wrote it: each carries a
keyed hash, and the key lives in this process alone. A file that somebody else put there, or that an earlier worker
left, is compiled anew and replaced, which costs milliseconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from collections import Counter, OrderedDict
from pathlib import Path

_TAG_BYTES = 32


class PreparedCache:
    """Name → prepared code. `directory` None: memory only."""

    def __init__(self, directory: Path | None = None, memory_bytes_max: int = 128 << 20) -> None:
        self._directory = directory
        self._memory_bytes_max = memory_bytes_max
        self._memory: OrderedDict[str, bytes] = OrderedDict()
        self._key = secrets.token_bytes(32)
        if directory is not None:
            _make_private(directory)

    def get(self, name: str) -> bytes | None:
        """Return what was put under `name`, or None."""
        data = self._memory.get(name)
        if data is not None:
            self._memory.move_to_end(name)
            return data
        data = self._read(name)
        if data is not None:
            self._remember(name, data)
        return data

    def put(self, name: str, data: bytes) -> None:
        """Keep `data` under `name`; in memory only if it cannot be written, as when the disk is full."""
        self._remember(name, data)
        if self._directory is None:
            return
        path = self._directory / _file_name(name)
        passing = path.with_suffix(f".{secrets.token_hex(4)}")
        try:
            self._write(passing, name, data)
            passing.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                passing.unlink(missing_ok=True)

    def _write(self, path: Path, name: str, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._tag(name, data))
            file.write(data)

    def _read(self, name: str) -> bytes | None:
        if self._directory is None:
            return None
        try:
            whole = (self._directory / _file_name(name)).read_bytes()
        except OSError:  # what cannot be read is compiled anew
            return None
        tag, data = whole[:_TAG_BYTES], whole[_TAG_BYTES:]
        return data if hmac.compare_digest(tag, self._tag(name, data)) else None

    def _tag(self, name: str, data: bytes) -> bytes:
        return hmac.digest(self._key, name.encode() + b"\0" + data, "sha256")

    def _remember(self, name: str, data: bytes) -> None:
        self._memory[name] = data
        self._memory.move_to_end(name)
        while sum(map(len, self._memory.values())) > self._memory_bytes_max and len(self._memory) > 1:
            del self._memory[self._dispensable()]

    def _dispensable(self) -> str:
        """What was used longest ago by the realm that has most here: no other has to compile anew because of it."""
        held: Counter[str] = Counter()
        for name, data in self._memory.items():
            held[_realm(name)] += len(data)
        ((most, _),) = held.most_common(1)
        return next(name for name in self._memory if _realm(name) == most)


def _realm(name: str) -> str:
    """The namespace that a name begins with; see `Preparation.name_of`."""
    return name.rsplit("/", 4)[0]


def _file_name(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest() + ".prepared"


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise PermissionError(f"{directory} must belong to this worker's user and be closed to everybody else (0700)")
