"""Paths into JSON values: `order.items[0].id`, `headers["content-type"]`.

A path starts with a name; then come `.name`, `[index]` (negative counts from the end) and `["any key"]`. A name is any
run of characters other than white space and `. [ ] { } $ " ' ?`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

Segment = str | int

_STEP = re.compile(
    r"""(?P<dot>\.)?(?P<name>[^\s.\[\]{}$"'?]+)   # name or .name
      | \[(?P<index>-?\d{1,9})\]                   # [0]
      | \[(?P<quoted>"(?:[^"\\]|\\.)*")\]          # ["any key"], a JSON string
    """,
    re.VERBOSE,
)


class PathSyntaxError(ValueError):
    """The text is not a path. `position` counts characters from 0."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class SelectorError(Exception):
    """A selector or template names something that is not there. `name` is the path as written."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} is missing: {reason}")
        self.name, self.reason = name, reason


class TooLarge(SelectorError):
    """A selector or template makes more of what it names than anybody would take."""

    def __init__(self, most: int) -> None:
        Exception.__init__(self, f"it makes a value of more than {most} bytes")
        self.name, self.reason = "", str(self)


class Lookup(msgspec.Struct, frozen=True):
    """What a path led to: a value, or the reason why there is none."""

    value: Any = None
    missing: str | None = None


def parse_path(text: str) -> tuple[Segment, ...]:
    """The segments of a path: strings for keys, integers for list indices. Raises PathSyntaxError."""
    segments: list[Segment] = []
    at = 0
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None or not _follows(step, bool(segments)):
            raise PathSyntaxError(f"not a path: {text!r} has an unexpected {text[at]!r}", at)
        segments.append(_segment(step, text))
        at = step.end()
    if not segments:
        raise PathSyntaxError("the path is empty", 0)
    return tuple(segments)


def _follows(step: re.Match[str], started: bool) -> bool:
    """The first step is a plain name; a later name has a dot before it."""
    if not started:
        return step["name"] is not None and step["dot"] is None
    return step["name"] is None or step["dot"] is not None


def _segment(step: re.Match[str], text: str) -> Segment:
    if step["name"] is not None:
        return step["name"]
    if step["index"] is not None:
        return int(step["index"])
    try:
        return msgspec.json.decode(step["quoted"], type=str)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise PathSyntaxError(f"not a path: {text!r} has a bad quoted key ({error})", step.start()) from error


def render_path(segments: tuple[Segment, ...]) -> str:
    """The path as text; `parse_path` reads it back."""
    text = ""
    for segment in segments:
        if isinstance(segment, int):
            text += f"[{segment}]"
        elif re.fullmatch(r"""[^\s.\[\]{}$"'?]+""", segment):
            text += f".{segment}" if text else segment
        else:
            text += f"[{msgspec.json.encode(segment).decode()}]"
    return text


def resolve(segments: tuple[Segment, ...], scope: Mapping[str, Any]) -> Lookup:
    """Follow the path from a scope of names. Never raises for a path that leads nowhere."""
    if segments[0] not in scope:
        return Lookup(missing=f"there is no {segments[0]!r} here")
    value: Any = scope[str(segments[0])]
    for count, segment in enumerate(segments[1:], start=1):
        found = _step_into(value, segment, segments[:count])
        if found.missing is not None:
            return found
        value = found.value
    return Lookup(value)


def _step_into(value: Any, segment: Segment, walked: tuple[Segment, ...]) -> Lookup:
    if isinstance(segment, int):
        if not isinstance(value, list):
            return Lookup(missing=f"{render_path(walked)!r} is {_kind(value)}, not a list")
        if -len(value) <= segment < len(value):
            return Lookup(value[segment])
        return Lookup(missing=f"{render_path(walked)!r} has {len(value)} items")
    if not isinstance(value, dict):
        return Lookup(missing=f"{render_path(walked)!r} is {_kind(value)}, not an object")
    if segment in value:
        return Lookup(value[segment])
    return Lookup(missing=f"{render_path(walked)!r} has no {segment!r}")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
