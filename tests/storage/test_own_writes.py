"""A transaction sees its own writes, in gets and in ranges, as a sorted dict would show them."""

from __future__ import annotations

from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.storage.bodies import put, rows
from tests.storage.model import Model, Operation, operations, play
from windlass.storage.port import Storage, Transaction

#: Examples share the store, each below a prefix of its own.
EXAMPLES = count()

keys = st.sampled_from([b"%c" % letter for letter in b"abcdefgh"])
rows_before = st.dictionaries(keys, st.sampled_from([b"", b"1", b"22"]))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=rows_before, steps=st.lists(operations(keys), max_size=12))
async def test_own_writes_are_seen(storage: Storage, before: dict[bytes, bytes], steps: list[Operation]) -> None:
    prefix = b"%06d/" % next(EXAMPLES)
    model = Model({prefix + key: value for key, value in before.items()})
    await put(storage, dict(model.rows))

    async def body(tx: Transaction) -> None:
        mine = model.copy()
        for step in steps:
            assert await play(tx, prefix, step) == mine.play(prefix, step)

    await storage.transact(body)
    for step in steps:
        model.play(prefix, step)
    assert await rows(storage, prefix, prefix + b"\xff") == model.range(prefix, prefix + b"\xff", 0, False)


async def test_many_own_writes_between_ranges(storage: Storage) -> None:
    """More than fit into the short way of finding those of a range."""
    await put(storage, {b"k%03d" % number: b"old" for number in range(0, 300, 3)})

    async def body(tx: Transaction) -> None:
        for number in range(0, 300, 2):
            tx.set(b"k%03d" % number, b"new")
        for number in range(0, 300, 5):
            tx.clear(b"k%03d" % number)
        expected = {b"k%03d" % number: b"old" for number in range(0, 300, 3)}
        expected |= {b"k%03d" % number: b"new" for number in range(0, 300, 2)}
        for number in range(0, 300, 5):
            expected.pop(b"k%03d" % number, None)
        assert await tx.get_range(b"k", b"l") == sorted(expected.items())
        behind = [row for row in sorted(expected.items()) if row[0] >= b"k100"]
        assert await tx.get_range(b"k100", b"k200", limit=7) == behind[:7]
        assert await tx.get_range(b"k", b"l", limit=9, reverse=True) == sorted(expected.items(), reverse=True)[:9]

    await storage.transact(body)
