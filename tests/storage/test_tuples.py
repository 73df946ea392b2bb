"""Our key codec against `fdb.tuple`, byte for byte."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import fdb
import fdb.tuple
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windlass.storage import tuples
from windlass.storage.tuples import Part, Stamp


@pytest.fixture(autouse=True)
def _without_the_native_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package looks up a class there to pack a versionstamp; without `libfdb_c` it cannot import it."""
    monkeypatch.setattr(fdb, "impl", SimpleNamespace(Value=()), raising=False)


numbers = st.one_of(
    st.integers(),
    st.integers(-300, 300),
    st.integers(0, 70).flatmap(
        lambda bits: st.sampled_from([1 << bits, (1 << bits) - 1, -(1 << bits), 1 - (1 << bits)])
    ),
    st.integers(-(1 << 200), 1 << 200),
)
stamps = st.builds(
    Stamp, st.binary(min_size=10, max_size=10).filter(lambda stamp: stamp != b"\xff" * 10), st.integers(0, 65535)
)
plain = st.one_of(numbers, st.text(), st.binary(), st.booleans(), st.none(), st.sampled_from([b"\0", b"\0\xff", "\0"]))
keys = st.lists(plain, max_size=6).map(tuple)


def theirs(parts: tuple[Part, ...]) -> tuple[object, ...]:
    return tuple(fdb.tuple.Versionstamp(part.stamp, part.user) if isinstance(part, Stamp) else part for part in parts)


def order(parts: tuple[Part, ...]) -> list[tuple[int, object]]:
    """Tuples as they must sort: by kind, then by value."""
    kinds = {type(None): 0, bytes: 1, str: 2, int: 3, bool: 4}
    return [
        (kinds[type(part)], part if not isinstance(part, str) else part.encode()) for part in parts if part is not None
    ]


@example(((1 << 64) - 1, 1 << 64, 1 - (1 << 64), -(1 << 64)))
@given(st.lists(st.one_of(plain, stamps), max_size=6).map(tuple))
def test_same_bytes_as_the_original(parts: tuple[Part, ...]) -> None:
    key = tuples.pack(parts)
    assert key == fdb.tuple.pack(theirs(parts))
    assert tuples.unpack(key) == parts
    assert [type(part) for part in tuples.unpack(key)] == [type(part) for part in parts]
    assert fdb.tuple.unpack(key) == theirs(parts)


@given(keys, st.binary(max_size=5))
def test_unpack_starts_where_told(parts: tuple[Part, ...], before: bytes) -> None:
    assert tuples.unpack(before + tuples.pack(parts), len(before)) == parts


same_kinds = st.sampled_from([numbers, st.text(), st.binary()])


@given(same_kinds.flatmap(lambda kind: st.tuples(st.lists(kind, max_size=3), st.lists(kind, max_size=3))))
def test_bytes_sort_as_tuples_do(pair: tuple[list[Part], list[Part]]) -> None:
    first, second = (tuple(parts) for parts in pair)
    assert (tuples.pack(first) < tuples.pack(second)) == (order(first) < order(second))


@given(keys)
def test_range_of_is_the_original_s(parts: tuple[Part, ...]) -> None:
    begin, end = tuples.range_of(tuples.pack(parts))
    assert slice(begin, end) == fdb.tuple.range(parts)


@given(st.binary(min_size=1, max_size=6).filter(lambda prefix: prefix.strip(b"\xff")))
def test_strinc_ends_the_keys_with_a_prefix(prefix: bytes) -> None:
    end = tuples.strinc(prefix)
    assert prefix + b"\xff" * 10 < end
    assert not end.startswith(prefix)
    assert len(end) <= len(prefix)


def test_strinc_of_nothing_but_ff() -> None:
    with pytest.raises(ValueError, match="no key sorts after"):
        tuples.strinc(b"\xff\xff")


@given(st.binary(max_size=20))
def test_any_bytes_unpack_or_are_refused(raw: bytes) -> None:
    with contextlib.suppress(ValueError):
        tuples.unpack(raw)


@pytest.mark.parametrize("part", [1.5, (1, 2), [1], object()])
def test_other_types_are_refused(part: object) -> None:
    with pytest.raises(TypeError, match="a key cannot hold"):
        tuples.pack((part,))  # type: ignore[arg-type]


def test_pieces_put_together_are_the_tuple() -> None:
    pieces = tuples.pack_str("run") + tuples.pack_bytes(b"id\0") + tuples.pack_int(-7)
    assert pieces == tuples.pack(("run", b"id\0", -7))
