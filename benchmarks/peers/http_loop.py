"""A closed loop over HTTP/1.1: one connection per caller, one POST at a time on each, as `wrk` does.

It is written for this one use, as cheap as Python goes: the request is made once, and of the answer only the status,
the length and the end are looked at. Its CPU comes out of the same cores all the same and stands in the table.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

from benchmarks.load import Loop


class _Caller(asyncio.Protocol):
    """A connection."""

    def __init__(self, loop: HttpLoop) -> None:
        self._loop = loop
        self._gathered = b""
        self._began = 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases
        self._send()

    def _send(self) -> None:
        if not self._loop.going:
            self._transport.close()
            return
        self._began = time.perf_counter()
        self._transport.write(self._loop.request)

    def data_received(self, data: bytes) -> None:
        self._gathered += data
        head, blank, body = self._gathered.partition(b"\r\n\r\n")
        if not blank or len(body) < _length(head):
            return
        self._gathered = b""
        self._loop.took(self._began, head.startswith(b"HTTP/1.1 200"))
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        if self.closed.done():
            return
        if self._loop.going:
            self.closed.set_exception(error or ConnectionError("the server closed a connection under load"))
        else:
            self.closed.set_result(None)


def _length(head: bytes) -> int:
    """Content-Length of an answer. Raises ValueError for an answer without one."""
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at < 0:
        raise ValueError(f"an answer without a length: {head!r}")
    return int(lower[at + 15 :].split(b"\r\n", 1)[0])


class HttpLoop(Loop):
    """POSTs of the same JSON to the same path."""

    def __init__(self, port: int, path: str, body: bytes, in_flight: int) -> None:
        super().__init__(in_flight)
        self._port = port
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        self.request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        callers = [
            (await loop.create_connection(lambda: _Caller(self), "127.0.0.1", self._port))[1]
            for _ in range(self.in_flight)
        ]
        await asyncio.gather(*(caller.closed for caller in callers))
