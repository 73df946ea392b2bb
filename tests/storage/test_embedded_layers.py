"""What a body on the embedded store sees through all that may lie above the disk: its own writes, over those of the
group being collected, over those of the group being written, over the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from itertools import count
from pathlib import Path
from typing import Any

import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.storage.bodies import put
from tests.storage.model import Model, Operation, operations, play
from tests.storage.test_embedded import begin, end
from windlass.storage.opening import open_embedded
from windlass.storage.port import Storage, Transaction

EXAMPLES = count()
keys = st.sampled_from([b"%c" % letter for letter in b"abcdef"])
steps = st.lists(operations(keys), max_size=8)


@pytest_asyncio.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = open_embedded(tmp_path)
    yield storage
    await storage.close()


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored=steps, flying=steps, collected=steps, own=steps)
async def test_newest_word_counts(
    embedded: Storage,
    stored: list[Operation],
    flying: list[Operation],
    collected: list[Operation],
    own: list[Operation],
) -> None:
    prefix = b"%06d/" % next(EXAMPLES)
    model = Model({})

    async def played(tx: Transaction, plan: list[Operation]) -> None:
        tx.set(prefix, b"so that there is something to write")
        model.rows[prefix] = b"so that there is something to write"
        for step in plan:
            assert await play(tx, prefix, step) == model.play(prefix, step)
        for reverse in (False, True):
            expected = model.range(prefix, prefix + b"\xff", 0, reverse)
            assert await tx.get_range(prefix, prefix + b"\xff", reverse=reverse) == expected
            assert await tx.get_range(prefix, prefix + b"\xff", limit=2, reverse=reverse) == expected[:2]

    def call(plan: list[Operation]) -> Coroutine[Any, Any, None]:
        return embedded.transact(lambda tx: played(tx, plan))

    await call(stored)
    calls = [call(flying)]
    waits = [begin(calls[0])]
    # The turn of the loop in which the group is handed to the writer. Nobody is told before the next that it landed.
    await asyncio.sleep(0)
    for plan in (collected, own):
        calls.append(call(plan))
        waits.append(begin(calls[-1]))
    await asyncio.gather(*waits)
    for one in calls:
        end(one)


async def test_few_rows_off_a_long_range(embedded: Storage) -> None:
    """Limited ranges go through the layers piece by piece; removals above make them go on."""
    await put(embedded, {b"k%04d" % place: b"stored" for place in range(0, 1000, 2)})

    async def write(tx: Transaction) -> None:
        for place in range(1, 1000, 2):
            tx.set(b"k%04d" % place, b"flying")

    async def remove(tx: Transaction) -> None:
        tx.clear_range(b"k0003", b"k0997")

    async def look(tx: Transaction) -> None:
        left = [b"k0000", b"k0001", b"k0002", b"k0997", b"k0998", b"k0999"]
        for limit in range(1, 8):
            forward = await tx.get_range(b"k", b"l", limit=limit)
            assert [key for key, _ in forward] == left[:limit]
            backward = await tx.get_range(b"k", b"l", limit=limit, reverse=True)
            assert [key for key, _ in backward] == left[::-1][:limit]

    calls = [embedded.transact(body) for body in (write, remove, look)]
    waits = [begin(calls[0])]
    await asyncio.sleep(0)
    waits += [begin(call) for call in calls[1:]]
    await asyncio.gather(*waits)
    for call in calls:
        end(call)
