"""Which reads conflict with which writes: the rules found on a real FoundationDB, one case each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.storage.bodies import get, put, rows
from windlass.storage.port import Storage, Transaction

Step = Callable[[Transaction], Any]

ROWS = {b"a1": b"1", b"a2": b"2", b"a3": b"3", b"a4": b"4", b"count": (7).to_bytes(8, "little"), b"z": b"z"}


def reads(key: bytes, **how: bool) -> Step:
    return lambda tx: tx.get(key, **how)


def scans(begin: bytes, end: bytes, **how: Any) -> Step:
    return lambda tx: tx.get_range(begin, end, **how)


def sets(key: bytes, value: bytes = b"new") -> Step:
    return lambda tx: tx.set(key, value)


def both(*steps: Step) -> Step:
    async def all_of_them(tx: Transaction) -> None:
        for step in steps:
            await done(step(tx))

    return all_of_them


async def done(outcome: Any) -> None:
    if isinstance(outcome, Awaitable):
        await outcome


CONFLICTING = {
    "a changed key": (reads(b"a1"), sets(b"a1")),
    "a key set to what it was": (reads(b"a1"), sets(b"a1", b"1")),
    "a missing key that appears": (reads(b"b"), sets(b"b")),
    "a removed key": (reads(b"a1"), lambda tx: tx.clear(b"a1")),
    "a missing key that is removed": (reads(b"b"), lambda tx: tx.clear(b"b")),
    "a key in a cleared range": (reads(b"a1"), lambda tx: tx.clear_range(b"a", b"b")),
    "a missing key in a cleared range": (reads(b"b"), lambda tx: tx.clear_range(b"a", b"c")),
    "a counter added to": (reads(b"count"), lambda tx: tx.add(b"count", 1)),
    "a range with a changed row": (scans(b"a", b"b"), sets(b"a2")),
    "a range with a removed row": (scans(b"a", b"b"), lambda tx: tx.clear(b"a3")),
    "a range with a new row": (scans(b"a", b"b"), sets(b"a25")),
    "an empty range with a new row": (scans(b"b", b"c"), sets(b"b5")),
    "an empty range that is cleared": (scans(b"b", b"c"), lambda tx: tx.clear_range(b"bb", b"bc")),
    "the last row under a limit": (scans(b"a", b"b", limit=2), sets(b"a2")),
    "a new row before the last under a limit": (scans(b"a", b"b", limit=2), sets(b"a15")),
    "a new row after the last below a limit": (scans(b"a", b"b", limit=9), sets(b"a9")),
    "the last row in reverse under a limit": (scans(b"a", b"b", limit=2, reverse=True), sets(b"a3")),
    "a new row behind the tail": (scans(b"a", b"b", limit=1, reverse=True), sets(b"a5")),
    "a versionstamped row behind the tail": (
        scans(b"a", b"b", limit=1, reverse=True),
        lambda tx: tx.set_versionstamped_key(b"a9", b"", b""),
    ),
    "an addition of its own that was read": (both(lambda tx: tx.add(b"count", 1), reads(b"count")), sets(b"count")),
    "a read conflict alone": (lambda tx: tx.add_read_conflict_key(b"a1"), sets(b"a1")),
    "a snapshot read with a read conflict": (
        both(reads(b"a1", snapshot=True), lambda tx: tx.add_read_conflict_key(b"a1")),
        sets(b"a1"),
    ),
    "a write conflict alone": (reads(b"a1"), lambda tx: tx.add_write_conflict_key(b"a1")),
    "a watched key": (lambda tx: tx.watch(b"a1"), sets(b"a1")),
}

HARMLESS = {
    "a neighbour": (reads(b"a1"), sets(b"a11")),
    "a snapshot read": (both(reads(b"a1", snapshot=True), reads(b"z")), sets(b"a1")),
    "a snapshot range": (both(scans(b"a", b"b", snapshot=True), reads(b"z")), sets(b"a2")),
    "a blind write": (both(sets(b"a1", b"mine"), reads(b"z")), sets(b"a1")),
    "a blind removal": (both(lambda tx: tx.clear(b"a1"), reads(b"z")), sets(b"a1")),
    "two additions": (both(lambda tx: tx.add(b"count", 1), reads(b"z")), lambda tx: tx.add(b"count", 1)),
    "a read of its own write": (both(sets(b"a1", b"mine"), reads(b"a1"), reads(b"z")), sets(b"a1")),
    "a read of its own removal": (both(lambda tx: tx.clear(b"a1"), reads(b"a1"), reads(b"z")), sets(b"a1")),
    "a row behind the last under a limit": (scans(b"a", b"b", limit=2), sets(b"a3")),
    "an append behind the head": (scans(b"a", b"b", limit=1), sets(b"a9")),
    "a row before the last in reverse": (scans(b"a", b"b", limit=2, reverse=True), sets(b"a2")),
    "a row beside the range": (scans(b"a", b"a4"), sets(b"a4")),
    "a range cleared beside a key": (reads(b"a4"), lambda tx: tx.clear_range(b"a1", b"a4")),
    "two versionstamped appends": (
        both(lambda tx: tx.set_versionstamped_key(b"q", b"1", b""), reads(b"z")),
        lambda tx: tx.set_versionstamped_key(b"q", b"2", b""),
    ),
}


async def attempts_beside(storage: Storage, step: Step, rival: Step) -> int:
    """How often a writing transaction runs whose first attempt does `step` while `rival` commits."""
    await put(storage, ROWS)
    attempts = 0

    async def rival_body(tx: Transaction) -> None:
        await done(rival(tx))

    async def body(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        # A read version is taken before the rival commits, even if the step is only a write.
        await tx.get(b"unrelated")
        await done(step(tx))
        if attempts == 1:
            await storage.transact(rival_body)
        tx.set(b"mark", b"%d" % attempts)

    await storage.transact(body)
    assert await get(storage, b"mark") == b"%d" % attempts
    return attempts


@pytest.mark.parametrize("case", CONFLICTING)
async def test_conflicts_with(case: str, interleaving: Storage) -> None:
    assert await attempts_beside(interleaving, *CONFLICTING[case]) == 2


@pytest.mark.parametrize("case", HARMLESS)
async def test_does_not_conflict_with(case: str, interleaving: Storage) -> None:
    assert await attempts_beside(interleaving, *HARMLESS[case]) == 1


async def test_transaction_that_writes_nothing_never_conflicts(interleaving: Storage) -> None:
    await put(interleaving, ROWS)
    attempts = 0

    async def body(tx: Transaction) -> tuple[bytes | None, bytes | None]:
        nonlocal attempts
        attempts += 1
        before = await tx.get(b"a1")
        await put(interleaving, {b"a1": b"new", b"a2": b"new"})
        return before, await tx.get(b"a2")

    # Both reads are of the same snapshot, although the rows changed in between.
    assert await interleaving.transact(body) == (b"1", b"2")
    assert await interleaving.read(body) == (b"new", b"new")
    assert attempts == 2


async def test_range_is_one_snapshot_with_the_gets(interleaving: Storage) -> None:
    await put(interleaving, {b"a1": b"1", b"a2": b"1"})

    async def body(tx: Transaction) -> tuple[bytes | None, list[tuple[bytes, bytes]]]:
        first = await tx.get(b"a1")
        await put(interleaving, {b"a1": b"2", b"a2": b"2", b"a3": b"2"})
        return first, await tx.get_range(b"a", b"b")

    assert await interleaving.read(body) == (b"1", [(b"a1", b"1"), (b"a2", b"1")])
    assert len(await rows(interleaving)) == 3


async def test_read_that_nobody_awaited_counts(interleaving: Storage) -> None:
    def unawaited(tx: Transaction) -> None:
        tx.get(b"a1")

    assert await attempts_beside(interleaving, unawaited, sets(b"a1")) == 2


async def test_retry_drops_what_the_attempt_wrote(interleaving: Storage) -> None:
    attempts = 0

    async def body(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        await tx.get(b"k")
        tx.set(b"attempt-%d" % attempts, b"")
        if attempts == 1:
            await put(interleaving, {b"k": b"v"})

    await interleaving.transact(body)
    assert [key for key, _ in await rows(interleaving, b"attempt", b"b")] == [b"attempt-2"]


async def test_attempts_are_numbered(interleaving: Storage) -> None:
    seen: list[tuple[int, bool]] = []

    async def body(tx: Transaction) -> None:
        seen.append((tx.attempt, tx.maybe_committed))
        await tx.get(b"k")
        tx.set(b"mine", b"")
        if len(seen) < 3:
            await put(interleaving, {b"k": b"%d" % len(seen)})

    await interleaving.transact(body)
    assert seen == [(1, False), (2, False), (3, False)]
