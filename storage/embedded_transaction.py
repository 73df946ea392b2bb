"""One transaction on the embedded store: its body runs without a break, so what it reads is the present and nobody
interferes.

This is the hottest code of the engine on a laptop. So: own writes are one dict (additions and range clears are worked
out when called, as nobody can change what they build on), answers are awaitables that never suspend, and nothing is
recorded for a conflict check that nobody needs. Strict mode (`embedded_strict`) is the one with conflicts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from itertools import islice
from typing import Any, Final, Generic, TypeVar, cast

import lmdb

from windlass.storage.embedded_layer import NO_LAYER, Layer, backward, forward, keys_between
from windlass.storage.own_writes import COUNTER_BYTES, Stamped, check_readable, counter_sum, merge, unstamped
from windlass.storage.port import KEY_BYTES_MAX, VALUE_BYTES_MAX, KeyTooLarge, Rows, StorageError
from windlass.storage.sizes import (
    KEYS_END,
    RANGE_WEIGHT,
    STAMP_BYTES,
    WRITE_WEIGHT,
    check_key,
    check_transaction,
    check_value,
)
from windlass.storage.watches import LocalWatch

T = TypeVar("T")

_ABSENT: Final[Any] = object()
#: With up to this many own writes, those of a range are found by looking at each.
_FEW: Final = 24


class Ready(Generic[T]):
    """An answer that is there already. A generator that ends at once is the cheapest awaitable Python has."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, Any, T]:
        return self._value
        yield  # type: ignore[unreachable]  # makes this a generator


_NO_VALUE: Final = Ready[bytes | None](None)


class View:
    """What bodies read: the layers over one snapshot. A view of committed data has no layers."""

    __slots__ = ("cursor", "flying", "get_stored", "open")

    def __init__(self, reading: lmdb.Transaction, open_layer: Layer = NO_LAYER, flying: Layer = NO_LAYER) -> None:
        self.get_stored = cast("Callable[[bytes], bytes | None]", reading.get)
        self.cursor = reading.cursor()
        self.open = open_layer
        self.flying = flying

    def close(self) -> None:
        """Let go of the snapshot and the layers; no transaction may use this view any more."""
        del self.get_stored, self.cursor, self.open, self.flying

    def get(self, key: bytes) -> bytes | None:
        """The key's value, not looking at any transaction's own writes."""
        value = self.open.values.get(key, _ABSENT)
        if value is _ABSENT:
            value = self.flying.values.get(key, _ABSENT)
            if value is _ABSENT:
                return self.get_stored(key)
        return value  # type: ignore[no-any-return]

    def piece(self, begin: bytes, end: bytes, keys: int, reverse: bool) -> tuple[bytes, bytes]:
        """The part of a range, at the end where reading starts, in which each layer has at most so many keys."""
        for layer in (self.flying, self.open):
            if layer.values:
                if reverse:
                    begin = layer.last_piece(begin, end, keys)
                else:
                    end = layer.first_piece(begin, end, keys)
        return begin, end

    def patch(self, begin: bytes, end: bytes) -> dict[bytes, bytes | None]:
        """What the layers say about a range, the newer layer's word last."""
        patch: dict[bytes, bytes | None] = {}
        for layer in (self.flying, self.open):
            if layer.values:
                values = layer.values
                for key in layer.between(begin, end):
                    patch[key] = values[key]
        return patch


