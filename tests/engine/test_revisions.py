"""Revisions that take long to compile, or cannot be read any more, hold up nobody but their own runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.engine.cluster import TestWorker, register, start, wait
from tests.engine.documents import delayed, instant, one_task
from windlass.definition.compile import compile_canonical
from windlass.engine import revisions
from windlass.engine.core.definition import Definition
from windlass.engine.engine import Engine, Options
from windlass.engine.errors import EngineError
from windlass.engine.revisions import Loading, Revisions, patiently
from windlass.storage.memory import MemoryWorld
from windlass.storage.opening import open_embedded
from windlass.storage.port import Storage
from windlass.v1 import common_pb2

LARGE = "x" * revisions.AT_ONCE_BYTES_MAX


@dataclass
class Gate:
    """Compiles for real; large documents only once it is open."""

    opened: threading.Event = field(default_factory=threading.Event)
    compiled: list[bytes] = field(default_factory=list)

    def revive(self, document: bytes) -> Definition:
        self.compiled.append(document)
        if len(document) > len(LARGE):
            assert self.opened.wait(20)
        return compile_canonical(document)


@asynccontextmanager
async def running(store: Storage, revive: Callable[[bytes], Definition]) -> AsyncIterator[Engine]:
    engine = Engine(store, revive, options=Options(lease_us=600_000_000))  # workers of tests send no heartbeats
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@pytest.fixture(params=["embedded", "shared"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    """On the default store no transaction may wait for anything; on a shared one runs are read ahead."""
    opened = open_embedded(tmp_path) if request.param == "embedded" else MemoryWorld().open()
    yield opened
    await opened.close()


async def soon(engine: Engine, run_id: str) -> str:
    """How a run ends that should take milliseconds; the time only ends a test that hangs."""
    async with asyncio.timeout(20):
        return common_pb2.RunState.Name((await wait(engine, run_id)).state)


async def test_a_large_revision_is_compiled_once_and_others_go_on(store: Storage) -> None:
    gate = Gate()
    async with running(store, gate.revive) as engine:
        await register(engine, instant("large", description=LARGE))
        await register(engine, instant("small"))
        starts = [asyncio.create_task(start(engine, "large", {})) for _ in range(5)]
        assert await soon(engine, await start(engine, "small", {})) == "RUN_STATE_COMPLETED"
        assert not any(each.done() for each in starts)
        gate.opened.set()
        assert [await soon(engine, run_id) for run_id in await asyncio.gather(*starts)] == ["RUN_STATE_COMPLETED"] * 5
    assert len(gate.compiled) == 2


async def test_timers_and_queues_of_others_do_not_wait_for_a_large_revision(store: Storage) -> None:
    async with running(store, compile_canonical) as engine:
        for name, more in (("large", LARGE), ("small", "")):
            await register(engine, {**delayed("1s", f"{name}-delay"), "description": more})
            await register(engine, {**one_task(f"{name}-task"), "description": more})
        runs = {each: await start(engine, each, {}) for each in ("large-delay", "small-delay", "large-task")}
        other = one_task("other")
        other["states"]["work"]["task"]["queue"] = "other"
        await register(engine, other)
        runs["other"] = await start(engine, "other", {})
    gate = Gate()
    async with running(store, gate.revive) as engine:
        worker = await TestWorker(engine, lambda task: 1).connect(queues=("default", "other"))
        assert await soon(engine, runs["small-delay"]) == "RUN_STATE_COMPLETED"
        assert await soon(engine, runs["other"]) == "RUN_STATE_COMPLETED"
        assert len(worker.seen) == 1
        gate.opened.set()
        assert (
            await soon(engine, runs["large-delay"]) == await soon(engine, runs["large-task"]) == "RUN_STATE_COMPLETED"
        )


def of_size(size: int, name: str = "kept") -> bytes:
    return b'{"workflow":"%s","initial":"end","states":{"end":{}},"description":"%s"}' % (name.encode(), b"x" * size)


async def test_who_has_most_of_what_is_kept_makes_room() -> None:
    kept = Revisions(compile_canonical)
    small = kept.load(("small", "kept", "1"), of_size(10))
    for number in range(10):
        key = "large", "kept", str(number)
        await patiently(lambda key=key: loaded(kept, key, of_size(1_900_000)))  # type: ignore[misc]
    assert kept.get(("small", "kept", "1")) is small
    assert kept.get(("large", "kept", "9")) is not None
    assert kept.get(("large", "kept", "1")) is None


async def loaded(kept: Revisions, key: revisions.Key, document: bytes) -> Definition:
    return kept.get(key) or kept.load(key, document)


async def test_what_needs_more_than_is_kept_comes_to_an_end() -> None:
    kept = Revisions(compile_canonical)

    async def both() -> int:
        return len([await loaded(kept, ("ns", "kept", str(n)), of_size(5_000_000)) for n in range(3)])

    assert await patiently(both) == 3


async def test_a_revision_that_was_deleted_while_it_was_compiled_is_not_kept() -> None:
    gate = Gate()
    kept, key = Revisions(gate.revive), ("ns", "kept", "1")
    with pytest.raises(Loading) as missing:
        kept.load(key, of_size(len(LARGE)))
    kept.forget("ns", "kept")
    gate.opened.set()
    await missing.value.end()
    assert kept.get(key) is None


@pytest.mark.parametrize("size", [0, len(LARGE)])
async def test_what_cannot_be_read_is_refused_by_name_and_not_compiled_again(store: Storage, size: int) -> None:
    tries = []

    def broken(document: bytes) -> Definition:
        tries.append(document)
        raise ValueError("no such kind of state")

    async with running(store, broken) as engine:
        await register(engine, instant("old", description="x" * size))
        for _ in range(3):
            with pytest.raises(EngineError, match="no such kind of state") as refusal:
                await start(engine, "old", {})
            assert refusal.value.reason == "BAD_DEFINITION"
    assert len(tries) == 1
