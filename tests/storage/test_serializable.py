"""Many transactions at once, and the outcome of some serial order:

Sums are kept, constraints hold, histories replay.
"""

from __future__ import annotations

import asyncio
from itertools import count
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.storage.backends import Backend
from tests.storage.bodies import get, number, put, rows
from tests.storage.model import Model, Operation, operations, play
from tests.storage.records import do_once, found
from windlass.storage.own_writes import counter_value
from windlass.storage.port import Storage, Transaction


async def test_counter_read_and_written(backend: Backend, storage: Storage) -> None:
    async def increment(tx: Transaction) -> None:
        tx.set(b"n", b"%d" % (number(await tx.get(b"n")) + 1))

    await asyncio.gather(*(storage.transact(increment) for _ in range(backend.crowd)))
    assert number(await get(storage, b"n")) == backend.crowd


async def test_cancelled_callers_leave_nothing_half_and_hold_nothing(backend: Backend, storage: Storage) -> None:
    """Each is cancelled some turns of the loop after it began, as far as its commit and beyond: what it did is whole or
    not there, and what it had of the store is free for those who come after it.
    """
    names = [b"record/%d" % name for name in range(backend.crowd)]

    async def cut_off(turns: int) -> None:
        calls = [asyncio.create_task(do_once(storage, name)) for name in names]
        for call in calls:
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    for turns in range(4):
        await cut_off(turns)
    await asyncio.gather(*(do_once(storage, name) for name in names))
    assert await found(storage) == (set(names), len(names))


async def test_counter_added_to(backend: Backend, storage: Storage) -> None:
    attempts = 0

    async def increment(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        tx.add(b"n", 1)

    await asyncio.gather(*(storage.transact(increment) for _ in range(backend.crowd)))
    assert counter_value(await get(storage, b"n")) == backend.crowd == attempts


async def test_transfers_conserve_the_sum(backend: Backend, storage: Storage) -> None:
    accounts = [b"account-%d" % account for account in range(8)]
    await put(storage, dict.fromkeys(accounts, b"100"))
    random = Random(3)
    sums: list[int] = []

    async def transfer(source: bytes, target: bytes, amount: int) -> None:
        async def body(tx: Transaction) -> None:
            held, other = tx.get(source), tx.get(target)
            left = number(await held) - amount
            if left >= 0:
                tx.set(source, b"%d" % left)
                tx.set(target, b"%d" % (number(await other) + amount))

        await storage.transact(body)

    async def audit() -> None:
        sums.append(sum(number(value) for _, value in await rows(storage, b"account", b"b")))

    async def one() -> None:
        source, target = random.sample(accounts, 2)
        await transfer(source, target, random.randint(1, 60))
        await audit()

    await asyncio.gather(*(one() for _ in range(backend.crowd)))
    assert set(sums) == {800}


async def test_write_skew_is_refused(backend: Backend, storage: Storage) -> None:
    """Of two on call each may leave only if the other stays; both look, and only one goes."""
    for attempt in range(10):
        pair = [b"on-call-%d-%s" % (attempt, name) for name in (b"ann", b"bob")]
        await put(storage, dict.fromkeys(pair, b"yes"))

        async def leave(who: bytes, pair: list[bytes] = pair) -> None:
            async def body(tx: Transaction) -> None:
                there = [await tx.get(one) for one in pair]
                if there.count(b"yes") == 2:
                    tx.set(who, b"no")

            await storage.transact(body)

        await asyncio.gather(*(leave(who) for who in pair))
        assert sorted([await get(storage, who) or b"" for who in pair]) == [b"no", b"yes"]


async def test_unique_insert_into_an_empty_range(backend: Backend, storage: Storage) -> None:
    """Phantoms: everyone looks whether the range is empty before putting a row of their own into it."""

    async def claim(who: int) -> bool:
        async def body(tx: Transaction) -> bool:
            if await tx.get_range(b"seat/", b"seat0"):
                return False
            tx.set(b"seat/%d" % who, b"")
            return True

        return await storage.transact(body)

    won = await asyncio.gather(*(claim(who) for who in range(backend.crowd)))
    assert won.count(True) == 1
    assert len(await rows(storage, b"seat/", b"seat0")) == 1


#: Examples share the store, each below a prefix of its own.
EXAMPLES = count()
keys = st.sampled_from([b"%c" % letter for letter in b"abcd"])
transactions = st.lists(operations(keys), min_size=1, max_size=5)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(transactions, min_size=2, max_size=8))
async def test_histories_replay_serially(storage: Storage, plan: list[list[Operation]]) -> None:
    """Run them all at once; then run them in the order of their versionstamps on the model:

    All real reads must agree.
    """
    prefix = b"%06d/" % next(EXAMPLES)
    seen: dict[int, list[object]] = {}

    async def run(who: int) -> None:
        async def body(tx: Transaction) -> None:
            seen[who] = [await play(tx, prefix, step) for step in plan[who]]
            tx.set_versionstamped_key(b"order/" + prefix, b"", b"%d" % who)

        await storage.transact(body)

    await asyncio.gather(*(run(who) for who in range(len(plan))))
    model = Model({})
    order = [int(value) for _, value in await rows(storage, b"order/" + prefix, b"order/" + prefix + b"\xff")]
    assert sorted(order) == list(range(len(plan)))
    for who in order:
        replayed = [model.play(prefix, step) for step in plan[who]]
        real = [index for index, step in enumerate(plan[who]) if not step.snapshot]
        assert [seen[who][index] for index in real] == [replayed[index] for index in real]
    assert await rows(storage, prefix, prefix + b"\xff") == model.range(prefix, prefix + b"\xff", 0, False)
