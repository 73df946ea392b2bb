"""Keys as tuples, in the byte format of `fdb.tuple`, so that the order of the bytes is the order of the tuples.

Ours, because `fdb.tuple` costs more than the store call that it serves (about 5 µs for four parts) and belongs to a
package that the local stores do without; `tests/storage/test_tuples.py` holds it against the original. Known here are
bytes, str, int, bool, None and versionstamps; floats, UUIDs and nested tuples are refused.

Hot keys are packed by hand from `pack_bytes`, `pack_str` and `pack_int`: the pieces of a key are simply put one after
another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from windlass.storage.sizes import STAMP_BYTES


class Stamp(NamedTuple):
    """A versionstamp as it stands in a key: the store's ten bytes, and two of the writer's own."""

    stamp: bytes
    user: int = 0


Part = bytes | str | int | bool | None | Stamp

_NONE: Final = 0x00
_BYTES: Final = 0x01
_STR: Final = 0x02
_ZERO: Final = 0x14
_LONG_POSITIVE: Final = 0x1D
_LONG_NEGATIVE: Final = 0x0B
_FALSE: Final = 0x26
_TRUE: Final = 0x27
_STAMP: Final = 0x33
_SHORT_INT_BYTES: Final = 8
#: The original writes this number, the last that would fit into eight bytes, in the long form already.
_SHORT_INT_END: Final = (1 << 64) - 1
_LONG_INT_BYTES: Final = 255

#: What goes before a stamp in a key given to `set_versionstamped_key`; the two bytes of `user` begin its suffix.
STAMP_MARK: Final = bytes([_STAMP])
STAMP_USER_BYTES: Final = 2

_POSITIVE: Final = [bytes([_ZERO + size]) for size in range(_SHORT_INT_BYTES + 1)]
_NEGATIVE: Final = [bytes([_ZERO - size]) for size in range(_SHORT_INT_BYTES + 1)]


def pack_bytes(value: bytes) -> bytes:
    """One part of a key."""
    return b"\x01" + (value.replace(b"\0", b"\0\xff") if b"\0" in value else value) + b"\0"


def pack_str(value: str) -> bytes:
    """One part of a key."""
    raw = value.encode()
    return b"\x02" + (raw.replace(b"\0", b"\0\xff") if b"\0" in raw else raw) + b"\0"


def pack_int(value: int) -> bytes:
    """One part of a key. Raises `ValueError` above 255 bytes."""
    if value > 0:
        size = (value.bit_length() + 7) >> 3
        if value < _SHORT_INT_END:
            return _POSITIVE[size] + value.to_bytes(size, "big")
        return bytes([_LONG_POSITIVE, _checked(size)]) + value.to_bytes(size, "big")
    if value == 0:
        return _POSITIVE[0]
    size = ((-value).bit_length() + 7) >> 3
    raw = (value + (1 << (8 * size)) - 1).to_bytes(size, "big")
    if value > -_SHORT_INT_END:
        return _NEGATIVE[size] + raw
    return bytes([_LONG_NEGATIVE, _checked(size) ^ 0xFF]) + raw


def pack(parts: Iterable[Part]) -> bytes:
    """The key of a tuple. Raises `TypeError` for a part of another type."""
    return b"".join([_pack_part(part) for part in parts])


def _pack_part(part: Part) -> bytes:
    if isinstance(part, str):
        return pack_str(part)
    if isinstance(part, bool):
        return b"\x27" if part else b"\x26"
    if isinstance(part, int):
        return pack_int(part)
    if isinstance(part, bytes):
        return pack_bytes(part)
    if part is None:
        return b"\0"
    if isinstance(part, Stamp):
        return STAMP_MARK + part.stamp + part.user.to_bytes(STAMP_USER_BYTES, "big")
    raise TypeError(f"a key cannot hold a {type(part).__name__}: {part!r}")


def unpack(key: bytes, start: int = 0) -> tuple[Part, ...]:
    """The tuple of a key, from byte `start` on. Raises `ValueError` with the place if it is not in this format."""
    parts: list[Part] = []
    while start < len(key):
        part, start = _unpack_part(key, start)
        parts.append(part)
    return tuple(parts)


def _unpack_part(key: bytes, place: int) -> tuple[Part, int]:
    mark, body = key[place], place + 1
    if mark in (_BYTES, _STR):
        raw, after = _terminated(key, body)
        return (raw.decode() if mark == _STR else raw), after
    if abs(mark - _ZERO) <= _SHORT_INT_BYTES:
        return _unpack_int(key, body, abs(mark - _ZERO), mark < _ZERO)
    if mark in (_LONG_POSITIVE, _LONG_NEGATIVE):
        size = int.from_bytes(_exactly(key, body, 1), "big")
        negative = mark == _LONG_NEGATIVE
        return _unpack_int(key, body + 1, size ^ 0xFF if negative else size, negative)
    if mark in (_FALSE, _TRUE):
        return mark == _TRUE, body
    if mark == _NONE:
        return None, body
    if mark == _STAMP:
        raw = _exactly(key, body, STAMP_BYTES + STAMP_USER_BYTES)
        return Stamp(raw[:STAMP_BYTES], int.from_bytes(raw[STAMP_BYTES:], "big")), body + len(raw)
    raise ValueError(f"unknown mark {mark:#04x} at byte {place} of key {key!r}")


def _unpack_int(key: bytes, body: int, size: int, negative: bool) -> tuple[int, int]:
    number = int.from_bytes(_exactly(key, body, size), "big")
    return (number - (1 << (8 * size)) + 1 if negative else number), body + size


def _terminated(key: bytes, body: int) -> tuple[bytes, int]:
    end = key.find(b"\0", body)
    while 0 <= end < len(key) - 1 and key[end + 1] == 0xFF:
        end = key.find(b"\0", end + 2)
    if end < 0:
        raise ValueError(f"the part at byte {body - 1} of key {key!r} has no end")
    return key[body:end].replace(b"\0\xff", b"\0"), end + 1


def _exactly(key: bytes, place: int, size: int) -> bytes:
    raw = key[place : place + size]
    if len(raw) < size:
        raise ValueError(f"key {key!r} ends within the part at byte {place - 1}")
    return raw


def _checked(size: int) -> int:
    if size > _LONG_INT_BYTES:
        raise ValueError(f"an integer of {size} bytes does not fit into a key")
    return size


def range_of(prefix: bytes) -> tuple[bytes, bytes]:
    """Begin and end of all keys whose tuples continue this packed one, without the key `prefix` itself."""
    return prefix + b"\0", prefix + b"\xff"


def strinc(prefix: bytes) -> bytes:
    """The first key that sorts after all keys beginning with `prefix`: the end of their range."""
    shortened = prefix.rstrip(b"\xff")
    if not shortened:
        raise ValueError(f"no key sorts after all that begin with {prefix!r}")
    return shortened[:-1] + bytes([shortened[-1] + 1])
