"""A TCP proxy that cuts: between workers or clients and an engine, connections break, hang, or crawl when told to."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, Self

_CHUNK: Final = 1 << 16


class CuttingProxy:
    """Listens on a port of its own and forwards to `target`. Nothing is ever reordered or changed: TCP would not."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.cuts = 0  #: connections broken by `cut`
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._pairs: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._end_all()

    async def cut(self) -> None:
        """Break every connection; new ones are broken at once until `restore`."""
        self._refusing = True
        self.cuts += len(self._pairs)
        await self._end_all()

    def hang(self) -> None:
        """Connections stay up and nothing passes, until `restore`: what a lost route looks like."""
        self._flowing.clear()

    def restore(self) -> None:
        """Let everything through again."""
        self._refusing = False
        self._flowing.set()

    async def _end_all(self) -> None:
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cancel()
        await asyncio.gather(*pairs, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        try:
            if not self._refusing:
                await self._forward(reader, writer)
        except (OSError, asyncio.CancelledError):
            return  # cut by us, or the engine is not there: both sides see a broken connection
        finally:
            self._pairs.discard(task)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        pumps = [asyncio.ensure_future(self._pump(reader, back)), asyncio.ensure_future(self._pump(there, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            back.transport.abort()
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_CHUNK):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
