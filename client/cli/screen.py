"""What commands write: tables for people, JSON for programs. Errors never come here; they go to stderr, in one line.

On a terminal a table is fitted to its width. Into a pipe it is written in full, one row a line, so that `grep` and
`awk` see everything.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.table import Table
from rich.text import Text

from windlass.client.cli.plain import harmless, plain

Row = TypeVar("Row", bound=Message)

#: Colours of states of runs, so that a list can be read from afar.
COLOURS = {
    "running": "cyan",
    "waiting": "blue",
    "pending": "blue",
    "paused": "magenta",
    "incident": "bold red",
    "cancelling": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "terminated": "yellow",
}


#: Between two columns; the longest word kept whole, with room and with little; the least of the first column.
_GAP, _WORD_MAX, _WORD_MIN, _FOLDED_MIN = 2, 16, 6, 16


class Console(RichConsole):
    """Rich's, but a reader who has had enough (`windlass watch RUN | head`) is no failure of the command."""

    def on_broken_pipe(self) -> None:
        """Rich would end the process with 1."""
        raise BrokenPipeError


class Screen:
    """Where a command writes its answer."""

    def __init__(self, output: str = "table") -> None:
        self.json = output == "json"
        self.console = Console(highlight=False, soft_wrap=True)

    @property
    def terminal(self) -> bool:
        """True if a person is looking."""
        return self.console.is_terminal and not self.json

    def say(self, text: str) -> None:
        """A sentence for people; nothing for programs."""
        if not self.json:
            self.console.print(Text(harmless(text)))

    def value(self, value: Any, *, compact: bool = False) -> None:
        """A JSON value, whatever the output is."""
        indent = None if compact else 2
        in_ascii = (sys.stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")  # JSON has escapes of its own
        sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=in_ascii) + "\n")
        sys.stdout.flush()

    def fields(self, rows: Iterable[tuple[str, Any]], whole: Message | dict[str, Any]) -> None:
        """One thing: names and values for people, the whole of it for programs. Empty values are left out."""
        if self.json:
            self.value(whole if isinstance(whole, dict) else plain(whole))
            return
        shown = [(name, cell(value)) for name, value in rows if value not in (None, "", [], {})]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.console.print(Text.assemble((name.ljust(width), "dim"), "  ", (value, COLOURS.get(value, ""))))

    async def rows(
        self,
        headers: Sequence[str],
        items: AsyncIterator[Row],
        row: Callable[[Row], Sequence[Any]],
        *,
        limit: int,
        none: str,
    ) -> None:
        """Up to `limit` things: a table for people, an array for programs. `none`: what to say when there are none."""
        found: list[Row] = []
        more = False
        async for item in items:
            if len(found) == limit:
                more = True
                break
            found.append(item)
        if self.json:
            self.value([plain(item) for item in found])
        elif not found:
            self.say(none)
        else:
            self.table(headers, [row(item) for item in found])
            if more:
                self.say(f"… and more; --limit {limit * 10} shows them")

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table for people."""
        texts = [[cell(value) for value in row] for row in rows]
        if self.console.is_terminal:
            self.console.print(rich_table(headers, texts, self.console.width))
            return
        widths = [max(len(header), *(len(row[place]) for row in texts)) for place, header in enumerate(headers)]
        for line in ([header.upper() for header in headers], *texts):
            sys.stdout.write(
                "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() + "\n"
            )


def rich_table(headers: Sequence[str], texts: Sequence[Sequence[str]], room: int) -> Table:
    """A table that fits the terminal; states of runs are coloured. What is too wide goes on in the next line."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    columns = [[header.upper(), *(row[place] for row in texts)] for place, header in enumerate(headers)]
    for header, width in zip(headers, widths_of(columns, room), strict=True):
        table.add_column(header.upper(), overflow="fold", width=width)
    for row in texts:
        table.add_row(*(Text(text, style=COLOURS.get(text, "")) for text in row))
    return table


def widths_of(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """How wide each column is: nothing left out, its words whole, the first, which people copy, in one line.

    What room is left goes to those that want least, so that times come into one line before long texts do. If there
    is too little, the first one is folded, into lines of one length, and then words, the longest first.
    """
    wanted = [max(map(cell_len, column)) for column in columns]
    words = [max(map(_longest_word, column)) for column in columns[1:]]
    room -= _GAP * len(words)
    given = _least(wanted[0], words, room)
    left = room - sum(given)
    for place in sorted(range(1, len(columns)), key=lambda each: wanted[each] - given[each]):
        more = max(0, min(wanted[place] - given[place], left))
        given[place] += more
        left -= more
    return given


def _least(first: int, words: Sequence[int], room: int) -> list[int]:
    longest = _WORD_MAX
    while True:
        others = [min(word, longest) for word in words]
        given = [_folded(first, room - sum(others)), *others]
        if sum(given) <= room or longest == _WORD_MIN:
            return given
        longest -= 1


def _folded(length: int, room: int) -> int:
    """How long the lines of a word are that has so much room."""
    lines = -(-length // max(room, _FOLDED_MIN))
    return -(-length // max(lines, 1))


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def cell(value: Any) -> str:
    """A value in one line."""
    if value is None:
        return ""
    if isinstance(value, str):
        return harmless(value.replace("\n", " ⏎ "))
    return json.dumps(value, ensure_ascii=False, separators=(", ", ": "))
