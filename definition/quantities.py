"""Durations and sizes as authors write them: "5s", "1m30s", "7d", "PT5S"; "64MB", "512KiB", 65536."""

from __future__ import annotations

import re
from typing import Any

DURATION_US_MAX = 100 * 365 * 86_400 * 1_000_000  #: about a hundred years

_UNITS_US = {
    "us": 1,
    "µs": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 7 * 86_400_000_000,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|µs|ms|s|m|h|d|w)", re.ASCII)
_NUMBER = r"\d+(?:\.\d+)?"
_ISO = re.compile(
    rf"P(?:({_NUMBER})W)?(?:({_NUMBER})D)?(?:T(?=\d)(?:({_NUMBER})H)?(?:({_NUMBER})M)?(?:({_NUMBER})S)?)?",
    re.ASCII,
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|KiB|MiB|GiB)?", re.ASCII)
_UNITS_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_duration(value: Any) -> int:
    """A duration in microseconds. Raises ValueError that says how to write one."""
    if not isinstance(value, str):
        raise ValueError(f'a duration is text such as "5s", "1m30s", "7d" or "PT5S", not {value!r}')
    text = value.strip()
    micros = _iso(text) if text.startswith("P") else _units(text)
    if micros is None:
        raise ValueError(f'{value!r} is not a duration: write "500ms", "5s", "1m30s", "2h", "7d" or ISO 8601 "PT5S"')
    if micros > DURATION_US_MAX:
        raise ValueError(f"the duration {value!r} is longer than a hundred years")
    return micros


def _units(text: str) -> int | None:
    parts = list(_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        return None
    units = [part[2] for part in parts]
    sizes = [_UNITS_US[unit] for unit in units]
    if sizes != sorted(set(sizes), reverse=True):
        return None  # "5s1m" or "5s5s" is more likely a slip than a sum
    return sum(_micros(part[1], size) for part, size in zip(parts, sizes, strict=True))


def _iso(text: str) -> int | None:
    match = _ISO.fullmatch(text)
    if match is None or not any(match.groups()):
        return None
    sizes = (_UNITS_US["w"], _UNITS_US["d"], _UNITS_US["h"], _UNITS_US["m"], _UNITS_US["s"])
    return sum(_micros(number, size) for number, size in zip(match.groups(), sizes, strict=True) if number)


def _micros(number: str, unit: int) -> int:
    """Exact for whole numbers; a fraction is rounded to a microsecond."""
    whole, _, fraction = number.partition(".")
    if len(whole) > 18:
        return DURATION_US_MAX + 1
    return int(whole) * unit + (round(float(f"0.{fraction}") * unit) if fraction else 0)


def format_duration(micros: int) -> str:
    """The shortest spelling in units: 90_000_000 is "1m30s"; `parse_duration` reads it back exactly."""
    if micros == 0:
        return "0s"
    text = ""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, micros = divmod(micros, _UNITS_US[unit])
        text += f"{count}{unit}" if count else ""
    return text


def parse_size(value: Any) -> int:
    """A size in bytes, from an integer or text. Raises ValueError that says how to write one."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or len(match[1]) > 15:
        raise ValueError(f'{value!r} is not a size: write bytes as a number, or "64MB", "512KiB"')
    return round(float(match[1]) * _UNITS_BYTES[match[2] or "B"])
