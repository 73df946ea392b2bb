"""Group commit for the embedded store: what waits while one commit is synced is the next commit.

Theory of operation. A finished body's writes go into the *open* group at once, so that the next body sees them. If
nothing is being written, the open group is handed to the writer at the end of this turn of the event loop: a lone
transaction waits for nobody, and all that the same turn brings share one sync. While a group is *flying*, the next
one collects until it has landed. A landed group moves from the layers into the snapshot that is read, and only then
do its transactions return.

Later groups are built on earlier ones. So if a commit fails, its transactions and those of the open group fail alike,
both layers are dropped, and the next body reads what is on disk: nothing changed.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import lmdb

from windlass.storage.embedded_files import (
    DirectoryLock,
    check_format,
    initialise,
    named,
    open_environment,
    stored_version,
)
from windlass.storage.embedded_layer import NO_LAYER, Layer
from windlass.storage.embedded_transaction import EmbeddedTransaction, View
from windlass.storage.embedded_writer import Writer
from windlass.storage.port import CommitUnknown, StorageError
from windlass.storage.watches import LocalWatch, WatchTable


class Group:
    """Transactions that share a commit."""

    __slots__ = ("armed", "layer", "rung", "version", "waiting")

    def __init__(self, version: int) -> None:
        self.version = version
        self.layer = Layer()
        self.waiting: list[asyncio.Future[None]] = []
        #: Watches armed by transactions of this group, lost if it fails, and those that its writes will fire.
        self.armed: list[LocalWatch] = []
        self.rung: list[LocalWatch] = []


class Groups:
    """An open store and its commits. Belongs to the running event loop."""

    def __init__(self, directory: Path, map_bytes: int) -> None:
        """Raises `StoreLocked`, `StoreReadOnly`, `StoreFull`, `StoreFormat`."""
        self._loop = asyncio.get_running_loop()
        self._directory = directory
        self._map_bytes = map_bytes
        self._lock = DirectoryLock(directory)
        self.watches = WatchTable()
        try:
            self._environment = self._open_environment()
            initialise(self._environment, directory)
            self._environment.reader_check()
        except BaseException:
            self._lock.release()
            raise
        self._reading = self._environment.begin()
        self._views: list[View] = []
        self.durable_version = stored_version(self._reading)
        #: Snapshots besides the one that bodies read; all are lost when the map grows.
        self._snapshots: set[lmdb.Transaction] = set()
        self._writer = Writer(self._environment, self._landed_in_thread)
        self._open = Group(self.durable_version)
        #: Up to this version, commits have left the open group.
        self._handed_over = self.durable_version
        self._flying: Group | None = None
        self._handing_over = False
        self._closed = False
        self._look()

    @property
    def pending(self) -> bool:
        """True if bodies see what is not on disk yet."""
        return self._flying is not None or self._open.version > self._handed_over

    @property
    def readers(self) -> int:
        """Places taken among LMDB's readers, in all processes: of `READERS_MAX`."""
        return int(self._environment.info()["num_readers"])

    def add(self, tx: EmbeddedTransaction) -> None:
        """Put the writes of a body that just returned into the open group. Call `landing` next."""
        group = self._open
        group.version += 1
        tx.commit_version = group.version
        own = tx.own
        if tx.stamped:
            stamp = group.version.to_bytes(8, "big") + b"\0\0"
            own.update((prefix + stamp + suffix, value) for prefix, suffix, value in tx.stamped)
        group.layer.values.update(own)
        if len(self.watches):
            group.rung += self.watches.take_written(self.watches.keys() & own.keys())

    def arm(self, watches: list[LocalWatch]) -> None:
        """Arm the watches of a body that just returned: from now on, later writes fire them."""
        for watch in watches:
            self.watches.arm(watch)
        if self.pending:
            self._open.armed += watches

    def landing(self) -> asyncio.Future[None]:
        """Done when everything added so far is on disk, or failed. Call only after `add` or while `pending`."""
        future = self._loop.create_future()
        flying = self._flying
        if flying is not None and flying.version == self._open.version:
            flying.waiting.append(future)
            return future
        self._open.waiting.append(future)
        if flying is None and not self._handing_over:
            self._handing_over = True
            self._loop.call_soon(self._hand_over)
        return future

    def snapshot(self) -> lmdb.Transaction:
        """A snapshot of what is on disk, to be given back to `release`. It breaks (`lmdb.Error`) when the map grows."""
        snapshot = self._environment.begin()
        self._snapshots.add(snapshot)
        return snapshot

    def release(self, snapshot: lmdb.Transaction) -> None:
        """Give a snapshot back. Safe to call twice."""
        self._snapshots.discard(snapshot)
        snapshot.abort()

    async def close(self) -> None:
        """Finish what was begun, then release the store. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        while self.pending:
            with contextlib.suppress(StorageError):
                await self.landing()
        self._writer.stop()
        self.watches.lose_all("the store was closed")
        self._close_environment()
        self._lock.release()

    def _open_environment(self) -> lmdb.Environment:
        return open_environment(self._directory, self._map_bytes, readonly=False)

    def _look(self) -> None:
        """Make the bodies read the newest snapshot, under the layers that it does not hold."""
        self._forget_snapshot()
        self._reading = self._environment.begin()
        self.committed = self._view()
        self.present = self._view(self._open.layer, self._flying.layer if self._flying is not None else NO_LAYER)

    def _view(self, open_layer: Layer = NO_LAYER, flying: Layer = NO_LAYER) -> View:
        view = View(self._reading, open_layer, flying)
        self._views.append(view)
        return view

    def _forget_snapshot(self) -> None:
        """End the snapshot that bodies read.

        An aborted one keeps its place among LMDB's readers for as long as anybody has a reference to it. Transactions
        may be kept, by an exception for instance, and with them their views: so those let go of it.
        """
        for view in self._views:
            view.close()
        self._views.clear()
        self._reading.abort()

    def _hand_over(self) -> None:
        self._handing_over = False
        if self._flying is not None or not self._open.waiting:
            return
        group = self._flying = self._open
        self._handed_over = group.version
        self._open = Group(group.version)
        self.present = self._view(self._open.layer, group.layer)
        error = self._writer.put(group.layer.values, group.version)
        while isinstance(error, lmdb.MapFullError) and self._grow():
            error = self._writer.put(group.layer.values, group.version)
        if error is not None:
            self._failed(error)

    def _landed_in_thread(self, error: Exception | None) -> None:
        # The loop may have ended without closing the store; then nobody waits for the answer.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._landed, error)

    def _landed(self, error: Exception | None) -> None:
        group = self._flying
        assert group is not None
        if isinstance(error, lmdb.MapFullError) and self._grow():
            # The tree's own bookkeeping did not fit any more: the same group again, in a larger map.
            error = self._writer.put(group.layer.values, group.version)
            if error is None:
                return
        if error is not None:
            self._failed(error)
            return
        self._flying = None
        self.durable_version = group.version
        self._look()
        for future in group.waiting:
            if not future.done():
                future.set_result(None)
        for watch in group.rung:
            watch.fire()
        if self._open.waiting:
            self._handing_over = True
            self._loop.call_soon(self._hand_over)

    def _failed(self, error: Exception) -> None:
        groups = [self._open] if self._flying is None else [self._flying, self._open]
        told = self._told(error, groups[0].version)
        self._flying = None
        self._open = Group(groups[-1].version)
        self._handed_over = groups[-1].version
        self._look()
        for group in groups:
            for future in group.waiting:
                if not future.done():
                    future.set_exception(type(told)(str(told)))
            for watch in group.armed:
                watch.cancel()
            # Their change did not happen, but a watch may fire without one, and its waiter will look.
            for watch in group.rung:
                watch.fire()

    def _told(self, error: Exception, version: int) -> StorageError:
        """What the transactions are told. After a failed write of its root page LMDB must be opened anew."""
        if not isinstance(error, lmdb.PanicError) and self._usable():
            return named(error, self._directory)
        self._reopen()
        if stored_version(self._reading) >= version:
            return CommitUnknown(f"the commit failed half-way and may not outlive a loss of power: {error}")
        return named(error, self._directory)

    def _usable(self) -> bool:
        """True unless LMDB refuses to go on after a failed commit."""
        try:
            self._environment.begin(write=True).abort()
        except lmdb.PanicError:
            return False
        return True

    def _grow(self) -> bool:
        """Double the map, between two write transactions. False if the address space has no room for it."""
        self._drop_snapshots()
        # A backup that was killed leaves its snapshot behind, and LMDB keeps pages for it until someone looks.
        self._environment.reader_check()
        try:
            self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        except (lmdb.Error, MemoryError):
            return False
        finally:
            self._look()
        return True

    def _drop_snapshots(self) -> None:
        self._forget_snapshot()
        for snapshot in self._snapshots:
            snapshot.abort()
        self._snapshots.clear()

    def _reopen(self) -> None:
        self._writer.stop()
        self._close_environment()
        self._environment = self._open_environment()
        check_format(self._environment, self._directory)
        self._reading = self._environment.begin()
        self._writer = Writer(self._environment, self._landed_in_thread)

    def _close_environment(self) -> None:
        self._drop_snapshots()
        self._environment.close()
