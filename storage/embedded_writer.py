"""The one thread that writes an embedded store: it owns LMDB's write transaction, which is bound to its thread.

Theory of operation: a commit has two phases. In the first the group's rows are put into LMDB's dirty pages: thousands
of short calls, each of which lets go of Python's global lock and takes it again. Beside a busy event loop each would
wait its turn for milliseconds, and the group for a second; so `put` hands the group over and *waits* until this phase
is over, which takes a microsecond or two per row. In the second phase LMDB writes the pages and syncs, in one call
that does not need the lock: that is when the event loop goes on, collecting the next group. Its end is told to the
loop by `landed`, from this thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

import lmdb

from windlass.storage.embedded_files import VERSION_KEY

Values = dict[bytes, bytes | None]


class Writer:
    """Use from one thread. One group at a time: after a `put` that returned None, wait for `landed`."""

    def __init__(self, environment: lmdb.Environment, landed: Callable[[Exception | None], None]) -> None:
        """`landed` is called on the writer's thread with the error of the commit, or None."""
        self._environment = environment
        self._landed = landed
        self._groups: SimpleQueue[tuple[Values, int] | None] = SimpleQueue()
        self._put: SimpleQueue[Exception | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="windlass-store-writer", daemon=True)
        self._thread.start()

    def put(self, values: Values, version: int) -> Exception | None:
        """Put a group into the write transaction.

        An error is returned; then nothing was changed and nothing will land.
        """
        self._groups.put((values, version))
        return self._put.get()

    def stop(self) -> None:
        """End the thread. No group may be under way."""
        self._groups.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (group := self._groups.get()) is not None:
            try:
                writing = self._filled(*group)
            except Exception as error:  # noqa: BLE001 - whatever it is, the loop stands still until it is told
                self._put.put(error)
                continue
            self._put.put(None)
            self._landed(_commit(writing))

    def _filled(self, values: Values, version: int) -> lmdb.Transaction:
        writing = self._environment.begin(write=True)
        try:
            _fill(writing, values, version)
        except BaseException:
            writing.abort()
            raise
        return writing


def _fill(writing: lmdb.Transaction, values: Values, version: int) -> None:
    """Rows in key order, so that LMDB's cursor finds the next one on the page where it stands."""
    puts = [(key, value) for key, value in values.items() if value is not None]
    puts.sort()
    puts.append((VERSION_KEY, version.to_bytes(8, "big")))
    writing.cursor().putmulti(puts)
    if len(puts) <= len(values):
        for key, value in values.items():
            if value is None:
                writing.delete(key)


def _commit(writing: lmdb.Transaction) -> Exception | None:
    try:
        writing.commit()
    except Exception as error:  # noqa: BLE001 - it is raised to the transactions of the group
        return error
    return None
