"""Messages of the wire as plain values, for `--output json` and for tables.

Unlike the library's own JSON form: payloads and JSON bytes appear as the values they hold, enum values as `completed`
and not `RUN_STATE_COMPLETED`, and every field is there, so that a program can rely on the keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from windlass.v1.common_pb2 import Payload

#: What a terminal obeys or turns round instead of showing it; line ends and tabs are not among it.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """The text for a terminal. Messages, names and logs are written by whoever wrote the task code."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def plain(message: Message) -> Any:
    """A message as dicts, lists, texts and numbers. Unset messages are None; instants are RFC 3339 in UTC."""
    if isinstance(message, Payload):
        return value_of(message.data)
    if isinstance(message, Timestamp):
        return moment(message)
    if isinstance(message, Duration):
        return message.ToJsonString()
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def value_of(data: bytes) -> Any:
    """What JSON bytes hold; None for none. Bytes that are no JSON show as text."""
    if not data:
        return None
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data.decode("utf-8", "replace")


def moment(time: Timestamp) -> str | None:
    """RFC 3339 in UTC; None for a time that is not set."""
    if not time.seconds and not time.nanos:
        return None
    return time.ToDatetime(UTC).isoformat().replace("+00:00", "Z")


def local_time(time: Timestamp) -> str:
    """For people: local time to the second; "" for a time that is not set."""
    if not time.seconds and not time.nanos:
        return ""
    return datetime.fromtimestamp(time.seconds, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def enum_name(descriptor: EnumDescriptor, number: int) -> str:
    """`completed` for RUN_STATE_COMPLETED; "" for the unspecified value; the number for one of a newer engine."""
    known = descriptor.values_by_number.get(number)
    if known is None:
        return str(number)
    if number == 0:
        return ""
    prefix = descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(known.name.removeprefix(prefix).lower())


def _field(message: Message, field: Any) -> Any:  # FieldDescriptor: the library has one in C and one in Python
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return _mapping(value, field.message_type.fields_by_name["value"])
    if field.is_repeated:
        return [_single(each, field) for each in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _single(value, field)


def _mapping(value: Mapping[Any, Any], field: Any) -> dict[str, Any]:
    return {str(key): _single(each, field) for key, each in sorted(value.items())}


def _single(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    return value_of(value) if isinstance(value, bytes) else value
