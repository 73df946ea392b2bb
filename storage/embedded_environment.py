"""LMDB held open by the one process that may write it: its lock, its snapshots, its growth, and its being opened anew.

Theory of operation: bodies read through one snapshot at a time (`reading`), renewed after each commit; strict mode
takes others beside it. An aborted snapshot keeps its place among LMDB's readers for as long as anybody has a
reference to it, and transactions may be kept, by an exception for instance: so everything that is handed out lets go
of its snapshot when told.
"""

from __future__ import annotations

from pathlib import Path

import lmdb

from windlass.storage.embedded_files import (
    DirectoryLock,
    check_format,
    initialise,
    named,
    open_environment,
    stored_version,
    sync_names,
)
from windlass.storage.embedded_layer import NO_LAYER, Layer
from windlass.storage.embedded_transaction import View
from windlass.storage.port import CommitUnknown, StorageError


class OpenEnvironment:
    """See the head of this file."""

    def __init__(self, directory: Path, map_bytes: int) -> None:
        """Raises `StoreLocked`, `StoreReadOnly`, `StoreFull`, `StoreFormat`."""
        self.directory = directory
        self._map_bytes = map_bytes
        self._lock = DirectoryLock(directory)
        try:
            self.environment = open_environment(directory, map_bytes, readonly=False)
            initialise(self.environment, directory)
            sync_names(directory)
            self.environment.reader_check()
        except BaseException:
            self._lock.release()
            raise
        self._reading = self.environment.begin()
        self._views: list[View] = []
        self._snapshots: set[lmdb.Transaction] = set()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._lock.released

    @property
    def readers(self) -> int:
        """Places taken among LMDB's readers at once, in all processes: of `READERS_MAX`."""
        return int(self.environment.info()["num_readers"])

    @property
    def version(self) -> int:
        """The last commit that bodies see on disk."""
        return stored_version(self._reading)

    def look(self) -> None:
        """Read the newest commit from now on. Views from before must not be used any more."""
        self._forget()
        self._reading = self.environment.begin()

    def view(self, open_layer: Layer = NO_LAYER, flying: Layer = NO_LAYER) -> View:
        """The commit that was last looked at, under these layers."""
        view = View(self._reading, open_layer, flying)
        self._views.append(view)
        return view

    def snapshot(self) -> lmdb.Transaction:
        """The newest commit, to be given back to `release`. It breaks (`lmdb.Error`) when the map grows."""
        snapshot = self.environment.begin()
        self._snapshots.add(snapshot)
        return snapshot

    def release(self, snapshot: lmdb.Transaction) -> None:
        """Give a snapshot back, and forget it. Safe to call twice."""
        self._snapshots.discard(snapshot)
        snapshot.abort()

    def grow(self) -> bool:
        """Double the map, between two write transactions; then `look`.

        False if the address space has no room for it.
        """
        self._drop_snapshots()
        # A backup that was killed leaves its snapshot behind, and LMDB keeps pages for it until someone checks.
        self.environment.reader_check()
        try:
            self.environment.set_mapsize(2 * self.environment.info()["map_size"])
        except (lmdb.Error, MemoryError):
            return False
        return True

    def usable(self) -> bool:
        """True unless LMDB refuses to go on, as it does after a failed write of its root page."""
        try:
            self.environment.begin(write=True).abort()
        except lmdb.PanicError:
            return False
        return True

    def reopen(self) -> None:
        """Open LMDB anew, without giving up the lock. No write transaction may be open."""
        self._drop_snapshots()
        self.environment.close()
        self.environment = open_environment(self.directory, self._map_bytes, readonly=False)
        check_format(self.environment, self.directory)
        self._reading = self.environment.begin()

    def told(self, error: Exception, version: int) -> StorageError:
        """What the transactions of a commit that failed are told; `version` is the one that it would have had."""
        if self.version >= version:
            return CommitUnknown(f"the commit failed half-way and may not outlive a loss of power: {error}")
        return named(error, self.directory)

    def close(self) -> None:
        """Let others open the store. Safe to call twice."""
        if not self.closed:
            self._drop_snapshots()
            self.environment.close()
            self._lock.release()

    def _drop_snapshots(self) -> None:
        self._forget()
        for snapshot in self._snapshots:
            snapshot.abort()
        self._snapshots.clear()

    def _forget(self) -> None:
        for view in self._views:
            view.close()
        self._views.clear()
        self._reading.abort()
