"""`python -m benchmarks`: engine, workers and client as separate processes, on the store with fsync, through the jail.

Prints a table and, with --json, writes all figures. Each figure is the median over the windows of its line. The bare
fdatasync rate of the same run, before and after, stands at the top: on a shared machine a figure means little without
it, and then the CPU per workflow says more than the rate.

Columns: `flight` workflows are open at any time; p50 and p99 are of a workflow from its start to its end as the client
sees it; CPU per workflow by process (worker: with its slots); `tx` transactions of the store per workflow; `syncs`
commits to disk per workflow, because transactions share them.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import grpc
import uvloop

from benchmarks.load import Batch, Load, Unary, started
from benchmarks.machine import facts, headline
from benchmarks.processes import Stack, stack, store_of
from benchmarks.report import HEAD, TARGETS, Row, cells, save, shown
from benchmarks.storage import bare_syncs
from benchmarks.workflows import SHAPES, STEPS, WAT, task
from windlass.client import Client
from windlass.definition.source import from_value

#: Slots of a worker with Python handlers: they run side by side on its event loop and in its threads.
HANDLERS_AT_ONCE: Final = 256
#: shape, way, in flight
PLAN: Final = (
    ("w1", "unary", 1),
    ("w2", "unary", 1),
    ("w3", "unary", 1),
    ("w1", "unary", 64),
    ("w1", "unary", 256),
    ("w1", "batch", 64),
    ("w1", "batch", 256),
    ("w2", "batch", 64),
    ("w2", "batch", 256),
    ("w3", "batch", 4),
    ("w3", "batch", 64),
)


async def measure(running: Stack, client: Client, line: tuple[str, str, int], seconds: float, windows: int) -> Row:
    """Warm up, then cut the windows out of one long run."""
    shape, way, in_flight = line
    found: list[tuple[Load, dict[str, float]]] = []
    async with grpc.aio.insecure_channel(running.address) as channel:
        kind = Batch if way == "batch" else Unary
        async with started(kind(channel, shape, in_flight)) as loop:
            length = await loop.warm(seconds)
            for _ in range(windows):
                before = await used(running, client)
                load = await loop.window(length)
                after = await used(running, client)
                found.append((load, {name: after[name] - before[name] for name in after}))
    return summary(line, found, running.memory())


async def used(running: Stack, client: Client) -> dict[str, float]:
    """CPU seconds by process, transactions and syncs so far."""
    counters = (await client.info()).counters
    return {**running.cpu(), "transactions": counters["transactions"], "commits": counters["commits"]}


def summary(line: tuple[str, str, int], found: list[tuple[Load, dict[str, float]]], memory: dict[str, float]) -> Row:
    """The medians over the windows."""

    def per(name: str, scale: float) -> float:
        return median(use[name] * scale / max(load.finished, 1) for load, use in found)

    rate = median(load.rate for load, _ in found)
    return Row(
        *line,
        workflows_per_second=rate,
        steps_per_second=rate * STEPS[line[0]],
        p50_ms=median(load.median for load, _ in found),
        p99_ms=median(load.percentile(0.99) for load, _ in found),
        engine_us=per("engine", 1e6),
        worker_us=per("worker", 1e6),
        client_us=per("client", 1e6),
        store_us=per("store", 1e6),
        transactions=per("transactions", 1),
        syncs=per("commits", 1),
        failed=sum(load.failed for load, _ in found),
        windows=[round(load.rate, 1) for load, _ in found],
        memory_mb=memory,
    )


def median(values: Iterable[float]) -> float:
    """The median, rounded as far as it means anything."""
    return round(statistics.median(values), 3)


async def register(client: Client, runtime: str) -> None:
    """Put the workflows into the engine."""
    module = ""
    if runtime == "wasm":
        from wasmtime import wat2wasm

        module = "sha256:" + (await client.upload_module(bytes(wat2wasm(WAT)))).digest
    for build in SHAPES.values():
        await client.register(from_value(build(task(runtime, module))))


def worker_options(runtime: str, slots: int) -> list[str]:
    """Python handlers need no jail: without `--runtimes python` their worker would keep a child for each slot."""
    if runtime == "python":
        at_once = str(slots or HANDLERS_AT_ONCE)
        return ["--slots", at_once, "--runtimes", "python", "--handlers", "benchmarks.handlers"]
    return ["--slots", str(slots or 2), "--runtimes", runtime]


def wanted(only: str, shape: str, way: str, in_flight: int) -> bool:
    """Whether `--only` names this line, as `w1`, `w1-batch` or `w1-unary-64`."""
    names = {shape, f"{shape}-{way}", f"{shape}-{way}-{in_flight}"}
    return not only or not names.isdisjoint(only.split(","))


def listening(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


async def ready(address: str) -> None:
    """Wait until the engine answers. Looks at the port first, because gRPC waits a second after a refusal."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(60):
        while not listening(host, int(port)):  # noqa: ASYNC110 - it is another process that must come so far
            await asyncio.sleep(0.005)
    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.wait_for(channel.channel_ready(), 60)


