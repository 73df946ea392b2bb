"""JSON text from outside: is it JSON, and does it fit a schema?

Values are carried as text and mostly never parsed, so text that only looks like JSON would surface much later, inside
a guard. It is refused at the door; what still slips through (a number beyond every range) becomes an incident where
it is parsed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from windlass.engine.core.definition import Schema

#: What parsing hostile text can raise: bad syntax, bad UTF-8, nesting too deep.
BAD_JSON = (msgspec.MsgspecError, ValueError, RecursionError)

_syntax = msgspec.json.Decoder(msgspec.Raw)
_value = msgspec.json.Decoder()


def flaw(text: bytes) -> str:
    """Why this is not JSON text; "" if it is. Does not build the value."""
    try:
        _syntax.decode(text)
        if not text.isascii():
            text.decode()
    except BAD_JSON as error:
        return f"not JSON: {error}"
    return ""


def misfit(schema: Schema | None, text: bytes) -> str:
    """Why the text is no JSON or does not fit the schema; "" if it does."""
    if schema is None:
        return flaw(text)
    try:
        value = _value.decode(text)
    except BAD_JSON as error:
        return f"not JSON: {error}"
    return "; ".join(schema.check(value))


def unreadable(text: bytes) -> bool:
    """Whether the value cannot be built: more than `flaw`, for what is looked at where nothing can be refused."""
    try:
        parse(text)
    except BAD_JSON:
        return True
    return False


def parse(text: bytes) -> Any:
    """The value. Raises one of BAD_JSON."""
    return _value.decode(text)
