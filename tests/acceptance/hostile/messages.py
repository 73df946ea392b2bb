"""Random messages of any type, made from its descriptor: mostly of the right shape, with values nobody should send.

Some values are real (names of workflows, ids of runs, task tokens, JSON that fits), so that the messages get past the
first check and reach the code behind it.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

#: Nesting of messages in messages, at most.
DEPTH: Final = 4

_TEXTS: Final = (
    "", " ", "default", "\x00", "a\x00b", "../../etc/passwd", "x" * 300, "x" * 20_000, "é" * 200, "\u202e\ufeff", "#1",
    "a/b/#2", "1:", "-1", "${a.b", "0" * 32, "f" * 32, "%s%n", "'; DROP TABLE runs; --", "\n\n", "😀" * 50, "latest",
    "🤯/!", "²", "4pE=", "MDA=", "LTE=", "wrI=",
)  # fmt: skip
_JSON: Final = (
    b"", b"null", b"{}", b"[]", b"1", b'"x"', b'{"n": 1}', b"{", b"\xff\xfe", b"NaN", b"1e999", b"-" + b"9" * 5000,
    b"[" * 100_000, b"[" * 3_000 + b"]" * 3_000, b'{"a":' * 2_000 + b"1" + b"}" * 2_000, b'{"a":1,"a":2}',
    b'"\\ud800"', b'"\x00"', b'{"":1}', b'{"\\u0000": 1}', b"1 2", b'{"key": "n"}', b'{"path": "a[999999999999]"}',
    b'{"template": {"a": "${b ?? }"}}', b'"' + b"x" * 200_000 + b'"', b"[" + b"1," * 50_000 + b"1]", b"full",
)  # fmt: skip
_EDGES: Final = {
    FieldDescriptor.CPPTYPE_INT32: (0, 1, -1, 2**31 - 1, -(2**31), 1000, 64),
    FieldDescriptor.CPPTYPE_INT64: (0, 1, -1, 2**63 - 1, -(2**63), 10**12),
    FieldDescriptor.CPPTYPE_UINT32: (0, 1, 2, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 1, 2, 2**64 - 1, 2**63),
    FieldDescriptor.CPPTYPE_DOUBLE: (0.0, -1.0, 1e308, float("nan"), float("inf"), 0.5),
    FieldDescriptor.CPPTYPE_FLOAT: (0.0, -1.0, 1e38, float("nan"), float("inf")),
    FieldDescriptor.CPPTYPE_BOOL: (True, False),
    FieldDescriptor.CPPTYPE_ENUM: (0, 1, 2, 3, 99, -5),
}
#: What a well-meaning client would send: with these a message gets far.
_PLAIN: Final = {
    FieldDescriptor.CPPTYPE_INT32: 1,
    FieldDescriptor.CPPTYPE_INT64: 1,
    FieldDescriptor.CPPTYPE_UINT32: 1,
    FieldDescriptor.CPPTYPE_UINT64: 1,
    FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
    FieldDescriptor.CPPTYPE_FLOAT: 0.5,
    FieldDescriptor.CPPTYPE_BOOL: False,
    FieldDescriptor.CPPTYPE_ENUM: 1,
    FieldDescriptor.CPPTYPE_STRING: "",
}
_SECONDS: Final = (0, 1, -1, 60, 10**9, 315_576_000_000, -315_576_000_000, 2**62, -(2**62))
_NANOS: Final = (0, 1, -1, 999_999_999, 2**31 - 1, -(2**31))


class MessageMaker:
    """Makes messages. `known`: real values by field name, or by "text" and "bytes" for any field."""

    def __init__(self, random: Random, known: dict[str, list[Any]]) -> None:
        self.random, self.known = random, known
        self._wild, self._full = 1.0, 0.6

    def message(self, descriptor: Descriptor) -> bytes:
        """A message of the type that `descriptor` describes: nearly right, half right, wild; full or nearly empty."""
        self._wild = self.random.choice((0.05, 0.3, 1.0))
        self._full = self.random.choice((0.2, 0.6, 0.95))
        return self.make(descriptor).SerializeToString()

    def make(self, descriptor: Descriptor, depth: int = 0) -> Message:
        """The same, as a message, inside another one."""
        message = GetMessageClass(descriptor)()
        if descriptor.full_name in ("google.protobuf.Duration", "google.protobuf.Timestamp"):
            if not self._some(self._wild):
                return GetMessageClass(descriptor)(seconds=1)
            return GetMessageClass(descriptor)(
                seconds=self.random.choice(_SECONDS), nanos=self.random.choice(_NANOS) if self._some(0.3) else 0
            )
        for field in descriptor.fields:
            wanted = field.name in self.known and not self._some(self._wild)
            if wanted or self._some(self._full if depth < DEPTH else 0.1):
                self._fill(message, field, depth)
        return message

    def _some(self, share: float) -> bool:
        return self.random.random() < share

    def _fill(self, message: Any, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._fill_map(getattr(message, field.name), field.message_type, depth)
        elif field.is_repeated:
            for _ in range(self.random.choice((0, 1, 2, 7))):
                if field.message_type is not None:
                    getattr(message, field.name).append(self.make(field.message_type, depth + 1))
                else:
                    getattr(message, field.name).append(self._value(field))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(self.make(field.message_type, depth + 1))
        else:
            setattr(message, field.name, self._value(field))

    def _fill_map(self, target: Any, entry: Descriptor, depth: int) -> None:
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        for _ in range(self.random.choice((0, 1, 3))):
            if value.message_type is not None:
                target[self._value(key)].CopyFrom(self.make(value.message_type, depth + 1))
            else:
                target[self._value(key)] = self._value(value)

    def _value(self, field: FieldDescriptor) -> Any:
        real = self.known.get(field.name)
        if real and not self._some(0.4 * self._wild):
            return self.random.choice(real)
        if not self._some(self._wild):
            return b"1" if field.type == FieldDescriptor.TYPE_BYTES else _PLAIN[field.cpp_type]
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self._bytes()
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self.random.choice((*_TEXTS, *self.known.get("text", ())))
        return self.random.choice(_EDGES[field.cpp_type])

    def _bytes(self) -> bytes:
        known: list[bytes] = self.known.get("bytes", [])
        if self._some(0.2):
            return self.random.randbytes(self.random.choice((1, 10, 1000)))
        return self.random.choice((*_JSON, *known))
