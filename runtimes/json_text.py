"""Is this one JSON value? Answered without building the value, since it may be hostile and is passed on as text."""

from __future__ import annotations

from typing import Final

import msgspec

_ANY: Final = msgspec.json.Decoder(msgspec.Raw)


def not_json(text: bytes) -> str:
    """Return why `text` is not one JSON value in UTF-8 (NaN and Infinity are none), or ""."""
    try:
        _ANY.decode(text)
        text.decode("utf-8")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return f"not one JSON value: {error}"
    except RecursionError:
        return "nested too deeply"
    return ""
