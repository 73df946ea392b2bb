"""What a hostile module is, and the bytes to make one that no assembler would."""

from __future__ import annotations

from typing import NamedTuple

OK = "OK"


class Hostile(NamedTuple):
    """A module (text or bytes) and the ways in which it may end."""

    name: str
    code: str | bytes
    ends: tuple[str, ...]
    #: Part of the failure's message, or the output where it ends well.
    says: str = ""


def number(value: int) -> bytes:
    """Return an unsigned LEB128 number."""
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def section(kind: int, body: bytes) -> bytes:
    """Return one section of a module."""
    return bytes([kind]) + number(len(body)) + body


HEADER = b"\0asm\x01\0\0\0"
NO_TYPES = section(1, number(1) + b"\x60\0\0")
