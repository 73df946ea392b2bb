"""News from other engines while the store fails, or has no room for more watches."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from windlass.definition.compile import compile_canonical
from windlass.engine import feed
from windlass.engine.engine import Engine
from windlass.storage.memory import MemoryWorld
from windlass.storage.port import Unavailable
from windlass.storage.watches import LocalWatch


async def test_a_turn_in_which_the_store_fails_leaves_no_watch_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = MemoryWorld()
    store = world.open()
    engine = Engine(store, compile_canonical)
    waiter = engine.notices.closes("default", "nowhere")  # so that there is something to read about what moved

    async def failing(body: Any) -> Any:
        raise Unavailable("no answer")

    monkeypatch.setattr(store, "read", failing)
    with pytest.raises(Unavailable):
        await engine.feed.turn()
    assert not len(world.versions.watches)
    waiter.cancel()
    await store.close()


async def test_watches_that_are_lost_at_once_do_not_make_the_loop_spin() -> None:
    watch, wake = LocalWatch(b"k"), asyncio.Event()
    watch.lose("more than 10000 watches are armed")
    waiting = asyncio.create_task(feed._first([watch], wake, 60))
    await asyncio.wait((waiting,), timeout=0.05)
    assert not waiting.done()
    wake.set()
    await waiting


async def test_all_counters_are_read_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster each read is a journey: one after the other, a thousand take longer than a transaction may."""
    store = MemoryWorld().open()
    engine = Engine(store, compile_canonical)
    topics: set[feed.Topic] = {("queue", "default", "q", f"kind-{number}") for number in range(50)}
    begun: set[bytes] = set()
    all_begun = asyncio.Event()

    class Slow:
        async def get(self, key: bytes, *, snapshot: bool = False) -> None:
            begun.add(key)
            if len(begun) == len(topics):
                all_begun.set()
            await all_begun.wait()

        def watch(self, key: bytes) -> LocalWatch:
            return LocalWatch(key)

    async def transact(body: Any) -> Any:
        return await body(Slow())

    monkeypatch.setattr(store, "transact", transact)
    async with asyncio.timeout(5):
        counters, watches = await engine.feed._look(topics)
    assert counters.keys() == topics
    assert len(watches) == len(topics)
    await store.close()
