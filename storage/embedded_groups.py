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
from collections.abc import Iterator
from pathlib import Path

import lmdb

from windlass.storage.embedded_environment import OpenEnvironment
from windlass.storage.embedded_layer import NO_LAYER, Layer
from windlass.storage.embedded_transaction import EmbeddedTransaction
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
        self.store = OpenEnvironment(directory, map_bytes)
        self.watches = WatchTable()
        self.durable_version = self.store.version
        self._opened_version = self.store.version
        #: Groups written and synced since it was opened.
        self.commits = 0
        self._writer = Writer(self.store.environment, self._landed_in_thread)
        self._open = Group(self.durable_version)
        #: Up to this version, commits have left the open group.
        self._handed_over = self.durable_version
        self._flying: Group | None = None
        self._handing_over = False
        #: Why no transaction may begin; empty while the store is open.
        self.refusal = ""
        self._look()

    @property
    def pending(self) -> bool:
        """True if bodies see what is not on disk yet."""
        return self._flying is not None or self._open.version > self._handed_over

    def counts(self) -> dict[str, int]:
        """See `Counted` in the port."""
        return {"transactions": self.durable_version - self._opened_version, "commits": self.commits}

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

    async def close(self) -> None:
        """Finish what was begun, then release the store. Safe to call twice."""
        if self.store.closed:
            return
        failed = bool(self.refusal)
        self.refusal = self.refusal or "the store was closed"
        while self.pending and not failed:
            with contextlib.suppress(StorageError):
                await self.landing()
        self._writer.stop()
        self.watches.lose_all("the store was closed")
        self.store.close()

    def _look(self) -> None:
        """Make the bodies read the newest commit on disk, under the layers that it does not hold."""
        self.store.look()
        self.committed = self.store.view()
        self.present = self.store.view(self._open.layer, self._flying.layer if self._flying is not None else NO_LAYER)

    def _hand_over(self) -> None:
        with self._nobody_waits_for_ever():
            self._write_open_group()

    def _write_open_group(self) -> None:
        self._handing_over = False
        if self._flying is not None or not self._open.waiting:
            return
        group = self._flying = self._open
        self._handed_over = group.version
        self._open = Group(group.version)
        self.present = self.store.view(self._open.layer, group.layer)
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
        with self._nobody_waits_for_ever():
            self._end_flying_group(error)

    def _end_flying_group(self, error: Exception | None) -> None:
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
        self.commits += 1
        self._look()
        for future in group.waiting:
            if not future.done():
                future.set_result(None)
        for watch in group.rung:
            watch.fire()
        if self._open.waiting:
            self._handing_over = True
            self._loop.call_soon(self._hand_over)

    def _grow(self) -> bool:
        grown = self.store.grow()
        self._look()
        return grown

    @contextlib.contextmanager
    def _nobody_waits_for_ever(self) -> Iterator[None]:
        """If the store itself fails here, say so to all who wait and to all who come."""
        groups = {self._flying, self._open}
        try:
            yield
        except Exception as error:
            self.refusal = f"the store in {self.store.directory} failed and must be opened anew: {error!r}"
            for group in groups | {self._flying, self._open}:
                for future in group.waiting if group is not None else ():
                    if not future.done():
                        future.set_exception(CommitUnknown(self.refusal))
            raise

    def _failed(self, error: Exception) -> None:
        groups = [self._open] if self._flying is None else [self._flying, self._open]
        if isinstance(error, lmdb.PanicError) or not self.store.usable():
            self._reopen()
        self.store.look()
        told = self.store.told(error, groups[0].version)
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

    def _reopen(self) -> None:
        self._writer.stop()
        self.store.reopen()
        self._writer = Writer(self.store.environment, self._landed_in_thread)
