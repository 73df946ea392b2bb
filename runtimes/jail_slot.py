"""The worker's side of one child process: start it, talk to it, kill it.

The child is spawned (`subprocess`, a new program; never a fork that would inherit sockets and threads) with an empty
environment, in "/", with three pipes and nothing else. It must be started from the event loop's own thread, and that
thread must live as long as the worker: the kernel's parent-death signal follows the thread that started the child.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import IO, Final

from windlass.runtimes.jail_frames import (
    BadFrame,
    Drop,
    FrameBuffer,
    FromChild,
    Hello,
    Keep,
    Ready,
    ToChild,
    decode_from_child,
    encode_frame,
)

CHILD_COMMAND: Final = (sys.executable, "-I", "-m", "windlass.runtimes.child")
_PIPE_BYTES: Final = 1 << 20
_LAST_WORDS_BYTES: Final = 4096
#: Engines say nothing there in a healthy life.
_WORDS_BYTES_MAX: Final = 1 << 20


class ChildEnds(asyncio.Protocol):
    """Bytes of one pipe, handed on; told when it ends."""

    def __init__(self, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._on_data, self._on_end = on_data, on_end

    def data_received(self, data: bytes) -> None:
        """Hand on what arrived."""
        self._on_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that nothing more comes."""
        self._on_end()


class Child:
    """One child process. Its messages go to `on_messages`, its end (by itself or by `kill`) once to `on_end`."""

    def __init__(
        self,
        on_messages: Callable[[Child, list[FromChild]], None],
        on_end: Callable[[Child, str], None],
        kept_bytes_max: int,
    ) -> None:
        self._on_messages, self._on_end = on_messages, on_end
        self._kept_bytes_max = kept_bytes_max
        self._kept: OrderedDict[str, int] = OrderedDict()
        self._frames = FrameBuffer()
        self._last_words = b""
        self._words_left = _WORDS_BYTES_MAX
        self._process: subprocess.Popen[bytes] | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self._writer: asyncio.WriteTransport | None = None
        self._reader: asyncio.ReadTransport | None = None
        self._leaving_alone: asyncio.TimerHandle | None = None
        self._reaping: asyncio.Task[None] | None = None
        #: Set when the process has ended and was collected.
        self.ended = asyncio.Event()
        self.ready: Ready | None = None
        #: What ended it when that was us: "" while it lives or when it ended by itself.
        self.killed_because = ""

    @property
    def pid(self) -> int:
        """The process id; 0 before the start."""
        return self._process.pid if self._process else 0

    async def start(self, command: Sequence[str], hello: Hello) -> None:
        """Start the process and say Hello. It is usable when its Ready has come."""
        process = subprocess.Popen(  # noqa: ASYNC220 - must be this thread, see above; a spawn takes about 1 ms
            command,
            env={},
            cwd="/",
            close_fds=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._process = process
        loop = asyncio.get_running_loop()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(PermissionError):  # an unprivileged user over its pipe quota: smaller pipes do
                fcntl.fcntl(_file(pipe), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, _file(process.stdin))
        self._reader, _ = await loop.connect_read_pipe(
            lambda: ChildEnds(self._data, self._ended), _file(process.stdout)
        )
        words, _ = await loop.connect_read_pipe(lambda: ChildEnds(self._words, _nothing), _file(process.stderr))
        self._transports = [self._writer, self._reader, words]
        self.send(hello)

    def send(self, *messages: ToChild) -> None:
        """Write messages, in order. Nothing is lost when the child is gone: its end is reported anyway."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(b"".join(map(encode_frame, messages)))

    def leave_alone(self, seconds: float) -> None:
        """Let what it says gather in its pipe for a while: each waking of this process takes a core from a child."""
        if self._leaving_alone is None and self._reader is not None and not self.killed_because:
            self._reader.pause_reading()
            self._leaving_alone = asyncio.get_running_loop().call_later(seconds, self._listen)

    def _listen(self) -> None:
        if self._leaving_alone is not None and self._reader is not None:
            self._leaving_alone.cancel()
            self._leaving_alone = None
            if not self._reader.is_closing():
                self._reader.resume_reading()

    def keep(self, name: str, data: bytes) -> list[ToChild]:
        """Return the messages that make the child know `data` under `name`, and forget what it used longest ago."""
        if name in self._kept:
            self._kept.move_to_end(name)
            return []
        self._kept[name] = len(data)
        dropped: list[ToChild] = []
        while sum(self._kept.values()) > self._kept_bytes_max and len(self._kept) > 2:
            oldest, _ = self._kept.popitem(last=False)
            dropped.append(Drop(oldest))
        return [*dropped, Keep(name, data)]

    def kill(self, because: str) -> None:
        """End it now, whatever it does."""
        if self._process is not None and not self.killed_because:
            self.killed_because = because
            self._process.kill()
            self._listen()

    def _data(self, data: bytes) -> None:
        try:
            messages = [decode_from_child(body) for body in self._frames.feed(data)]
        except BadFrame as error:
            self.kill(f"it wrote garbage: {error}")
            return
        if self.ready is None and messages and isinstance(messages[0], Ready):
            self.ready = messages[0]
        elif any(isinstance(message, Ready) for message in messages):
            self.kill("it said something that nobody asked for")  # before anybody takes what it says of itself for true
        if messages and not self.killed_because:
            self._on_messages(self, messages)

    def _words(self, data: bytes) -> None:
        self._last_words = (self._last_words + data)[-_LAST_WORDS_BYTES:]
        self._words_left -= len(data)
        if self._words_left < 0:
            self.kill("it wrote to its standard error without end")

    def _ended(self) -> None:
        if self._process is not None:
            self._process.kill()  # it closed its pipe, whatever else it may still be doing
            self._reaping = asyncio.get_running_loop().create_task(self._reap(self._process))

    async def _reap(self, process: subprocess.Popen[bytes]) -> None:
        try:
            code = await asyncio.to_thread(process.wait)
        except RuntimeError:  # the system starts no more threads
            code = process.wait()  # which takes a moment: it was killed just now
        for transport in self._transports:
            transport.close()
        self.ended.set()
        self._on_end(self, self.killed_because or self._story(code))

    def _story(self, code: int) -> str:
        words = self._last_words.decode("utf-8", "replace").strip()
        end = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                end = signal.Signals(-code).name
        return f"{end}; it said: {words[-500:]}" if words else end


def _file(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # all three were asked for
    return pipe


def _nothing() -> None:
    return None


def hello_for(runtimes: Sequence[str], address_space_bytes: int) -> Hello:
    """Return the first message to a child of this process."""
    return Hello(tuple(runtimes), address_space_bytes, os.getpid())
