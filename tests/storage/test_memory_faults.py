"""What an in-memory world does when told to misbehave, in virtual time:

Callers who follow the port's rules come to no harm.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from tests.storage.bodies import get, number, put
from tests.storage.virtual_time import run_virtual
from windlass.storage.memory import Faults, MemoryStorage, MemoryWorld
from windlass.storage.port import (
    CommitUnknown,
    Storage,
    Transaction,
    TransactionTooOld,
    Unavailable,
    Watch,
)

PLENTY = Faults(
    conflict=0.1,
    forgotten_landed=0.05,
    forgotten_lost=0.05,
    unknown_landed=0.05,
    unknown_lost=0.05,
    unknown_late=0.1,
    unavailable=0.02,
    delay=0.3,
    delay_seconds=0.5,
    spurious_watch=0.1,
)


async def once(storage: Storage, who: int) -> bool:
    """Count once, however often it must be tried. False if it is settled that it did not happen."""
    mark = b"done-%d" % who

    async def body(tx: Transaction) -> None:
        if await tx.get(mark):
            return
        total = number(await tx.get(b"total"))
        tx.set(mark, b"yes")
        tx.set(b"total", b"%d" % (total + 1))

    while True:
        try:
            await storage.transact(body)
            return True
        except CommitUnknown:
            return await settled(storage, mark) is not None
        except Unavailable:
            continue


async def settled(storage: Storage, key: bytes) -> bytes | None:
    while True:
        try:
            return await storage.settle(key)
        except Unavailable:
            continue


@pytest.mark.parametrize("seed", range(5))
def test_counted_exactly_once_through_every_fault(seed: int) -> None:
    async def main() -> None:
        world = MemoryWorld(faults=replace(PLENTY, random=Random(seed)))
        engines = [world.open(), world.open()]
        random = Random(seed)
        outcomes: dict[int, bool] = {}

        async def caller(who: int) -> None:
            await asyncio.sleep(random.uniform(0, 20))
            outcomes[who] = await once(engines[who % 2], who)

        await asyncio.gather(*(caller(who) for who in range(200)))
        # Let late commits land, those that still can.
        await asyncio.sleep(10)
        stored = world.dump()
        happened = {who for who in outcomes if b"done-%d" % who in stored}
        assert number(stored[b"total"]) == len(happened)
        # What `settle` said holds for good, however late a lost commit lands.
        assert happened == {who for who, done in outcomes.items() if done}
        assert len(set(outcomes.values())) == 2

    run_virtual(main())


@pytest.mark.parametrize("seed", range(3))
def test_same_seed_same_run(seed: int) -> None:
    async def main() -> tuple[dict[bytes, bytes], float]:
        world = MemoryWorld(faults=replace(PLENTY, random=Random(seed)))
        storage = world.open()
        await asyncio.gather(*(once(storage, who) for who in range(50)))
        return world.dump(), asyncio.get_running_loop().time()

    assert run_virtual(main()) == run_virtual(main())


async def blind(tx: Transaction) -> None:
    await tx.get(b"k")
    tx.set(b"k", b"v")


async def outcome(fault: str) -> tuple[str, bytes | None, bytes | None]:
    """How a write ends under one fault, and what is there at once and six seconds later."""
    world = MemoryWorld(faults=Faults(Random(1), **{fault: 1.0}))
    storage = world.open()
    try:
        await storage.transact(blind)
        ended = "ok"
    except (CommitUnknown, Unavailable) as error:
        ended = type(error).__name__
    world.faults = None
    now = await get(storage, b"k")
    await asyncio.sleep(6)
    return ended, now, await get(storage, b"k")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("conflict", ("Unavailable", None, None)),
        ("forgotten_landed", ("CommitUnknown", b"v", b"v")),
        ("forgotten_lost", ("CommitUnknown", None, None)),
        ("unknown_landed", ("CommitUnknown", b"v", b"v")),
        ("unknown_lost", ("CommitUnknown", None, None)),
        ("unknown_late", ("CommitUnknown", None, b"v")),
        ("unavailable", ("Unavailable", None, None)),
        ("delay", ("ok", b"v", b"v")),
    ],
)
def test_each_fault(fault: str, expected: tuple[str, bytes | None, bytes | None]) -> None:
    assert run_virtual(outcome(fault)) == expected


def test_a_look_does_not_settle_and_settle_does() -> None:
    async def main() -> None:
        for settles in (False, True):
            world = MemoryWorld(faults=Faults(Random(1), unknown_late=1.0))
            storage = world.open()
            with pytest.raises(CommitUnknown):
                await storage.transact(blind)
            world.faults = None
            seen = await (storage.settle(b"k") if settles else get(storage, b"k"))
            assert seen is None
            await asyncio.sleep(6)
            assert await get(storage, b"k") == (None if settles else b"v")

    run_virtual(main())


def test_body_runs_again_knowing_that_it_may_have_committed() -> None:
    async def main() -> None:
        world = MemoryWorld(faults=Faults(Random(1), forgotten_landed=1.0))
        seen: list[tuple[int, bool, bytes | None]] = []

        async def body(tx: Transaction) -> None:
            seen.append((tx.attempt, tx.maybe_committed, await tx.get(b"k")))
            world.faults = None if seen[1:] else world.faults
            tx.set(b"k", b"v")

        await world.open().transact(body)
        assert seen == [(1, False, None), (2, True, b"v")]

    run_virtual(main())


def test_outage() -> None:
    async def main() -> None:
        world = MemoryWorld()
        storage = world.open(deadline_seconds=2)
        await put(storage, {b"k": b"old"})
        world.stop_answering()
        with pytest.raises(Unavailable):
            await storage.read(lambda tx: tx.get(b"k"))
        assert asyncio.get_running_loop().time() == pytest.approx(2)
        with pytest.raises(CommitUnknown):
            await put(storage, {b"k": b"new"})
        waiting = asyncio.create_task(get(storage, b"k"))
        await asyncio.sleep(1)
        world.answer_again()
        assert await waiting == b"old"

    run_virtual(main())


def test_age_limit() -> None:
    async def main() -> None:
        storage = MemoryWorld().open(deadline_seconds=60)
        attempts = 0

        async def slow(tx: Transaction, seconds: float) -> None:
            nonlocal attempts
            attempts += 1
            await tx.get(b"other")
            await asyncio.sleep(seconds)
            tx.set(b"k", b"v")

        await storage.transact(lambda tx: slow(tx, 4.9))
        assert attempts == 1
        with pytest.raises(TransactionTooOld, match="3 attempts"):
            await storage.transact(lambda tx: slow(tx, 5.1))
        assert attempts == 4

    run_virtual(main())


def test_blind_writes_do_not_age() -> None:
    async def main() -> None:
        storage = MemoryWorld().open()

        async def slow(tx: Transaction) -> None:
            tx.set(b"k", b"v")
            await asyncio.sleep(60)

        await storage.transact(slow)
        assert await get(storage, b"k") == b"v"

    run_virtual(main())


def test_cancelled_commit_may_land() -> None:
    """Cancelling is not undoing. With faults on, it lands in some of the cases."""

    async def main() -> None:
        landed: Counter[bytes | None] = Counter()
        for seed in range(40):
            world = MemoryWorld(faults=Faults(Random(seed), delay=1.0))
            task = asyncio.create_task(world.open().transact(blind))
            # By then the read is answered and the commit sent, or not, as the delays have it.
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.wait([task])
            world.faults = None
            landed[await get(world.open(), b"k")] += 1
        assert set(landed) == {None, b"v"}

    run_virtual(main())


def test_engines_share_a_world_and_a_closed_one_harms_nobody() -> None:
    async def main() -> None:
        world = MemoryWorld()
        one, other = world.open(), world.open()
        assert isinstance(one, MemoryStorage)
        assert one.shared
        await put(one, {b"k": b"v"})
        watch = await other.transact(lambda tx: _watch(tx, b"k"))
        await one.close()
        assert await get(other, b"k") == b"v"
        await put(world.open(), {b"k": b"w"})
        await watch.wait()

    run_virtual(main())


async def _watch(tx: Transaction, key: bytes) -> Watch:
    return tx.watch(key)


def test_nothing_is_kept_for_snapshots_that_are_gone() -> None:
    async def main() -> None:
        world = MemoryWorld()
        storage = world.open()
        await asyncio.gather(*(once(storage, who) for who in range(50)))

        async def hung(tx: Transaction) -> None:
            await tx.get(b"k")
            await asyncio.sleep(1000)

        task = asyncio.create_task(storage.transact(hung))
        await asyncio.sleep(0)
        for who in range(50, 100):
            await once(storage, who)
            await asyncio.sleep(1)
        assert world.versions.remembered < 50
        task.cancel()
        await asyncio.wait([task])
        await once(storage, 100)
        assert world.versions.remembered == 0

    run_virtual(main())
