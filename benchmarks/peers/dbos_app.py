"""The same three workflows on DBOS. Runs in DBOS's own environment and imports nothing of ours.

    dbos_app.py app URL       runs workflows in this process, in a closed loop
    dbos_app.py worker URL    takes them from a queue
    dbos_app.py client URL    puts them into the queue and waits for their results, in a closed loop

`app` and `client` read commands, a line each, and answer each with a line of JSON: `go SHAPE IN_FLIGHT` begins the
loop, `cut` gives what ended since the last cut, `end` stops the loop. All of them end when their input does.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

dbos: Any = importlib.import_module("dbos")
DBOS: Any = dbos.DBOS
QUEUE = "bench"
POLL_SECONDS = 0.01


async def double_plain(x: int) -> int:
    return x * 2


double: Any = DBOS.step()(double_plain)


async def w1_plain(x: int) -> int:
    return int(await double(x))


async def w2_plain(x: int) -> int:
    for _ in range(10):
        x = await double(x)
    return x


async def w3_plain(x: int) -> int:
    return sum(await asyncio.gather(*[double(item) for item in range(100)]))


WORKFLOWS: dict[str, Any] = {
    "w1": DBOS.workflow(name="w1")(w1_plain),
    "w2": DBOS.workflow(name="w2")(w2_plain),
    "w3": DBOS.workflow(name="w3")(w3_plain),
}


class Closed:
    """A closed loop and what ended in it."""

    def __init__(self, call: Callable[[], Awaitable[Any]], in_flight: int) -> None:
        self._call = call
        self._going = True
        self._latencies: list[float] = []
        self._failed = 0
        self._callers = [asyncio.create_task(self._caller()) for _ in range(in_flight)]

    async def _caller(self) -> None:
        while self._going:
            began = time.perf_counter()
            try:
                await self._call()
                self._latencies.append((time.perf_counter() - began) * 1000)
            except Exception as error:  # noqa: BLE001 - whatever it was, it is counted and said
                print(f"a workflow failed: {error!r}", file=sys.stderr)
                self._failed += 1

    def cut(self) -> dict[str, Any]:
        found = {"latencies_ms": self._latencies, "failed": self._failed}
        self._latencies, self._failed = [], 0
        return found

    async def end(self) -> None:
        self._going = False
        await asyncio.gather(*self._callers)


def enqueued(client: Any, shape: str) -> Callable[[], Awaitable[Any]]:
    """A call that goes through the queue."""

    async def call() -> Any:
        handle = await client.enqueue_async({"queue_name": QUEUE, "workflow_name": shape}, 1)
        return await handle.get_result(polling_interval_sec=POLL_SECONDS)

    return call


async def serve(call_of: Callable[[str], Callable[[], Awaitable[Any]]]) -> None:
    """Commands from the input until it ends."""
    say({"ready": os.getpid()})
    closed: Closed | None = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        command, *rest = line.split()
        if command == "go":
            closed = Closed(call_of(rest[0]), int(rest[1]))
            say({})
        elif closed is not None:
            if command == "end":
                await closed.end()
            say(closed.cut())


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


async def main(role: str, url: str) -> None:
    if role == "client":
        client = dbos.DBOSClient(system_database_url=url)
        await serve(lambda shape: enqueued(client, shape))
        return
    config = {"name": "bench", "system_database_url": url, "log_level": "ERROR", "executor_id": f"{role}-{os.getpid()}"}
    config["application_version"] = "bench"
    DBOS(config=config)
    DBOS.launch()
    if role == "worker":
        await DBOS.register_queue_async(QUEUE, polling_interval_sec=POLL_SECONDS)
        say({"ready": os.getpid()})
        await asyncio.to_thread(sys.stdin.read)
    else:
        await serve(lambda shape: lambda: WORKFLOWS[shape](1))


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(*sys.argv[1:3]))
    sys.stdout.flush()
    os._exit(0)  # its threads would poll on
