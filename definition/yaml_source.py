"""YAML text to a plain JSON value with marks.

Built on the parser's events and not on its constructor: tags never make objects, every key stays the text it was
written as (YAML 1.1 would read the key `on` as true), duplicate keys are problems, and aliases are expanded under a
count. Scalars follow the YAML 1.2 core schema: only `true` and `false` are booleans, dates stay text, and so do
digits with a leading zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from windlass.definition.problems import Mark, Place, Report
from windlass.definition.tree import Document, Tree, Unreadable

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_OTHER_FLOAT = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_WORDS: dict[str, Any] = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
#: The parser compares each with all before it, in one go that nothing interrupts; tags are not supported anyway.
_TAG_DIRECTIVES_MAX = 100
_NULLS = ("", "~", "null", "Null", "NULL")


def read_yaml(text: str, report: Report) -> Document:
    """Read one YAML document. Problems go to the report; what could not be read is missing from the value."""
    tree = Tree(report)
    reader = _Reader(tree)
    if text.count("%TAG") > _TAG_DIRECTIVES_MAX:
        report.at((), "%TAG stands there too often: tags are not supported, write plain JSON values", 1, 1)
        return Document(None, tree.marks, complete=False)
    try:
        return Document(reader.read(text), tree.marks)
    except yaml.MarkedYAMLError as error:
        spot = error.problem_mark or error.context_mark
        line, column = (spot.line + 1, spot.column + 1) if spot else (1, 1)
        report.at((), f"not YAML: {_plain(error.problem or error.context)}{_hint(text, line)}", line, column)
    except yaml.YAMLError as error:
        report.at((), f"not YAML: {error}", 1, 1)
    except Unreadable:
        pass  # the report has it
    return Document(None, tree.marks, complete=False)


def _plain(message: str | None) -> str:
    return (message or "cannot be read").replace("token recognition", "token")


def _hint(text: str, line: int) -> str:
    lines = text.split("\n")
    if line <= len(lines) and lines[line - 1][: len(lines[line - 1]) - len(lines[line - 1].lstrip())].count("\t"):
        return " (indent with spaces: YAML does not allow tabs)"
    return ""


class _Reader:
    """Builds the value from parse events. Recursion is bounded by the tree's depth limit."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._events: Iterator[Any] = iter(())
        self._anchors: dict[str, list[Any]] = {}  #: the events of each anchored node, for its aliases
        self._recording: list[list[Any]] = []
        self._open: set[str] = set()

    def read(self, text: str) -> Any:
        self._events = iter(yaml.parse(text, Loader=_Loader))
        event = self._next()
        while not isinstance(event, yaml.DocumentStartEvent):
            if isinstance(event, yaml.StreamEndEvent):
                self._tree.stop(Mark(line=1, column=1), "the document is empty")
            event = self._next()
        value = self._node(self._next(), ())
        self._next()
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            self._tree.stop(_mark(after), "the file holds more than one document; a file describes one workflow")
        return value

    def _next(self) -> Any:
        event = next(self._events)
        for record in self._recording:
            record.append(event)
        return event

    def _node(self, event: Any, place: Place, key: Any = None) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, place, key)
        mark = _mark(event, key)
        self._tree.enter(place, mark)
        if event.tag is not None and event.tag != "!":
            self._tree.report.error(place, f"the tag {event.tag!r} is not supported: write plain JSON values")
        if event.anchor is None:
            return self._content(event, place)
        return self._anchored(event, place)

    def _anchored(self, event: Any, place: Place) -> Any:
        record = [event]
        self._recording.append(record)
        self._open.add(event.anchor)
        value = self._content(event, place)
        self._open.discard(event.anchor)
        self._recording.pop()
        self._anchors[event.anchor] = record
        return value

    def _alias(self, event: Any, place: Place, key: Any) -> Any:
        """Replay the events of the anchored node at this place: the marks point at the anchor's text."""
        name = event.anchor
        if name in self._open:
            self._tree.stop(_mark(event), f"the alias *{name} stands inside its own anchor", place)
        if name not in self._anchors:
            self._tree.stop(_mark(event), f"the alias *{name} has no anchor &{name} before it", place)
        live, recording = self._events, self._recording
        self._events, self._recording = iter(self._anchors[name][1:]), []
        first = self._anchors[name][0]
        mark = _mark(first, key)
        self._tree.enter(place, mark)
        value = self._content(first, place)
        self._events, self._recording = live, recording
        return value

    def _content(self, event: Any, place: Place) -> Any:
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(place)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(place)
        return self._scalar(event, place)

    def _mapping(self, place: Place) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while not isinstance(key := self._next(), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                self._tree.stop(_mark(key), "a key must be text", place)
            if key.value == "<<" and key.implicit[0]:
                self._tree.stop(_mark(key), "the merge key << is not supported: write the keys out", place)
            name = str(key.value)
            inner = (*place, name)
            if name in members:
                self._tree.duplicate(inner, _mark(key))
                self._skip(self._next())
                continue
            members[name] = None
            members[name] = self._node(self._next(), inner, key)
        return members

    def _skip(self, event: Any) -> None:
        depth = 0
        while True:
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth == 0:
                return
            event = self._next()

    def _sequence(self, place: Place) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, (*place, len(items))))
        return items

    def _scalar(self, event: Any, place: Place) -> Any:
        text = str(event.value)
        if not event.implicit[0] or event.style:
            return text
        if text in _NULLS:
            return None
        if text in _WORDS:
            return _WORDS[text]
        if _OTHER_FLOAT.match(text):
            self._number_problem(event, place, text)
            return None
        if _INTEGER.match(text) and len(text) <= 20:
            return self._in_range(int(text), event, place)
        if _INTEGER.match(text) or _FLOAT.match(text):
            return self._in_range(float(text), event, place)
        return text

    def _in_range(self, number: int | float, event: Any, place: Place) -> Any:
        fits = math.isfinite(number) if isinstance(number, float) else -(2**63) <= number < 2**63
        if fits:
            return number
        self._number_problem(event, place, event.value)
        return None

    def _number_problem(self, event: Any, place: Place, text: str) -> None:
        mark = _mark(event)
        self._tree.report.at(place, f"the number {text} is outside what JSON can carry", mark.line, mark.column)


def _mark(event: Any, key: Any = None) -> Mark:
    style = getattr(event, "style", "") or ""
    start = event.start_mark
    if key is None:
        return Mark(line=start.line + 1, column=start.column + 1, style=style)
    named = key.start_mark
    return Mark(
        line=start.line + 1,
        column=start.column + 1,
        key_line=named.line + 1,
        key_column=named.column + 1,
        style=style,
    )
