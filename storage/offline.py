"""What `windlass storage check | dump | backup | compact` do to an embedded store.

`backup` and `dump` work beside a running engine: they read one snapshot, which LMDB keeps whole while the engine goes
on. `check` is for a store at rest, and so is `compact`, which replaces the file and therefore takes the engine's
lock.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import lmdb
import lmdb.verify

from windlass.storage.embedded_files import (
    DATA_FILE,
    LMDB_LOCK_FILE,
    MAP_BYTES,
    DirectoryLock,
    check_format,
    named,
    open_environment,
    stored_version,
    sync_names,
)
from windlass.storage.port import Row, StorageError, StoreFormat
from windlass.storage.sizes import KEYS_END

_COMPACTED: Final = "compacting"
_CHUNK_ROWS: Final = 1000


@dataclass(frozen=True)
class StoreReport:
    """What a look at a whole store found."""

    rows: int
    key_bytes: int
    value_bytes: int
    #: Version of the last commit.
    version: int
    file_bytes: int


def check(directory: Path) -> StoreReport:
    """Walk the file's every page, then read every row. Use on a store that no engine has open.

    Raises `StoreFormat` if it is damaged or no store, `StoreLocked` if an engine has it open.
    """
    _must_exist(directory)
    lock = DirectoryLock(directory)
    try:
        _check_pages(directory)
        return count(directory)
    finally:
        lock.release()


def count(directory: Path) -> StoreReport:
    """Read every row and count. Works beside a running engine."""
    rows = key_bytes = value_bytes = 0
    with Reader(directory) as reader:
        for key, value in reader.rows():
            rows += 1
            key_bytes += len(key)
            value_bytes += len(value)
        version = reader.version
    return StoreReport(rows, key_bytes, value_bytes, version, (directory / DATA_FILE).stat().st_size)


def dump(directory: Path, begin: bytes = b"", end: bytes = KEYS_END) -> Iterator[Row]:
    """The rows with begin <= key < end of one snapshot, in key order. Works beside a running engine."""
    with Reader(directory) as reader:
        yield from reader.rows(begin, end)


def backup(directory: Path, target: Path) -> StoreReport:
    """Copy one snapshot into the new directory `target`, without free pages. Works beside a running engine.

    Raises `StorageError` if the target holds a store already, `StoreFull` if there is no room for it.
    """
    if (target / DATA_FILE).exists():
        raise StorageError(f"{target} holds a store already: give a directory that does not")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with Reader(directory) as reader:
            reader.copy_to(target)
        _sync(target)
        return count(target)
    except StorageError:
        (target / DATA_FILE).unlink(missing_ok=True)
        raise


def compact(directory: Path) -> tuple[int, int]:
    """Rewrite the file without its free pages; returns its size in bytes before and after.

    Needs room for the copy. A crash leaves either the old file or the new one. Raises `StoreLocked` if an engine has
    it open.
    """
    _must_exist(directory)
    lock = DirectoryLock(directory)
    try:
        return _compact(directory)
    finally:
        lock.release()


def _compact(directory: Path) -> tuple[int, int]:
    copy = directory / _COMPACTED
    shutil.rmtree(copy, ignore_errors=True)
    before = (directory / DATA_FILE).stat().st_size
    backup(directory, copy)
    os.replace(copy / DATA_FILE, directory / DATA_FILE)
    # It speaks of the old file's readers and commits; LMDB makes a new one.
    (directory / LMDB_LOCK_FILE).unlink(missing_ok=True)
    _sync(directory)
    shutil.rmtree(copy)
    return before, (directory / DATA_FILE).stat().st_size


class Reader:
    """A store opened only to read, with one snapshot of it. Use with `with`."""

    def __init__(self, directory: Path) -> None:
        _must_exist(directory)
        self._directory = directory
        self._environment = open_environment(directory, MAP_BYTES, readonly=True)
        try:
            check_format(self._environment, directory)
            self._reading = self._environment.begin()
        except BaseException:
            self._environment.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._reading.abort()
        self._environment.close()

    @property
    def version(self) -> int:
        """Version of the last commit in the snapshot."""
        return stored_version(self._reading)

    def rows(self, begin: bytes = b"", end: bytes = KEYS_END) -> Iterator[Row]:
        """The rows with begin <= key < end, in key order."""
        cursor = self._reading.cursor()
        if cursor.set_range(begin or b"\0"):
            for row in cursor.iternext():
                if row[0] >= end:
                    return
                yield row

    def copy_to(self, target: Path) -> None:
        """Write the snapshot of now to an empty directory."""
        try:
            self._environment.copy(str(target), compact=True)
        except (lmdb.Error, OSError) as error:
            raise named(error, target) from error


def _must_exist(directory: Path) -> None:
    if not (directory / DATA_FILE).exists():
        raise StoreFormat(f"there is no store in {directory}: {DATA_FILE} is missing")


def _check_pages(directory: Path) -> None:
    try:
        problems = lmdb.verify.verify(str(directory))  # type: ignore[no-untyped-call]
    except lmdb.verify.VerifyError as error:
        problems = [str(error)]
    if problems:
        raise StoreFormat(f"{directory / DATA_FILE} is damaged ({len(problems)} findings, the first: {problems[0]})")


def _sync(directory: Path) -> None:
    """Make the file of a store, and its name, outlive a loss of power."""
    opened = os.open(directory / DATA_FILE, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
    sync_names(directory)
