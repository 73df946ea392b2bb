"""Work that one transaction leaves to a later one, stored as the value of a timer that is due at once."""

from __future__ import annotations

import msgspec

from windlass.engine.core import commands as cmd
from windlass.engine.core.effects import StartChild

Postponed = cmd.Command | StartChild

_KINDS: dict[str, type[Postponed]] = {kind.__name__: kind for kind in cmd.Command.__subclasses__()}
_KINDS["StartChild"] = StartChild


def pack(work: Postponed) -> bytes:
    """As stored bytes: the class name and the fields."""
    return msgspec.msgpack.encode((type(work).__name__, work))


def unpack(value: bytes) -> Postponed:
    """Read it back. Raises KeyError for a name, msgspec.DecodeError for fields, that this program does not know."""
    name, fields = msgspec.msgpack.decode(value, type=tuple[str, msgspec.Raw])
    return msgspec.msgpack.decode(fields, type=_KINDS[name])
