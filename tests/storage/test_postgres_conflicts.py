"""The bisecting conflict check against its dumb twin, which the local stores use: the same answer on any history."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from windlass.storage.conflicts import ConflictTable, ReadSet, WriteSet
from windlass.storage.postgres_conflicts import RecentWrites, Written

KEYS = st.sampled_from([b"a", b"a\0", b"ab", b"abc", b"b", b"ba", b"c", b"d"])
SPANS = st.tuples(KEYS, KEYS).map(lambda ends: (min(ends), max(ends) + b"\0"))
COMMITS = st.lists(st.tuples(st.frozensets(KEYS, max_size=4), st.lists(SPANS, max_size=2)), max_size=5)


@st.composite
def read_sets(draw: st.DrawFn) -> ReadSet:
    reads = ReadSet()
    for key in draw(st.lists(KEYS, max_size=3)):
        reads.add_key(key)
    for begin, end in draw(st.lists(SPANS, max_size=3)):
        reads.add_range(begin, end, draw(st.frozensets(KEYS, max_size=2)))
    return reads


@given(COMMITS, read_sets(), st.integers(0, 6))
def test_as_the_dumb_one(
    history: list[tuple[frozenset[bytes], list[tuple[bytes, bytes]]]], reads: ReadSet, at: int
) -> None:
    dumb, clever = ConflictTable(), RecentWrites()
    for version, (keys, ranges) in enumerate(history, 1):
        commit = WriteSet(version, keys, tuple(ranges))
        dumb.record(commit)
        clever.record(0, commit)
    assert clever.conflict(reads, at) == (dumb.conflict(reads, at) is not None)


PREFIX, LAST, NEXT, LATEST = b"q/", b"\0" * 7 + b"\5", b"\0" * 7 + b"\6", b"\xff" * 8


def _span(begin: bytes, end: bytes) -> ReadSet:
    reads = ReadSet()
    reads.add_range(begin, end, ())
    return reads


def test_a_stamped_key_may_fall_anywhere_behind_the_last_version() -> None:
    written = Written(stamps_from=NEXT)
    written.add([], [], [PREFIX])
    for touching in (_span(b"q", b"r"), _span(PREFIX + LAST, PREFIX + LATEST), _span(PREFIX + LATEST, b"q0")):
        assert written.meets(touching)
    for beside in (_span(b"q/", PREFIX + LAST + b"\0"), _span(b"q0", b"r"), _span(b"a", b"q/")):
        assert not written.meets(beside)
    point = ReadSet()
    point.add_key(PREFIX + LATEST + b"x")
    assert written.meets(point)
    assert written.may_stamp(b"q", b"r")
    assert not written.may_stamp(b"r", b"s")
