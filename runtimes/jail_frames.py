"""What crosses the two pipes between a worker and a child: msgpack messages, each behind its length.

Both directions are typed and capped. The child's side is hostile once it has run hostile code, so the parent takes
nothing from it but these shapes: a length above the cap, a message of another shape or a number it did not give out
ends the child. A frame is 4 bytes of length, little-endian, then the message.
"""

from __future__ import annotations

import os
import select
import struct
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from windlass.runtimes.jail_isolation import Layer
from windlass.runtimes.port import Activation, Completion, Note, Problem, Several

#: Larger than any batch of tasks, module or result may be; smaller than what would hurt.
FRAME_BYTES_MAX: Final = 64 << 20
_LENGTH: Final = struct.Struct("<I")
_READ_BYTES: Final = 1 << 18


class Hello(Struct, frozen=True, array_like=True, tag=0):
    """First frame to the child: what to be."""

    runtimes: tuple[str, ...]
    address_space_bytes: int
    parent_pid: int


class Keep(Struct, frozen=True, array_like=True, tag=1):
    """Remember these bytes under this name (code by digest, prepared code by its own name)."""

    name: str
    data: bytes


class Drop(Struct, frozen=True, array_like=True, tag=2):
    """Forget the bytes of this name."""

    name: str


class Job(Struct, frozen=True, array_like=True):
    """One activation of a batch; its code and prepared code are known by name."""

    number: int
    activation: Activation
    prepared: str = ""


class Run(Struct, frozen=True, array_like=True, tag=3):
    """Run these, one after the other, each in a fresh context; answer each as soon as it is done."""

    jobs: tuple[Job, ...]


class Recall(Struct, frozen=True, array_like=True, tag=4):
    """Do not start these any more: somebody else will."""

    numbers: tuple[int, ...]


class Check(Struct, frozen=True, array_like=True, tag=5):
    """Say what is wrong with this code."""

    number: int
    runtime: str
    code: bytes


class Prepare(Struct, frozen=True, array_like=True, tag=6):
    """Compile this code."""

    number: int
    runtime: str
    code: bytes
    flavour: str
    #: Address space that the child may use meanwhile; 0: all that it has.
    space_bytes: int = 0


ToChild: TypeAlias = Hello | Keep | Drop | Run | Recall | Check | Prepare


class RuntimeInfo(Struct, frozen=True, array_like=True):
    """One runtime that the child has, or why it has not."""

    name: str
    version: str
    prepares: bool
    missing: str = ""


class Ready(Struct, frozen=True, array_like=True, tag=0):
    """The child is locked in and waits."""

    layers: Several[Layer]
    runtimes: Several[RuntimeInfo]


class Done(Struct, frozen=True, array_like=True, tag=1):
    """The outcome of one job."""

    number: int
    completion: Completion


class Noted(Struct, frozen=True, array_like=True, tag=2):
    """Progress, a heartbeat or a log line of a job that runs."""

    number: int
    note: Note


class Checked(Struct, frozen=True, array_like=True, tag=3):
    """The answer to Check, and to a Prepare that failed."""

    number: int
    problems: Several[Problem]


class Prepared(Struct, frozen=True, array_like=True, tag=4):
    """The answer to Prepare."""

    number: int
    data: bytes


class Recalled(Struct, frozen=True, array_like=True, tag=5):
    """The answer to Recall: these were not started and never will be. The others are done or are being done."""

    numbers: Several[int]


FromChild: TypeAlias = Ready | Done | Noted | Checked | Prepared | Recalled

_encoder: Final = msgspec.msgpack.Encoder()
_to_child: Final[msgspec.msgpack.Decoder[ToChild]] = msgspec.msgpack.Decoder(ToChild)
_from_child: Final[msgspec.msgpack.Decoder[FromChild]] = msgspec.msgpack.Decoder(FromChild)


class BadFrame(Exception):
    """The other side sent something that is not a frame of ours."""


def encode_frame(message: ToChild | FromChild) -> bytes:
    """Return the frame of `message`."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Collects bytes and gives out the bodies of whole frames."""

    def __init__(self, cap_bytes: int = FRAME_BYTES_MAX) -> None:
        self._cap = cap_bytes
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies that are complete now. Raises BadFrame for a length above the cap."""
        self._bytes += data
        bodies, at = [], 0
        while len(self._bytes) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes, at)
            if length > self._cap:
                raise BadFrame(f"a frame of {length} bytes; the limit is {self._cap}")
            if len(self._bytes) - at - _LENGTH.size < length:
                break
            at += _LENGTH.size
            bodies.append(bytes(self._bytes[at : at + length]))
            at += length
        del self._bytes[:at]
        return bodies


def decode_from_child(body: bytes) -> FromChild:
    """Return the message. Raises BadFrame."""
    try:
        return _from_child.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame(str(error)) from error


class ChildPipe:
    """The child's end: blocking reads and writes of whole frames."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd, self._write_fd = read_fd, write_fd
        self._buffer = FrameBuffer()
        self._waiting: list[bytes] = []
        self._poll = select.poll()
        self._poll.register(read_fd, select.POLLIN)

    def receive(self) -> ToChild | None:
        """Wait for the next message; None when the worker is gone."""
        while not self._waiting:
            data = os.read(self._read_fd, _READ_BYTES)
            if not data:
                return None
            self._waiting = self._buffer.feed(data)
        return _to_child.decode(self._waiting.pop(0))

    def has_more(self) -> bool:
        """Tell, without waiting, whether a message may be read."""
        return bool(self._waiting) or bool(self._poll.poll(0))

    def send(self, message: FromChild) -> None:
        """Write one frame. Raises OSError when the worker is gone."""
        frame = memoryview(encode_frame(message))
        while frame:
            frame = frame[os.write(self._write_fd, frame) :]
