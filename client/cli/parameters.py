"""What options take: JSON, KEY=JSON, KEY=TEXT, seconds, an engine's address. What cannot be is refused here, with its
name, before anything is sent.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import click

from windlass.client.values import encode

#: Longest span of an option, in seconds: 100 years. An instant that much later can still be said on the wire.
SECONDS_MAX = 100 * 365.25 * 86_400
#: Schemes of gRPC that are no HOST:PORT.
_SCHEME = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6|vsock|xds):")


class JsonValue(click.ParamType[Any]):
    """JSON text, or @FILE to read it from a file, or @- to read it from standard input."""

    name = "JSON|@FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value. Fails with the place of the mistake."""
        if not isinstance(value, str):
            return value
        text, source = _text(value, self, param, ctx)
        try:
            return _parsed(text)
        except ValueError as error:
            self.fail(f"{source} is not JSON: {error}", param, ctx)


class RunName(click.ParamType[str]):
    """A run id or workflow id."""

    name = "RUN"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The id. An empty one is most often a shell variable that is not set."""
        if not value.strip():
            self.fail("a run id or workflow id is needed, and this one is empty", param, ctx)
        return value


class Assignment(click.ParamType[tuple[str, Any]]):
    """KEY=JSON; a value that is no JSON is taken as text."""

    name = "KEY=JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """The key and the value."""
        if isinstance(value, tuple):
            return value
        key, text = _pair(self, value, param, ctx)
        try:
            return key, _parsed(text)
        except json.JSONDecodeError:
            return key, text
        except ValueError as error:
            self.fail(f"the value of {key} is not JSON: {error}", param, ctx)


class Pair(click.ParamType[tuple[str, str]]):
    """KEY=TEXT."""

    name = "KEY=TEXT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The key and the text."""
        return value if isinstance(value, tuple) else _pair(self, value, param, ctx)


class Seconds(click.ParamType[float]):
    """A span in seconds: not negative, and finite."""

    name = "SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The span."""
        try:
            span = float(value)
        except ValueError:
            span = math.nan
        if not 0 <= span <= SECONDS_MAX:
            self.fail(f"{value!r} is not a number of seconds between 0 and {SECONDS_MAX:.0f}", param, ctx)
        return span


def address_option(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """The value of an option that takes HOST:PORT, or an address of gRPC's with a scheme. Raises BadParameter."""
    if _SCHEME.match(value):
        return value
    host, _, port = value.rpartition(":")
    closed = not host or (":" in host and not (host.startswith("[") and host.endswith("]")))
    if closed or re.search(r"[\s/]", host) or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65_536:
        raise click.BadParameter(f"{value!r} is not HOST:PORT with a port from 1 to 65535", ctx, param)
    return value


def given_id(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """The value of an option that takes an id of one's own. Raises BadParameter if an empty one is given.

    That is most often a shell variable that is not set, and the run would be started without what it is to be known by.
    """
    source = ctx.get_parameter_source(param.name or "")
    if not value.strip() and source is not click.core.ParameterSource.DEFAULT:
        raise click.BadParameter("it is empty; leave the option out if none is meant", ctx, param)
    return value


def _parsed(text: str) -> Any:
    """The value of JSON text. Raises ValueError, also for what Python takes and JSON does not: it could not be sent."""
    try:
        value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        encode(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a text has half of a surrogate pair, which is no character") from None
    return value


def _no_constant(name: str) -> float:
    raise json.JSONDecodeError(f"JSON has no {name}", name, 0)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def _pair(
    kind: click.ParamType[Any], value: str, param: click.Parameter | None, ctx: click.Context | None
) -> tuple[str, str]:
    key, equals, text = value.partition("=")
    if not key or not equals:
        kind.fail(f"{value!r} is not KEY=VALUE", param, ctx)
    return key, text


def _text(
    value: str, kind: click.ParamType[Any], param: click.Parameter | None, ctx: click.Context | None
) -> tuple[str, str]:
    source = "standard input" if value == "@-" else value[1:]
    try:
        if value == "@-":
            return sys.stdin.read().removeprefix("\ufeff"), source
        if not value.startswith("@"):
            return value, "the text"
        return Path(source).read_text("utf-8-sig"), source
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a zero in the name
        kind.fail(f"cannot read {source}: {getattr(error, 'strerror', None) or error}", param, ctx)
