"""An engine that is frozen: the kernel still takes connections for it, and nobody ever speaks."""

from __future__ import annotations

import asyncio

from tests.worker.conftest import StartWorker


async def test_a_worker_that_registers_with_a_frozen_engine_still_stops(start_worker: StartWorker) -> None:
    """gRPC does not wake who sends on a call that never began, whatever happens to the call."""
    reached = asyncio.Event()

    writers: list[asyncio.StreamWriter] = []

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        reached.set()
        await reader.read()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        worker, running = await start_worker(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await reached.wait()
        worker.drain()
        ended, _ = await asyncio.wait([running], timeout=8)
        assert ended
        for writer in writers:
            writer.close()
            await writer.wait_closed()
