"""Unknown commits, silence, restarts and cancelled callers on FoundationDB: nothing acknowledged is lost, nothing
done twice."""

from __future__ import annotations

import asyncio

import pytest

from tests.storage.backends_foundationdb import over_fake
from tests.storage.bodies import get
from tests.storage.fdb_fake_cluster import Cluster, Faults
from tests.storage.records import COUNTER, do_once, found, write_records
from windlass.storage.own_writes import counter_value
from windlass.storage.port import CommitUnknown, Transaction, TransactionTooOld, Unavailable

WRITERS, ROUNDS = 16, 12


async def let_late_commits_land(cluster: Cluster) -> None:
    """Those given up land within five seconds of the cluster's clock, which is moved on."""
    cluster.faults = Faults()
    cluster.network.advance(6)
    await asyncio.to_thread(cluster.network.drained)


async def test_unknown_commits_are_done_once() -> None:
    faults = Faults(
        unknown_landed=0.2,
        unknown_lost=0.2,
        commits={1020: 0.1, 1009: 0.02, 1037: 0.02},
        reads={1007: 0.02, 1009: 0.02},
    )
    async with over_fake(faults) as (storage, cluster):
        done = await write_records(storage, writers=WRITERS, rounds=ROUNDS)
        cluster.faults = Faults()
        assert len(done) == WRITERS * ROUNDS
        assert await found(storage) == (done, len(done))


async def test_bodies_are_told_of_unknown_commits() -> None:
    async with over_fake(Faults(unknown_landed=1.0)) as (storage, cluster):
        told: list[tuple[int, bool]] = []

        async def body(tx: Transaction) -> None:
            told.append((tx.attempt, tx.maybe_committed))
            cluster.faults = Faults(unknown_landed=0.0 if len(told) > 1 else 1.0)
            tx.add(COUNTER, 1)

        await storage.transact(body)
        assert told == [(1, False), (2, True)]
        assert counter_value(await get(storage, COUNTER)) == 2, "the first landed, and the body did not look"


async def test_timed_out_commits_are_settled_for_good() -> None:
    faults = Faults(timed_out_landed=0.05, timed_out_lost=0.05, timed_out_late=0.2, unknown_landed=0.05)
    async with over_fake(faults) as (storage, cluster):
        done = await write_records(storage, writers=WRITERS, rounds=ROUNDS)
        await let_late_commits_land(cluster)
        assert 0 < len(done) < WRITERS * ROUNDS
        assert await found(storage) == (done, len(done))


async def test_to_look_is_not_enough() -> None:
    """The stand-in is as nasty as the cluster: what a look found missing lands afterwards."""
    async with over_fake(Faults(timed_out_late=0.5)) as (storage, cluster):
        done = await write_records(storage, writers=WRITERS, rounds=ROUNDS, settle=False)
        await let_late_commits_land(cluster)
        records, count = await found(storage)
        assert count == len(records) > len(done)


async def test_server_restarts_under_load() -> None:
    async with over_fake() as (storage, cluster):
        writing = asyncio.create_task(write_records(storage, writers=WRITERS, rounds=ROUNDS))
        for _ in range(6):
            await asyncio.sleep(0.01)
            cluster.restart()
        done = await writing
        assert len(done) == WRITERS * ROUNDS
        assert await found(storage) == (done, len(done))


async def test_silence_is_answered_and_ends_without_a_restart() -> None:
    async with over_fake(deadline_seconds=0.3) as (storage, cluster):
        await do_once(storage, b"record/1")
        cluster.go_away()
        with pytest.raises(Unavailable, match="deadline"):
            await do_once(storage, b"record/2")
        with pytest.raises(Unavailable):
            await get(storage, b"record/1")
        cluster.come_back()
        await do_once(storage, b"record/2")
        assert await found(storage) == ({b"record/1", b"record/2"}, 2)


async def test_blind_write_into_silence_is_unknown() -> None:
    async def blind(tx: Transaction) -> None:
        tx.set(b"k", b"v")

    async with over_fake(deadline_seconds=0.3) as (storage, cluster):
        cluster.go_away()
        with pytest.raises(CommitUnknown):
            await storage.transact(blind)
        cluster.come_back()
        assert await storage.settle(b"k") in (None, b"v")


async def test_cancelled_commit_lands_and_leaves_nothing_behind() -> None:
    async with over_fake() as (storage, cluster):
        cluster.commit_sent.clear()
        tasks = [asyncio.create_task(do_once(storage, b"record/%d" % number)) for number in range(40)]
        await asyncio.to_thread(cluster.commit_sent.wait)
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(one, asyncio.CancelledError | None)
            for one in await asyncio.gather(*tasks, return_exceptions=True)
        )
        await asyncio.to_thread(cluster.network.drained)
        records, count = await found(storage)
        assert 0 < len(records) == count
        assert storage.pending == 0


async def test_body_that_is_always_too_slow() -> None:
    async with over_fake(deadline_seconds=60) as (storage, cluster):
        storage.use_clock(cluster.network.now)
        attempts = 0

        async def body(tx: Transaction) -> None:
            nonlocal attempts
            attempts += 1
            await tx.get(b"k")
            cluster.network.advance(6)
            await tx.get(b"k")

        with pytest.raises(TransactionTooOld, match="3 attempts"):
            await storage.transact(body)
        assert attempts == 3


async def test_young_transactions_called_too_old_just_run_again() -> None:
    async with over_fake(Faults(reads={1007: 0.6})) as (storage, _cluster):
        for number in range(10):
            await do_once(storage, b"record/%d" % number)
        assert (await found(storage))[1] == 10
