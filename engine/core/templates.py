"""Templates: JSON values with `${path}` in their strings.

A string that is exactly one `${…}` becomes the value itself, of whatever type; in any other string the value is put in
as text (strings as they are, other values as JSON). `${path ?? 3}` gives a JSON value to take when the path leads
nowhere. `$${` stands for a plain `${`. Keys of objects are not templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from windlass.engine.core.limits import RENDERED_BYTES_MAX
from windlass.engine.core.paths import (
    PathSyntaxError,
    Segment,
    SelectorError,
    TooLarge,
    parse_path,
    render_path,
    resolve,
)

TEMPLATE_DEPTH_MAX = 64  #: levels of nesting
FILLS_FREE = 20  #: holes of a template that can be filled without looking at their sizes: these must be worked out

_OPENING = re.compile(r"\$\$\{|\$\{")
#: `${`, and what comes before `}` or `??`, neither of them looked for inside a quoted key.
_PATH = re.compile(r"""\$\{((?:"(?:[^"\\]|\\.)*"|\?(?!\?)|[^{}"?])*)(\}|\?\?\s*)""")
#: The same as far as it may go, to say what is wrong with it.
_HOLE = re.compile(r"""\$\{((?:"(?:[^"\\]|\\.)*"|\{[^{}]*\}|[^{}"])*)\}""")
_END = re.compile(r"\s*\}")
_json = json.JSONDecoder()


class TemplateSyntaxError(ValueError):
    """A string of the template cannot be read. `path` leads to it, as `a.b[0]`; empty for the template itself."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class Hole(msgspec.Struct, frozen=True):
    """One `${path ?? default}`."""

    segments: tuple[Segment, ...]
    default: bytes | None = None  #: JSON text


class Literal(msgspec.Struct, frozen=True):
    """A part without holes: JSON text, parsed anew at each rendering so that nobody shares it."""

    value: bytes


class Text(msgspec.Struct, frozen=True):
    """A string with holes in it."""

    parts: tuple[str | Hole, ...]


class Object(msgspec.Struct, frozen=True):
    members: tuple[tuple[str, Part], ...]


class Array(msgspec.Struct, frozen=True):
    items: tuple[Part, ...]


Part = Hole | Literal | Text | Object | Array
Fill = Callable[[Hole, Mapping[str, Any]], Any]


class Template(msgspec.Struct, frozen=True):
    """A parsed template; made by `parse_template`, evaluated by `selectors.render`."""

    root: Part
    holes: int


def parse_template(value: Any) -> Template:
    """Parse a template given as a JSON value. Raises TemplateSyntaxError."""
    root = _parse(value, (), TEMPLATE_DEPTH_MAX)
    return Template(root, sum(1 for _ in _holes(root)))


def _parse(value: Any, at: tuple[Segment, ...], depth: int) -> Part:
    if depth == 0:
        raise TemplateSyntaxError(f"nested deeper than {TEMPLATE_DEPTH_MAX} levels", render_path(at))
    if isinstance(value, str):
        return _parse_string(value, at)
    if isinstance(value, dict):
        members = tuple((str(key), _parse(item, (*at, str(key)), depth - 1)) for key, item in value.items())
        if any(not isinstance(part, Literal) for _, part in members):
            return Object(members)
    if isinstance(value, list | tuple):
        items = tuple(_parse(item, (*at, index), depth - 1) for index, item in enumerate(value))
        if any(not isinstance(part, Literal) for part in items):
            return Array(items)
    return Literal(msgspec.json.encode(value))


def _parse_string(text: str, at: tuple[Segment, ...]) -> Part:
    try:
        parts = list(_pieces(text))
    except PathSyntaxError as error:
        raise TemplateSyntaxError(str(error), render_path(at)) from error
    if len(parts) == 1 and isinstance(parts[0], Hole):
        return parts[0]
    if any(isinstance(part, Hole) for part in parts):
        return Text(tuple(parts))
    return Literal(msgspec.json.encode("".join(str(part) for part in parts)))


