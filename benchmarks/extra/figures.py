"""What each of the extra measurements gives: figures with a unit and, where one was promised, its bound."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Figure:
    """One line."""

    name: str
    size: int
    what: str
    value: float
    unit: str
    #: What was promised at most, for the size in the promise; None = nothing.
    at_most: float | None = None

    def cells(self) -> list[str]:
        """The line as the table shows it."""
        verdict = "" if self.at_most is None else f"≤{self.at_most:,g} {'ok' if self.value <= self.at_most else 'MISS'}"
        digits = 0 if abs(self.value) >= 1000 else 1 if abs(self.value) >= 10 else 3
        return [self.name, f"{self.size:,}", self.what, f"{self.value:,.{digits}f}", self.unit, verdict]


HEAD = ("measured", "size", "what", "value", "unit", "target")


@dataclass(frozen=True)
class Asked:
    """What a measurement is told: a directory of its own, its sizes, the length of a window in seconds."""

    directory: Path
    sizes: tuple[int, ...]
    seconds: float
    runtime: str

    @property
    def size(self) -> int:
        """The only size, or the largest."""
        return max(self.sizes)


Measurement = Callable[[Asked], Awaitable[list[Figure]]]
