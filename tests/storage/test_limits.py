"""The same sizes are refused by all backends, by the same names, and a refused transaction changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from tests.storage.bodies import get, rows
from windlass.storage.port import (
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
    KeyIllegal,
    KeyTooLarge,
    Storage,
    StorageError,
    Transaction,
    TransactionTooLarge,
    Unreadable,
    ValueTooLarge,
)

LONGEST_KEY = b"k" * KEY_BYTES_MAX
LARGEST_VALUE = b"v" * VALUE_BYTES_MAX

REFUSED: dict[str, tuple[type[StorageError], Callable[[Transaction], object]]] = {
    "set of a long key": (KeyTooLarge, lambda tx: tx.set(LONGEST_KEY + b"k", b"")),
    "clear of a long key": (KeyTooLarge, lambda tx: tx.clear(LONGEST_KEY + b"k")),
    "add to a long key": (KeyTooLarge, lambda tx: tx.add(LONGEST_KEY + b"k", 1)),
    "versionstamped key that gets too long": (
        KeyTooLarge,
        lambda tx: tx.set_versionstamped_key(LONGEST_KEY[:-9], b"", b""),
    ),
    "write conflict on a long key": (KeyTooLarge, lambda tx: tx.add_write_conflict_key(LONGEST_KEY + b"k")),
    "large value": (ValueTooLarge, lambda tx: tx.set(b"k", LARGEST_VALUE + b"v")),
    "large value at a versionstamped key": (
        ValueTooLarge,
        lambda tx: tx.set_versionstamped_key(b"q", b"", LARGEST_VALUE + b"v"),
    ),
    "empty key": (KeyIllegal, lambda tx: tx.set(b"", b"")),
    "key of the store itself": (KeyIllegal, lambda tx: tx.set(b"\xff/format", b"")),
}


async def test_largest_of_all_is_accepted(storage: Storage) -> None:
    async def body(tx: Transaction) -> None:
        tx.set(LONGEST_KEY, LARGEST_VALUE)
        tx.set_versionstamped_key(b"q" * (KEY_BYTES_MAX - 11), b"s", LARGEST_VALUE)

    await storage.transact(body)
    assert await get(storage, LONGEST_KEY) == LARGEST_VALUE
    assert [len(key) for key, _ in await rows(storage)] == [KEY_BYTES_MAX, KEY_BYTES_MAX]


@pytest.mark.parametrize("case", REFUSED)
async def test_refused(case: str, storage: Storage) -> None:
    error, write = REFUSED[case]

    async def body(tx: Transaction) -> None:
        tx.set(b"before", b"")
        write(tx)

    with pytest.raises(error) as told:
        await storage.transact(body)
    assert len(str(told.value)) > len(error.__name__)
    assert await rows(storage) == []


async def test_refusal_that_the_body_swallows_still_refuses(storage: Storage) -> None:
    async def body(tx: Transaction) -> None:
        tx.set(b"before", b"")
        with contextlib.suppress(ValueTooLarge):
            tx.set(b"k", LARGEST_VALUE + b"v")

    with pytest.raises(ValueTooLarge):
        await storage.transact(body)
    assert await rows(storage) == []


async def test_transaction_too_large(storage: Storage) -> None:
    async def body(tx: Transaction, count: int) -> None:
        for number in range(count):
            tx.set(b"k%d" % number, LARGEST_VALUE)

    with pytest.raises(TransactionTooLarge):
        await storage.transact(lambda tx: body(tx, 101))
    assert await rows(storage) == []
    await storage.transact(lambda tx: body(tx, 99))
    assert len(await rows(storage, limit=200)) == 99


READS_OF_OWN_STAMP: dict[str, Callable[[Transaction], object]] = {
    "range over the prefix": lambda tx: tx.get_range(b"q", b"r"),
    "range by snapshot": lambda tx: tx.get_range(b"q", b"r", snapshot=True),
    "get of a possible key": lambda tx: tx.get(b"q" + b"\0" * 9 + b"\x07s"),
}


@pytest.mark.parametrize("case", READS_OF_OWN_STAMP)
async def test_read_where_the_own_versionstamped_key_may_fall(case: str, storage: Storage) -> None:
    async def body(tx: Transaction) -> None:
        tx.set_versionstamped_key(b"q", b"s", b"")
        with contextlib.suppress(Unreadable):
            answer = READS_OF_OWN_STAMP[case](tx)
            await answer  # type: ignore[misc]

    with pytest.raises(Unreadable):
        await storage.transact(body)
    assert await rows(storage) == []


async def test_reads_beside_the_own_versionstamped_key(storage: Storage) -> None:
    async def body(tx: Transaction) -> None:
        tx.set_versionstamped_key(b"q", b"s", b"")
        assert await tx.get(b"q") is None
        assert await tx.get_range(b"a", b"q") == []
        assert await tx.get_range(b"r", b"s") == []

    await storage.transact(body)
    assert len(await rows(storage)) == 1


async def test_own_versionstamped_key_is_gone_after_a_clear_of_its_range(storage: Storage) -> None:
    async def body(tx: Transaction) -> None:
        tx.set_versionstamped_key(b"q", b"s", b"")
        tx.clear_range(b"q", b"r")
        tx.set(b"other", b"")

    await storage.transact(body)
    assert await rows(storage) == [(b"other", b"")]
