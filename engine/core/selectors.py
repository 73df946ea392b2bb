"""Input selectors and templates over a run's context, whose values are JSON text as bytes.

Values stay unparsed wherever the shape allows it: `key`, `keys`, `full` and `static` only join bytes, however large
the values are. `path` and `template` parse the values they name, each at most once per `Scope`.

Two kinds of names can be read: the context's keys, and `extra`, the names that exist only at this moment (result,
error, event, run, item, index). An extra name hides a context key of the same name. Values in `extra` are JSON values,
or JSON text as bytes.

A name or path that leads nowhere raises `SelectorError` naming it, unless the selector has a `default`; null is a
value, not a missing one. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from windlass.engine.core.limits import RENDERED_BYTES_MAX
from windlass.engine.core.paths import (
    Lookup,
    PathSyntaxError,
    Segment,
    SelectorError,
    TooLarge,
    parse_path,
    render_path,
    resolve,
)
from windlass.engine.core.templates import (
    Template,
    TemplateSyntaxError,
    parse_template,
    render_template,
    template_names,
)

__all__ = [
    "NO_INPUT",
    "Full",
    "Key",
    "Keys",
    "Lookup",
    "NoInput",
    "Path",
    "PathSyntaxError",
    "Scope",
    "Segment",
    "Selector",
    "SelectorError",
    "Static",
    "Template",
    "TemplateSelector",
    "TemplateSyntaxError",
    "TooLarge",
    "parse_path",
    "parse_template",
    "render",
    "render_path",
    "render_to_json",
    "resolve",
    "select",
    "selector_names",
    "template_names",
]

_EMPTY: Mapping[str, Any] = {}
#: Bytes of JSON text whose reading is as much work as copying a value.
_PARSED_BYTES = 3


class NoInput(msgspec.Struct, frozen=True, kw_only=True):
    """The step takes no input: it sees null."""


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One value of the context, as it is."""

    key: str
    default: bytes | None = None  #: JSON text taken when the key is missing


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """An object of these keys of the context. With a default, each missing key takes it."""

    keys: tuple[str, ...]
    default: bytes | None = None


class Path(msgspec.Struct, frozen=True, kw_only=True):
    """A value inside the context, such as `order.items[0].id`."""

    segments: tuple[Segment, ...]
    default: bytes | None = None


class TemplateSelector(msgspec.Struct, frozen=True, kw_only=True):
    """A value built from a template. The default takes the place of the whole when anything in it is missing."""

    template: Template
    default: bytes | None = None


class Full(msgspec.Struct, frozen=True, kw_only=True):
    """The whole context, as one object."""


class Static(msgspec.Struct, frozen=True, kw_only=True):
    """A fixed value: JSON text."""

    value: bytes


Selector = NoInput | Key | Keys | Path | TemplateSelector | Full | Static

NO_INPUT = NoInput()


class Scope(Mapping[str, Any]):
    """The readable names as parsed JSON values, each parsed when first asked for and then kept.

    Lives as long as one decision: it does not see later changes of the context. `spend` is told the work that is done
    with it, here and by expressions, in values copied.
    """

    __slots__ = ("_context", "_extra", "_parsed", "spend")

    def __init__(
        self,
        context: Mapping[str, bytes],
        extra: Mapping[str, Any] = _EMPTY,
        spend: Callable[[float], None] | None = None,
    ) -> None:
        self.spend = spend
        self._context = context
        self._extra = extra
        self._parsed: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self._parsed:
            return self._parsed[name]
        found = self._extra[name] if name in self._extra else self._context[name]
        if isinstance(found, bytes) and self.spend is not None:
            self.spend(len(found) / _PARSED_BYTES)
        value = _parse(name, found) if isinstance(found, bytes) else found
        self._parsed[name] = value
        return value

    def __contains__(self, name: object) -> bool:
        return name in self._extra or name in self._context

    def __iter__(self) -> Iterator[str]:
        yield from self._extra
        yield from (name for name in self._context if name not in self._extra)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def raw(self, name: str) -> bytes:
        """The value as JSON text, without parsing what is stored as text. Raises KeyError."""
        found = self._extra[name] if name in self._extra else self._context[name]
        return found if isinstance(found, bytes) else msgspec.json.encode(found)


def select(selector: Selector, context: Mapping[str, bytes], extra: Mapping[str, Any] = _EMPTY) -> bytes:
    """The selected value as JSON text. Raises SelectorError for what is missing and has no default."""
    match selector:
        case NoInput():
            return b"null"
        case Static(value=value):
            return value
        case Full():
            return _object(context.items())
        case Key(key=key, default=default):
            return _one(Scope(context, extra), key, default)
        case Keys(keys=keys, default=default):
            scope = Scope(context, extra)
            return _object((key, _one(scope, key, default)) for key in keys)
        case Path(segments=segments, default=default):
            return _at_path(segments, default, Scope(context, extra))
        case TemplateSelector(template=template, default=default):
            return _from_template(template, default, Scope(context, extra))


def render(template: Template, scope: Mapping[str, Any]) -> Any:
    """The template's value, a JSON value. `scope` maps names to parsed values (see `Scope`). Raises SelectorError."""
    return render_template(template, scope)


def render_to_json(template: Template, scope: Mapping[str, Any]) -> bytes:
    """The same as JSON text, as the context keeps it."""
    text = msgspec.json.encode(render_template(template, scope))
    if len(text) > RENDERED_BYTES_MAX:
        raise TooLarge(RENDERED_BYTES_MAX)
    return text


def selector_names(selector: Selector) -> frozenset[str]:
    """The top-level names that the selector reads; empty for `full`, which reads whatever there is."""
    match selector:
        case Key(key=key):
            return frozenset((key,))
        case Keys(keys=keys):
            return frozenset(keys)
        case Path(segments=segments):
            return frozenset((str(segments[0]),))
        case TemplateSelector(template=template):
            return template_names(template)
        case _:
            return frozenset()


def _parse(name: str, text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except RecursionError as error:
        raise SelectorError(name, "its value is nested too deep to be read") from error


def _one(scope: Scope, key: str, default: bytes | None) -> bytes:
    if key in scope:
        return scope.raw(key)
    if default is not None:
        return default
    raise SelectorError(key, "the context has no such key")


def _at_path(segments: tuple[Segment, ...], default: bytes | None, scope: Scope) -> bytes:
    if len(segments) == 1:
        return _one(scope, str(segments[0]), default)
    found = resolve(segments, scope)
    if found.missing is None:
        return msgspec.json.encode(found.value)
    if default is not None:
        return default
    raise SelectorError(render_path(segments), found.missing)


def _from_template(template: Template, default: bytes | None, scope: Scope) -> bytes:
    try:
        return render_to_json(template, scope)
    except SelectorError as error:
        if default is None or isinstance(error, TooLarge):
            raise
        return default


def _object(members: Any) -> bytes:
    """A JSON object of values that are JSON text already."""
    parts, size = [], 0
    for name, value in members:
        parts.append(msgspec.json.encode(name) + b":" + value)
        size += len(parts[-1])
        if size > RENDERED_BYTES_MAX:  # `keys` may name one of them a hundred thousand times
            raise TooLarge(RENDERED_BYTES_MAX)
    return b"{" + b",".join(parts) + b"}"
