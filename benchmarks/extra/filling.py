"""Fills an engine with runs, and waits for what only a look can tell."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from benchmarks.__main__ import ready, register
from windlass.client import Client
from windlass.definition.source import from_value
from windlass.v1 import workflow_service_pb2 as wire
from windlass.v1.queue_service_pb2 import Worker

#: A run that waits for a signal, and one that closes in the transaction that starts it.
WAITING: Final[dict[str, Any]] = {"workflow": "waiting", "initial": "hold", "states": {"hold": {"wait": "go"}}}
INSTANT: Final[dict[str, Any]] = {"workflow": "instant", "initial": "end", "states": {"end": {}}}


async def prepare(client: Client, address: str, runtime: str, *more: dict[str, Any]) -> None:
    """Wait for the engine and register the workflows: those of the main table, the two above, and `more`."""
    await ready(address)
    await register(client, runtime)
    for document in (WAITING, INSTANT, *more):
        await client.register(from_value(document))


def starts(client: Client, workflow: str, number: int, value: object = None) -> Iterator[wire.StartRunRequest]:
    """The same start again and again, without an id: nothing of it is kept but the run."""
    request = client.start_request(workflow, value)
    request.request_id = ""
    return itertools.repeat(request, number)


async def fill(client: Client, workflow: str, number: int, value: object = None) -> float:
    """Start so many runs; the seconds it took. Raises RuntimeError when one is refused."""
    began = time.perf_counter()
    async for outcome in client.stream(starts(client, workflow, number, value)):
        if outcome.error is not None:
            raise RuntimeError(f"a start of {workflow} was refused: {outcome.error}")
    return time.perf_counter() - began


async def until(true: Callable[[], Awaitable[bool]], every: float = 0.01, patience: float = 120) -> None:
    """Look again and again. Raises TimeoutError."""
    async with asyncio.timeout(patience):
        while not await true():  # noqa: ASYNC110 - it is another process that must come so far
            await asyncio.sleep(every)


async def registered(client: Client) -> bool:
    """Whether a worker is there, and connected."""
    return any([worker.state == Worker.STATE_LIVE async for worker in client.workers()])
