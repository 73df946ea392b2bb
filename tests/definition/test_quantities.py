"""Durations and sizes in the spellings of authors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.definition.quantities import DURATION_US_MAX, format_duration, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("5s", 5_000_000),
        ("1m30s", 90_000_000),
        ("7d", 604_800_000_000),
        ("1.5h", 5_400_000_000),
        ("250ms", 250_000),
        ("10us", 10),
        ("2w", 1_209_600_000_000),
        ("0s", 0),
        ("PT5S", 5_000_000),
        ("P1DT2H", 93_600_000_000),
        ("PT0.5S", 500_000),
        ("P2W", 1_209_600_000_000),
    ],
)
def test_duration(text: str, micros: int) -> None:
    assert parse_duration(text) == micros


@pytest.mark.parametrize(
    "value",
    ["", "5", "s", "5 s", "-5s", "1s1m", "1s1s", "5x", "P", "PT", "P1Y", "P1M", "PT5", "٥s", 5, 1.5, None, True, []],
)
def test_not_a_duration(value: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(value)


def test_too_long_a_duration() -> None:
    with pytest.raises(ValueError, match="longer than a hundred years"):
        parse_duration("9" * 40 + "d")


@given(st.integers(0, DURATION_US_MAX))
def test_a_formatted_duration_is_read_back(micros: int) -> None:
    assert parse_duration(format_duration(micros)) == micros


@pytest.mark.parametrize(
    ("value", "size"), [(0, 0), (65536, 65536), ("64MB", 64_000_000), ("1.5 KiB", 1536), ("2GiB", 2**31), ("7", 7)]
)
def test_size(value: Any, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "x", "5 apples", -1, True, None, 1.5, "-1MB"])
def test_not_a_size(value: Any) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(value)