async def lines(arguments: argparse.Namespace, running: Stack) -> list[Row]:
    """Run the plan."""
    rows: list[Row] = []
    await ready(running.address)
    async with Client(running.address) as client:
        await register(client, arguments.runtime)
        for line in PLAN:
            if not wanted(arguments.only, *line):
                continue
            row = await measure(running, client, line, arguments.seconds, arguments.windows)
            if arguments.storage in ("", "embedded"):
                row.verdicts = [target.verdict(row) for target in TARGETS.get((arguments.runtime, *line), ())]
            print(f"… {' '.join(line[:2])} {line[2]}: {row.workflows_per_second:,.0f}/s", file=sys.stderr, flush=True)
            rows.append(row)
    return rows


async def main(arguments: argparse.Namespace) -> int:
    """Measure, print, write."""
    directory = Path(tempfile.mkdtemp(prefix="windlass-bench-", dir=arguments.dir))
    found = facts()
    options = worker_options(arguments.runtime, arguments.slots)
    syncs = bare_syncs(directory)
    with store_of(arguments.storage) as (storage, store_pid):
        workers = arguments.workers
        using = stack(directory, storage=storage, workers=workers, worker_options=options, store_pid=store_pid)
        with using as running:
            rows = await lines(arguments, running)
            memory = running.memory()
    syncs += bare_syncs(directory)
    shutil.rmtree(directory)
    per_second = round(len(syncs) / sum(syncs))
    store = arguments.storage or "embedded"
    print(headline(found))
    print(f"store {store}, runtime {arguments.runtime}, {arguments.workers} worker(s) with {' '.join(options)}", end="")
    print(f", {arguments.windows} windows of {arguments.seconds:g} s; bare fdatasync here: {per_second:,}/s\n")
    print(shown(HEAD, [cells(row) for row in rows], for_page=arguments.markdown))
    print("\nown memory at the end, MB: " + ", ".join(f"{name} {value:,.0f}" for name, value in memory.items()))
    if arguments.json:
        save(arguments.json, found, rows, syncs_per_second=per_second, runtime=arguments.runtime, storage=store)
    return 1 if any(row.failed for row in rows) else 0


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runtime", choices=("javascript", "wasm", "python"), default="javascript")
    parser.add_argument("--storage", default="", help="as for windlass engine, or `postgres` for a server of its own")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--slots", type=int, default=0, help="of each worker; default 2, or 256 for Python handlers")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--only", default="", help="lines, comma-separated: w1, w1-batch, w1-unary-64")
    parser.add_argument("--dir", default=None, help="where the data directory is made")
    parser.add_argument("--json", default="", help="file for all figures")
    parser.add_argument("--markdown", action="store_true", help="print the table for a page")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(uvloop.run(main(parsed())))
