"""JSON text to a plain value with marks.

A reader of our own, because the libraries either give no positions or read JSON as YAML (which trips over tabs and
surrogate pairs). Strings and numbers are still decoded by msgspec; only the structure is walked here.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Any

import msgspec

from windlass.definition.problems import Mark, Place, Report
from windlass.definition.tree import Document, Tree, Unreadable

_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r'"(?:[^"\\\n]|\\.)*"|[^\s,:{}\[\]"]+')


def read_json(text: str, report: Report) -> Document:
    """Read one JSON document. Problems go to the report; what could not be read is missing from the value."""
    tree = Tree(report)
    reader = _Reader(text, tree)
    try:
        value = reader.value(())
        reader.end()
        return Document(value, tree.marks)
    except Unreadable:
        pass  # the report has it
    return Document(None, tree.marks, complete=False)


class _Reader:
    def __init__(self, text: str, tree: Tree) -> None:
        self._text = text
        self._tree = tree
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def value(self, place: Place, key: Mark | None = None) -> Any:
        """The value at the cursor. Recursion is bounded by the tree's depth limit."""
        mark = self._mark()
        if key is not None:
            mark = Mark(line=mark.line, column=mark.column, key_line=key.line, key_column=key.column, style=mark.style)
        self._tree.enter(place, mark)
        match self._peek():
            case "{":
                return self._object(place)
            case "[":
                return self._array(place)
            case _:
                return self._scalar()

    def end(self) -> None:
        if self._peek():
            self._stop("there is more text after the end of the JSON value")

    def _object(self, place: Place) -> dict[str, Any]:
        members: dict[str, Any] = {}
        self._at += 1
        while self._peek() != "}":
            if members:
                self._expect(",", "',' or '}'")
            key = self._mark()
            if self._peek() != '"':
                self._stop("expected a key in double quotes")
            name = str(self._scalar())
            self._expect(":", "':' after the key")
            if name in members:
                self._tree.duplicate((*place, name), key)
                self.value((*place, f"{name} (again)"), key)
                continue
            members[name] = None
            members[name] = self.value((*place, name), key)
        self._at += 1
        return members

    def _array(self, place: Place) -> list[Any]:
        items: list[Any] = []
        self._at += 1
        while self._peek() != "]":
            if items:
                self._expect(",", "',' or ']'")
            items.append(self.value((*place, len(items))))
        self._at += 1
        return items

    def _scalar(self) -> Any:
        token = _SCALAR.match(self._text, self._at)
        if token is None:
            self._stop("expected a JSON value" if self._peek() else "the text ends in the middle of the JSON value")
        assert token is not None
        try:
            value = msgspec.json.decode(token[0].encode())
        except (msgspec.DecodeError, UnicodeEncodeError):
            self._stop(f"not a JSON value: {token[0][:40]}")
        else:
            self._at = token.end()
            return value

    def _expect(self, character: str, wanted: str) -> None:
        if self._peek() != character:
            self._stop(f"expected {wanted}" if self._peek() else f"the text ends where {wanted} should be")
        self._at += 1

    def _peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        space = _SPACE.match(self._text, self._at)
        assert space is not None
        self._at = space.end()
        return self._text[self._at : self._at + 1]

    def _mark(self) -> Mark:
        style = self._peek()
        line = bisect_right(self._starts, self._at)
        column = self._at - self._starts[line - 1] + 1
        return Mark(line=line, column=column, style='"' if style == '"' else "")

    def _stop(self, message: str) -> None:
        self._tree.stop(self._mark(), message)
