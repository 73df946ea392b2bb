"""What is wrong with a document, where, and how it is shown.

Checks never stop at the first mistake: they write to a `Report`, and whoever asked raises one `DefinitionError` with
all of them. A place in the document is a tuple of keys and indices; the report's marks turn it into line and column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

PROBLEMS_MAX = 200  #: told of one document

Place = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Where a value (and the key before it) stands in the text. Lines and columns count from 1."""

    line: int
    column: int
    key_line: int = 0  #: 0 = no key: a list item, or the document itself
    key_column: int = 0
    style: str = ""  #: how a scalar is written: "" plain, ' or " quoted, | or > block


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake or warning. `line` 0 means that the place in the text is not known (a document without text)."""

    message: str
    path: str = ""  #: as `states.charge.transitions[0].when`; "" = the document as a whole
    file: str = ""
    line: int = 0
    column: int = 0
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.file or 'definition'}:{self.line}:{self.column}" if self.line else self.file or "definition"
        about = f" {self.path}:" if self.path else ""
        return f"{where}:{about} {'warning: ' if self.warning else ''}{self.message}"


class TooManyProblems(Exception):
    """The report is full: going on would cost more than it tells."""


class DefinitionError(Exception):
    """The document is not a valid definition. `problems` has every mistake (and warning) found, in order of line."""

    def __init__(self, problems: Iterable[Problem], text: str = "") -> None:
        self.problems = tuple(problems)
        self.text = text
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def render(self) -> str:
        """The problems for a person: each with its line of the file quoted and a caret under the place."""
        return render_problems(self.problems, self.text)


@dataclass
class Report:
    """Collects problems while a document is read and checked. `marks` is empty when there is no text."""

    file: str = ""
    marks: Mapping[Place, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    left_out: set[Place] = field(default_factory=set)
    """Parts that were unusable and are replaced by stand-ins: what is said of them or around them would mislead."""

    def error(self, place: Place, message: str, *, at_key: bool = False) -> None:
        """Something that makes the document unusable."""
        self._add(place, message, at_key=at_key, warning=False)

    def warn(self, place: Place, message: str, *, at_key: bool = False) -> None:
        """Something that is allowed and probably not meant."""
        if not self.left_out:
            self._add(place, message, at_key=at_key, warning=True)

    def error_at(self, place: Place, message: str, spot: tuple[int, int] | None) -> None:
        """An error at a line and column inside a value, or at the value if these are not known."""
        if spot is None:
            self.error(place, message)
        else:
            self.at(place, message, *spot)

    def warn_at(self, place: Place, message: str, spot: tuple[int, int] | None) -> None:
        """As `error_at`, for something that is allowed and probably not meant."""
        if spot is None or self.left_out:
            self.warn(place, message)
            return
        path = render_place(place)
        self._append(Problem(message=message, path=path, file=self.file, line=spot[0], column=spot[1], warning=True))

    def at(self, place: Place, message: str, line: int, column: int) -> None:
        """An error at a known spot inside a value, such as a syntax error in an expression."""
        self._append(Problem(message=message, path=render_place(place), file=self.file, line=line, column=column))

    @property
    def failed(self) -> bool:
        return any(not problem.warning for problem in self.problems)

    def sorted(self) -> tuple[Problem, ...]:
        """In the order of the text, each once."""
        unique = dict.fromkeys(self.problems)
        return tuple(sorted(unique, key=lambda problem: (problem.line, problem.column, problem.path)))

    def raise_if_failed(self, text: str = "") -> None:
        """Raises DefinitionError if there is an error among the problems."""
        if self.failed:
            raise DefinitionError(self.sorted(), text)

    def mark(self, place: Place) -> Mark | None:
        """The mark of the place, or of the nearest part around it that is in the text."""
        for length in range(len(place), -1, -1):
            if place[:length] in self.marks:
                return self.marks[place[:length]]
        return None

    def _add(self, place: Place, message: str, *, at_key: bool, warning: bool) -> None:
        if any(_related(place, other) for other in self.left_out):
            return
        mark = self.mark(place)
        line, column = (mark.line, mark.column) if mark else (0, 0)
        if mark and at_key and mark.key_line:
            line, column = mark.key_line, mark.key_column
        path = render_place(place)
        self._append(Problem(message=message, path=path, file=self.file, line=line, column=column, warning=warning))

    def _append(self, problem: Problem) -> None:
        if len(self.problems) >= PROBLEMS_MAX:
            raise TooManyProblems
        self.problems.append(problem)


def _related(place: Place, left_out: Place) -> bool:
    """True if one is inside the other; the frame of the document (the first two levels) is judged all the same."""
    shared = min(len(place), len(left_out))
    return shared > 2 and place[:shared] == left_out[:shared]


def render_place(place: Place) -> str:
    """`("states", "charge", "transitions", 0)` as `states.charge.transitions[0]`."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text


def render_problems(problems: Iterable[Problem], text: str = "") -> str:
    """The problems as text for a terminal, one block each."""
    lines = text.split("\n")
    return "\n".join(_block(problem, lines) for problem in problems)


def _block(problem: Problem, lines: list[str]) -> str:
    if not 0 < problem.line <= len(lines):
        return str(problem)
    quoted = lines[problem.line - 1].rstrip("\r")
    gutter = f"{problem.line:5} | "
    shown, column = _window(quoted, problem.column)
    return f"{problem}\n{gutter}{shown}\n{' ' * (len(gutter) - 2)}| {' ' * (column - 1)}^"


def _window(line: str, column: int, width: int = 100) -> tuple[str, int]:
    """The part of a line around the column; tabs become single spaces, so that the caret stands right."""
    start = max(0, column - width) if column > width else 0
    shown = line[start : start + width].expandtabs(1)
    return shown, max(1, min(column - start, len(shown) + 1))
