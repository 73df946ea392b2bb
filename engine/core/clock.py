"""From what an author's expression gives to an absolute time. Arithmetic only: the time now is an argument."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from typing import Any

from windlass.engine.core.branches import Extra
from windlass.engine.core.definition import Expression
from windlass.engine.core.limits import FOREVER_US
from windlass.engine.core.turn import Problem, Turn, evaluating

_UNITS_US = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d|w))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_ISO_SPAN = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)  # noqa: UP017 - one spelling for 3.11 and later
_SECONDS_ARE_A_DATE = 1_000_000_000  #: numbers above are seconds since the epoch, below a span


def due_of(turn: Turn, expression: Expression, extra: Extra) -> int:
    """When the expression says, in µs since the epoch. Raises Problem."""
    value = evaluating(lambda: expression.evaluate(turn.values(extra)))
    due = time_us(value, turn.now_us)
    if due is None:
        raise Problem("NOT_A_TIME", f"{expression.source!r} gave {value!r}, which is neither a time nor a duration")
    return due


def time_us(value: Any, now_us: int) -> int | None:
    """An absolute time from 1970 to `FOREVER_US`, or None if the value is neither a time nor a duration.

    Times: RFC 3339 text, a number from 1e9 (seconds since the epoch). Durations: "90s", "1h30m", "PT5S", a timedelta, a
    smaller number of seconds."""
    micros = _time_us(value, now_us)
    return None if micros is None else max(0, min(micros, FOREVER_US))


def _time_us(value: Any, now_us: int) -> int | None:
    match value:
        case bool():
            return None
        case int() | float():
            span = _within(value * 1_000_000.0 if isinstance(value, float) else value * 1_000_000)
            return span if span is None or value >= _SECONDS_ARE_A_DATE else now_us + span
        case datetime.timedelta():
            return now_us + value // datetime.timedelta(microseconds=1)
        case datetime.datetime():
            return _since_epoch(value)
        case str():
            return _text_us(value.strip(), now_us)
        case _:
            return None


def _within(micros: float) -> int | None:
    """Whole microseconds, no more than are of use: the numbers are of whoever made the data. None for none at all."""
    return int(max(-FOREVER_US, min(micros, FOREVER_US))) if micros == micros else None


def _text_us(text: str, now_us: int) -> int | None:
    if _SPAN.fullmatch(text):
        return now_us + _sum_us(_PART.findall(text))
    iso = _ISO_SPAN.fullmatch(text)
    if iso and any(iso.groups()):
        return now_us + _sum_us((number, unit) for number, unit in zip(iso.groups(), "wdhms", strict=True) if number)
    try:
        return _since_epoch(datetime.datetime.fromisoformat(text))
    except ValueError:
        return None


def _sum_us(parts: Iterable[tuple[str, str]]) -> int:
    return sum(_within(float(number) * _UNITS_US[unit]) or 0 for number, unit in parts)


def _since_epoch(moment: datetime.datetime) -> int | None:
    if moment.tzinfo is None:
        return None
    return (moment - _EPOCH) // datetime.timedelta(microseconds=1)
