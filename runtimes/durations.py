"""Durations as authors write them in task code: "5s", "1m30s", "250ms", "7d", "PT5S", or a number of milliseconds."""

from __future__ import annotations

import re
from typing import Final

_UNIT_US: Final = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_PLAIN: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h|d|w)")
_ISO: Final = re.compile(
    r"P(?:(\d{1,9})W)?(?:(\d{1,9})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9}(?:\.\d{1,6})?)S)?)?"
)
_LONGEST_US: Final = 100 * 366 * _UNIT_US["d"]


def parse_duration_us(value: str | float) -> int:
    """Return `value` in microseconds. Raises ValueError with a message for the author."""
    if isinstance(value, (int, float)):
        microseconds = round(value * 1_000) if abs(value) < 1e16 else _LONGEST_US + 1
    else:
        microseconds = _from_text(value.strip())
    if not 0 <= microseconds <= _LONGEST_US:
        raise ValueError(f"the duration {value!r} is not between 0 and 100 years")
    return microseconds


def _from_text(text: str) -> int:
    iso = _ISO.fullmatch(text)
    if iso and any(iso.groups()):
        amounts = zip(iso.groups(), ("w", "d", "h", "m", "s"), strict=True)
        return sum(round(float(amount) * _UNIT_US[unit]) for amount, unit in amounts if amount)
    if text and _PLAIN.sub("", text) == "":
        return sum(round(float(amount) * _UNIT_US[unit]) for amount, unit in _PLAIN.findall(text))
    raise ValueError(f"cannot read the duration {text[:40]!r}; write it like 250ms, 5s, 1m30s, 2h, 7d or PT5S")
