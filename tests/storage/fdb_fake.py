"""A stand-in for FoundationDB's client library, for tests where no cluster is at hand.

It copies what was observed on a real 7.3 cluster, error codes and traps included. The classes under test reach it
through `native=`, exactly as they reach the library: integers for pointers, error codes, callbacks on another thread.
What it cannot show: the library's memory, real latencies, and whatever nobody observed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from tests.storage.fdb_fake_cluster import Cluster
from tests.storage.fdb_fake_network import Future
from tests.storage.fdb_fake_transaction import RETRYABLE, FakeTransaction
from windlass.storage.foundationdb_library import FoundationError
from windlass.storage.port import Rows

_MAYBE_COMMITTED = frozenset({1021, 1039})
_WATCHES, _TIMEOUT, _RETRY_DELAY = 20, 500, 502
_ADD, _STAMPED_KEY = 2, 14
MISSING_FILE, BAD_FILE = "missing.cluster", "bad.cluster"


class FakeLibrary:
    """The methods of `Library` that the client classes call, over a `Cluster`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._pointers = itertools.count(1)
        self._futures: dict[int, Future] = {}
        self._transactions: dict[int, FakeTransaction] = {}
        self._databases: dict[int, dict[int, int]] = {}
        self._broken: dict[int, int] = {}  # databases opened with an unusable cluster file, and its error

    @property
    def left_over(self) -> int:
        """Futures and transactions that nobody destroyed."""
        return len(self._futures) + len(self._transactions)

    def error(self, code: int) -> FoundationError:
        return FoundationError(code, f"stand-in error {code}")

    def check(self, code: int) -> None:
        if code:
            raise self.error(code)

    def error_predicate(self, predicate: int, code: int) -> int:
        return code in (_MAYBE_COMMITTED if predicate == 50001 else RETRYABLE | {1039})

    def decoder(self) -> FakeDecoder:
        return FakeDecoder(self)

    def open(self, cluster_file: str) -> int:
        pointer = next(self._pointers)
        self._databases[pointer] = {_WATCHES: 10_000, _TIMEOUT: 0, _RETRY_DELAY: 1_000}
        self._broken[pointer] = {MISSING_FILE: 1515, BAD_FILE: 2104}.get(cluster_file, 0)
        return pointer

    def database_set_option(self, database: Any, option: int, number: bytes, size: int) -> int:
        self._databases[_used(database)][option] = int.from_bytes(number[:size], "little")
        return 0

    def database_get_client_status(self, database: Any) -> int:
        assert _used(database) in self._databases
        return self._answer(b'{"Healthy":%s}' % (b"true" if self.cluster.reachable else b"false"))

    def database_destroy(self, database: Any) -> None:
        del self._databases[_used(database)]

    def begin(self, database: Any) -> int:
        options = self._databases[_used(database)]
        with self.cluster.network.lock:
            transaction = FakeTransaction(
                self.cluster, options[_TIMEOUT] / 1000, options[_RETRY_DELAY] / 1000, options[_WATCHES]
            )
            transaction.die(self._broken[_used(database)])
        pointer = next(self._pointers)
        self._transactions[pointer] = transaction
        return pointer

    def committed_version(self, transaction: Any) -> int:
        return self._of(transaction).committed_version

    def _of(self, transaction: Any) -> FakeTransaction:
        return self._transactions[_used(transaction)]

    def _asked(self, transaction: Any, ask: Callable[[FakeTransaction], Future]) -> int:
        """Ask for something that gives a future. Never ready when it is handed out."""
        with self.cluster.network.lock:
            future = ask(self._of(transaction))
        pointer = next(self._pointers)
        self._futures[pointer] = future
        return pointer

    def _answer(self, value: bytes) -> int:
        future = Future(self.cluster.network)
        self.cluster.network.soon(lambda: future.settle(0, value))
        pointer = next(self._pointers)
        self._futures[pointer] = future
        return pointer

    # Futures.

    def future_of(self, pointer: int) -> Future:
        return self._futures[pointer]

    def future_set_callback(self, pointer: int, callback: Callable[[int, int], None], token: int) -> int:
        with self.cluster.network.lock:
            self._futures[pointer].set_callback(lambda: callback(pointer, token))
        return 0

    def future_cancel(self, pointer: int) -> None:
        self._futures[pointer].cancel()

    def future_destroy(self, pointer: int) -> None:
        self._futures.pop(pointer).destroy()

    # Transactions.

    def transaction_set_option(self, transaction: Any, option: int, number: bytes, size: int) -> int:
        assert option == _TIMEOUT
        with self.cluster.network.lock:
            self._of(transaction).set_timeout(int.from_bytes(number[:size], "little") / 1000)
        return 0

    def transaction_get(self, transaction: Any, key: bytes, size: int, snapshot: int) -> int:
        return self._asked(transaction, lambda tr: tr.get(key[:size], bool(snapshot)))

    def transaction_get_range(self, transaction: Any, *arguments: Any) -> int:
        begin, _, or_equal, offset, end, _, end_or_equal, end_offset = arguments[:8]
        limit, _, mode, _, snapshot, reverse = arguments[8:]
        assert (or_equal, offset, end_or_equal, end_offset) == (0, 1, 0, 1), "only first_greater_or_equal is copied"
        return self._asked(transaction, lambda tr: tr.get_range(begin, end, limit, mode, bool(snapshot), bool(reverse)))

    def transaction_set(self, transaction: Any, key: bytes, key_size: int, value: bytes, value_size: int) -> None:
        with self.cluster.network.lock:
            self._of(transaction).set(key[:key_size], value[:value_size])

    def transaction_clear(self, transaction: Any, key: bytes, size: int) -> None:
        with self.cluster.network.lock:
            self._of(transaction).clear_range(key[:size], key[:size] + b"\0")

    def transaction_clear_range(self, transaction: Any, begin: bytes, size: int, end: bytes, end_size: int) -> None:
        with self.cluster.network.lock:
            self._of(transaction).clear_range(begin[:size], end[:end_size])

    def transaction_atomic_op(
        self, transaction: Any, key: bytes, size: int, operand: bytes, operand_size: int, kind: int
    ) -> None:
        assert kind in (_ADD, _STAMPED_KEY)
        with self.cluster.network.lock:
            tr = self._of(transaction)
            (tr.add if kind == _ADD else tr.stamp)(key[:size], operand[:operand_size])

    def transaction_add_conflict_range(
        self, transaction: Any, begin: bytes, size: int, end: bytes, end_size: int, kind: int
    ) -> int:
        with self.cluster.network.lock:
            return self._of(transaction).add_conflict(begin[:size], end[:end_size], write=kind == 1)

    def transaction_watch(self, transaction: Any, key: bytes, size: int) -> int:
        return self._asked(transaction, lambda tr: tr.watch(key[:size]))

    def transaction_commit(self, transaction: Any) -> int:
        return self._asked(transaction, lambda tr: tr.commit())

    def transaction_on_error(self, transaction: Any, code: int) -> int:
        return self._asked(transaction, lambda tr: tr.on_error(code))

    def transaction_destroy(self, transaction: Any) -> None:
        with self.cluster.network.lock:
            self._transactions.pop(_used(transaction)).destroy()


class FakeDecoder:
    """Results of ready futures."""

    def __init__(self, library: FakeLibrary) -> None:
        self._library = library

    def _value(self, pointer: int) -> Any:
        code, value = self._library.future_of(pointer).answer()
        self._library.check(code)
        return value

    def nothing(self, pointer: int) -> None:
        self._value(pointer)

    def key(self, pointer: int) -> bytes:
        return bytes(self._value(pointer))

    def value(self, pointer: int) -> bytes | None:
        value = self._value(pointer)
        return None if value is None else bytes(value)

    def chunk(self, pointer: int) -> tuple[Rows, bool]:
        rows, more = self._value(pointer)
        return list(rows), bool(more)


def _used(pointer: Any) -> int:
    """What ctypes does with an argument: an object that stands in for a pointer must say its number, or raise."""
    return int(getattr(pointer, "_as_parameter_", pointer))