def _pieces(text: str) -> Iterator[str | Hole]:
    at = 0
    for opening in _OPENING.finditer(text):
        if opening.start() < at:
            continue  # inside the hole before it
        if opening.start() > at:
            yield text[at : opening.start()]
        if opening[0] == "$${":
            yield "${"
            at = opening.end()
            continue
        hole, at = _hole(text, opening.start())
        yield hole
    if at < len(text):
        yield text[at:]


def _hole(text: str, start: int) -> tuple[Hole, int]:
    """The hole that opens here, and where it ends."""
    path = _PATH.match(text, start)
    if path is None:
        raise _flawed(text, start)
    if path[2] == "}":
        return Hole(parse_path(path[1].strip())), path.end()
    default, end = _default(text, path.end())
    closed = _END.match(text, end)
    if default is None or closed is None:
        raise _flawed(text, start)
    return Hole(parse_path(path[1].strip()), default), closed.end()


def _default(text: str, start: int) -> tuple[bytes | None, int]:
    """The JSON value that begins here and where it ends; None if there is none."""
    try:
        _, end = _json.raw_decode(text, start)
        return msgspec.json.encode(msgspec.json.decode(text[start:end])), end
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return None, start


def _flawed(text: str, start: int) -> PathSyntaxError:
    found = _HOLE.match(text, start)
    if found is None:
        return PathSyntaxError(f"'${{' at character {start} is never closed; write '$${{' for a plain one", start)
    path, _, default = found[1].partition("??")
    try:
        parse_path(path.strip())
    except PathSyntaxError as error:
        return error
    shown = default.strip()
    shown = shown if len(shown) <= 100 else f"{shown[:100]}…"
    return PathSyntaxError(f"the default after ?? must be JSON, not {shown!r}", 0)


def render_template(template: Template, scope: Mapping[str, Any]) -> Any:
    """The value of the template. Raises SelectorError for a path that leads nowhere, TooLarge."""
    return _render(template.root, scope, _fill if template.holes <= FILLS_FREE else _Counting().fill)


def _render(part: Part, scope: Mapping[str, Any], fill: Fill) -> Any:
    match part:
        case Literal(value=value):
            return msgspec.json.decode(value)
        case Hole():
            return fill(part, scope)
        case Text(parts=parts):
            return "".join(piece if isinstance(piece, str) else _as_text(fill(piece, scope)) for piece in parts)
        case Object(members=members):
            return {name: _render(member, scope, fill) for name, member in members}
        case Array(items=items):
            return [_render(item, scope, fill) for item in items]


def _fill(hole: Hole, scope: Mapping[str, Any]) -> Any:
    found = resolve(hole.segments, scope)
    if found.missing is None:
        return found.value
    if hole.default is not None:
        return msgspec.json.decode(hole.default)
    raise SelectorError(render_path(hole.segments), found.missing)


class _Counting:
    """Counts what is put in: a value can be named a hundred thousand times."""

    def __init__(self) -> None:
        self._bytes = 0

    def fill(self, hole: Hole, scope: Mapping[str, Any]) -> Any:
        value = _fill(hole, scope)
        self._bytes += len(_as_text(value))
        if self._bytes > RENDERED_BYTES_MAX:
            raise TooLarge(RENDERED_BYTES_MAX)
        return value


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def template_names(template: Template) -> frozenset[str]:
    """The top-level names that the template reads and cannot do without (those with a default are left out)."""
    return frozenset(str(hole.segments[0]) for hole in _holes(template.root) if hole.default is None)


def _holes(part: Part) -> Iterator[Hole]:
    match part:
        case Hole():
            yield part
        case Text(parts=parts):
            yield from (piece for piece in parts if isinstance(piece, Hole))
        case Object(members=members):
            for _, member in members:
                yield from _holes(member)
        case Array(items=items):
            for item in items:
                yield from _holes(item)
        case Literal():
            return