class EmbeddedTransaction:
    """A `Transaction` of the port."""

    attempt = 1
    maybe_committed = False

    __slots__ = ("_refused", "_usable", "_view", "commit_version", "own", "stamped", "touched", "watches", "weight")

    def __init__(self, view: View) -> None:
        self._view = view
        self._usable = True
        self._refused: StorageError | None = None
        self.own: dict[bytes, bytes | None] = {}
        self.stamped: list[Stamped] = []
        self.watches: list[LocalWatch] = []
        self.touched = False
        self.weight = 0
        self.commit_version = 0

    def get(self, key: bytes, *, snapshot: bool = False) -> Awaitable[bytes | None]:
        if key >= KEYS_END:
            check_key(key)
        if self.stamped:
            self._check_readable(key, key + b"\0")
        self.weight += 2 * len(key) + RANGE_WEIGHT
        value = self._seen(key)
        return _NO_VALUE if value is None else Ready(value)

    def get_range(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False, snapshot: bool = False
    ) -> Awaitable[Rows]:
        self._check_usable()
        if end > KEYS_END:
            end = KEYS_END
        if begin >= end:
            return Ready([])
        begin = begin or b"\0"
        if self.stamped:
            self._check_readable(begin, end)
        self.weight += len(begin) + len(end) + RANGE_WEIGHT
        return Ready(self._pieces(begin, end, limit, reverse) if limit else self._rows(begin, end, 0, reverse))

    def set(self, key: bytes, value: bytes) -> None:
        if not self._usable or len(key) > KEY_BYTES_MAX or len(value) > VALUE_BYTES_MAX or not b"" < key < KEYS_END:
            self._refuse(key, value)
        self.own[key] = value
        self.weight += 3 * len(key) + len(value) + WRITE_WEIGHT

    def clear(self, key: bytes) -> None:
        if not self._usable or len(key) > KEY_BYTES_MAX or not b"" < key < KEYS_END:
            self._refuse(key, b"")
        self.own[key] = None
        self.weight += 3 * len(key) + WRITE_WEIGHT

    def clear_range(self, begin: bytes, end: bytes) -> None:
        self._check_usable()
        end = min(end, KEYS_END)
        if begin >= end:
            return
        begin = begin or b"\0"
        self.stamped = unstamped(self.stamped, begin, end)
        present = dict.fromkeys(keys_between(self._view.cursor, begin, end))
        self.own.update(present)
        self.own.update(dict.fromkeys(self._view.patch(begin, end)))
        self.own.update(dict.fromkeys([key for key in self.own if begin <= key < end]))
        self.touched = True
        self.weight += 2 * (len(begin) + len(end)) + RANGE_WEIGHT

    def add(self, key: bytes, number: int) -> None:
        if not self._usable or len(key) > KEY_BYTES_MAX or not b"" < key < KEYS_END:
            self._refuse(key, b"")
        self.own[key] = counter_sum(self._seen(key), number)
        self.weight += 3 * len(key) + COUNTER_BYTES + WRITE_WEIGHT

    def set_versionstamped_key(self, prefix: bytes, suffix: bytes, value: bytes) -> None:
        size = len(prefix) + STAMP_BYTES + len(suffix)
        if not self._usable or size > KEY_BYTES_MAX or len(value) > VALUE_BYTES_MAX or prefix >= KEYS_END:
            self._refuse(prefix + bytes(STAMP_BYTES) + suffix, value)
        self.stamped.append((prefix, suffix, value))
        self.weight += 3 * size + len(value) + WRITE_WEIGHT

    def add_read_conflict_key(self, key: bytes) -> None:
        self._check_usable()

    def add_write_conflict_key(self, key: bytes) -> None:
        self._check_usable()
        check_key(key)
        self.touched = True

    def watch(self, key: bytes) -> LocalWatch:
        self._check_usable()
        watch = LocalWatch(key)
        self.watches.append(watch)
        return watch

    # What follows is for the store.

    def seal(self) -> bool:
        """End of the body: refuse any further use. True if there is something to commit.

        Raises what was refused earlier, even if the body swallowed it, and `TransactionTooLarge`.
        """
        self._usable = False
        if self._refused is not None:
            raise self._refused
        check_transaction(self.weight)
        return bool(self.own) or bool(self.stamped) or self.touched

    def drop(self, why: str) -> None:
        """The transaction failed."""
        self._usable = False
        for watch in self.watches:
            watch.lose(why)

    def _seen(self, key: bytes) -> bytes | None:
        if not self._usable:
            self._check_usable()
        value = self.own.get(key, _ABSENT)
        if value is not _ABSENT:
            return value  # type: ignore[no-any-return]
        view = self._view
        value = view.open.values.get(key, _ABSENT)
        if value is not _ABSENT:
            return value  # type: ignore[no-any-return]
        value = view.flying.values.get(key, _ABSENT)
        if value is not _ABSENT:
            return value  # type: ignore[no-any-return]
        try:
            return view.get_stored(key)
        except lmdb.BadValsizeError:
            check_key(key)
            raise

    def _rows(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> Rows:
        view = self._view
        patch = view.patch(begin, end)
        if self.own:
            self._patch_own(patch, begin, end)
        base = (backward if reverse else forward)(view.cursor, begin, end)
        if patch:
            return merge(base, patch, limit, reverse)
        return list(islice(base, limit) if limit else base)

    def _pieces(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> Rows:
        """Piece by piece, so that a few rows off a long range do not cost all that the layers say about it."""
        rows: Rows = []
        keys = limit + _FEW
        while True:
            first, last = self._view.piece(begin, end, keys, reverse)
            rows += self._rows(first, last, limit - len(rows), reverse)
            if len(rows) == limit or (first == begin and last == end):
                return rows
            begin, end = (begin, first) if reverse else (last, end)
            keys *= 2

    def _patch_own(self, patch: dict[bytes, bytes | None], begin: bytes, end: bytes) -> None:
        own = self.own
        if len(own) > _FEW:
            # Few bodies write much and read ranges in between; those that do pay for a sorted copy each time.
            layer = Layer()
            layer.values = own
            for key in layer.between(begin, end):
                patch[key] = own[key]
            return
        for key, value in own.items():
            if begin <= key < end:
                patch[key] = value

    def _check_readable(self, begin: bytes, end: bytes) -> None:
        try:
            check_readable(self.stamped, begin, end)
        except StorageError as refused:
            self._refused = refused
            raise

    def _refuse(self, key: bytes, value: bytes) -> None:
        self._check_usable()
        try:
            check_key(key)
            check_value(key, value)
        except StorageError as refused:
            self._refused = refused
            raise
        raise KeyTooLarge(f"key {key[:40]!r}…")

    def _check_usable(self) -> None:
        if not self._usable:
            raise StorageError("a transaction was used after its body had returned: a task left over from the body?")
