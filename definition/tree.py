"""The plain value of a document together with where each part of it stands, built up under limits.

Both readers (YAML and JSON) feed a `Tree`, so that a hostile document ends in a problem with a line and not in a stack
overflow or a full memory: a YAML file of a few lines can otherwise stand for billions of values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from windlass.definition.problems import Mark, Place, Report

TEXT_BYTES_MAX = 2_000_000
DEPTH_MAX = 48  #: levels of mappings and lists inside each other
VALUES_MAX = 100_000  #: values in the document, each use of an alias counted


class Unreadable(Exception):
    """The text cannot be read any further. The report has the reason."""


@dataclass
class Tree:
    """The value and the marks of a document, as far as it has been read."""

    report: Report
    marks: dict[Place, Mark] = field(default_factory=dict)
    values: int = 0

    def __post_init__(self) -> None:
        self.report.marks = self.marks

    def enter(self, place: Place, mark: Mark) -> None:
        """Count a value at this place and remember its mark. Raises Unreadable beyond the limits."""
        self.values += 1
        self.marks[place] = mark
        if self.values > VALUES_MAX:
            self.stop(mark, f"the document has more than {VALUES_MAX:,} values (each use of an alias counts)")
        if len(place) > DEPTH_MAX:
            self.stop(mark, f"the document is nested deeper than {DEPTH_MAX} levels")

    def stop(self, mark: Mark, message: str, place: Place = ()) -> None:
        """Report what makes the rest unreadable. Always raises Unreadable."""
        self.report.at(place, message, mark.line, mark.column)
        raise Unreadable(message)

    def duplicate(self, place: Place, mark: Mark) -> None:
        """Report a key that its mapping has already. Reading goes on, with the first value kept."""
        first = self.marks[place]
        again = f"the key {place[-1]!r} is given twice; the first is on line {first.key_line or first.line}"
        self.report.at(place, again, mark.line, mark.column)


@dataclass(frozen=True)
class Document:
    """A document read: its plain JSON value and its marks.

    `value` is whatever could be read if there were problems.
    """

    value: Any
    marks: dict[Place, Mark]
    complete: bool = True  #: False: reading stopped at a problem
