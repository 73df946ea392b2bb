"""Keys are fdb.tuple's bytes, keep the order of their parts, and read back."""

from __future__ import annotations

from fdb import tuple as fdb_tuple
from hypothesis import given
from hypothesis import strategies as st

from windlass.engine import keys

names = st.text(max_size=20)
numbers = st.integers(min_value=0, max_value=2**64 - 2)


@given(names)
def test_text_is_the_tuple_format(value: str) -> None:
    assert keys.text(value) == fdb_tuple.pack((value,))


@given(numbers)
def test_integers_are_the_tuple_format(number: int) -> None:
    assert keys.integer(number) == fdb_tuple.pack((number,))


@given(names, names, numbers, names)
def test_a_key_reads_back(ns: str, run_id: str, due: int, timer: str) -> None:
    key = keys.timer(3, due, ns, run_id, timer)
    assert keys.unpack(key) == fdb_tuple.unpack(key) == (13, 3, due, ns, run_id, timer)


@given(numbers, numbers)
def test_timers_lie_in_the_order_of_their_due_time(first: int, second: int) -> None:
    a, b = (keys.timer(0, due, "n", "r", "t") for due in (first, second))
    assert (a < b) == (first < second)


def test_queue_entries_lie_by_priority_then_age() -> None:
    head = keys.queue("default", "default", "javascript")
    entries = [
        keys.queue_entry(head, 0, priority, queued, "run", 1, "")
        for priority, queued in ((9, 50), (9, 60), (5, 10), (5, 20), (0, 1))
    ]
    assert entries == sorted(entries)


@given(names, names)
def test_a_prefix_holds_exactly_its_keys(ns: str, other: str) -> None:
    key = keys.run(ns, "r")
    inside = keys.runs(other) <= key < keys.end(keys.runs(other))
    assert inside == (ns == other)


def test_describe_names_table_and_parts() -> None:
    assert keys.describe(keys.run("default", "ab")) == "RUN('default', 'ab')"
