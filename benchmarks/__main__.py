"""`python -m benchmarks`: engine, workers and client as separate processes, on the store with fsync, through the jail.

Prints a table and, with --json, all figures. Every line is the median of its windows; the bare fdatasync rate of the
same run stands at the top, because on a shared machine a figure means little without it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import uvloop

from benchmarks.load import Batch, Load, unary
from benchmarks.processes import Stack, stack
from benchmarks.storage import bare_syncs
from benchmarks.workflows import SHAPES, STEPS, WAT, task
from windlass.client import Client
from windlass.definition.source import from_value


@dataclass
class Row:
    """One line of the table."""

    shape: str
    way: str
    in_flight: int
    workflows_per_second: float
    steps_per_second: float
    p50_ms: float
    p99_ms: float
    engine_us: float  #: CPU per workflow
    worker_us: float
    client_us: float
    failed: int


async def measure(running: Stack, shape: str, way: str, in_flight: int, seconds: float, windows: int) -> Row:
    """Warm up, then `windows` windows; the median by rate."""
    found: list[tuple[Load, dict[str, float]]] = []
    async with grpc.aio.insecure_channel(running.address) as channel:
        for window in range(windows + 1):
            before = running.cpu()
            if way == "batch":
                load = await Batch(channel, shape, in_flight).run(seconds if window else 1.0)
            else:
                load = await unary(channel, shape, in_flight, seconds if window else 1.0)
            after = running.cpu()
            if window:
                found.append((load, {name: after[name] - before[name] for name in after}))
    found.sort(key=lambda each: each[0].rate)
    load, cpu = found[len(found) // 2]
    per = 1e6 / max(load.finished, 1)
    return Row(
        shape,
        way,
        in_flight,
        round(load.rate, 1),
        round(load.rate * STEPS[shape], 1),
        round(statistics.median(each.median for each, _ in found), 2),
        round(load.percentile(0.99), 2),
        round(cpu["engine"] * per, 1),
        round(cpu["worker"] * per, 1),
        round(cpu["client"] * per, 1),
        load.failed,
    )


#: Slots of a worker with Python handlers: they run side by side on its event loop and in its threads.
HANDLERS_AT_ONCE = 64
#: shape, way, in flight
PLAN = (
    ("w1", "unary", 1),
    ("w2", "unary", 1),
    ("w3", "unary", 1),
    ("w1", "unary", 64),
    ("w1", "batch", 256),
    ("w2", "batch", 256),
    ("w3", "batch", 4),
)


async def register(running: Stack, runtime: str) -> None:
    """Put the workflows into the engine."""
    async with Client(running.address) as client:
        module = ""
        if runtime == "wasm":
            from wasmtime import wat2wasm

            module = "sha256:" + (await client.upload_module(bytes(wat2wasm(WAT)))).digest
        for build in SHAPES.values():
            await client.register(from_value(build(task(runtime, module))))


def show(rows: list[Row]) -> None:
    """The table for a person."""
    columns = ("wf/s", "steps/s", "p50 ms", "p99 ms", "eng µs", "wrk µs", "cli µs")
    print(f"{'shape':6}{'way':7}{'flight':>7}" + "".join(f"{name:>9}" for name in columns) + f"{'bad':>5}")
    for row in rows:
        print(
            f"{row.shape:6}{row.way:7}{row.in_flight:>7}{row.workflows_per_second:>9,.0f}{row.steps_per_second:>9,.0f}"
            f"{row.p50_ms:>9.2f}{row.p99_ms:>9.1f}{row.engine_us:>9,.0f}{row.worker_us:>9,.0f}{row.client_us:>9,.0f}{row.failed:>5}"
        )


def wanted(arguments: argparse.Namespace, shape: str, way: str, in_flight: int) -> bool:
    """Whether `--only` names this line, as `w1`, `w1-batch` or `w1-unary-64`."""
    names = {shape, f"{shape}-{way}", f"{shape}-{way}-{in_flight}"}
    return not arguments.only or not names.isdisjoint(arguments.only.split(","))


def save(path: str, rows: list[Row], syncs: float) -> None:
    """All figures, for programs."""
    found = {"machine": platform.platform(), "syncs_per_second": syncs, "rows": [asdict(row) for row in rows]}
    Path(path).write_text(json.dumps(found, indent=1))


async def main(arguments: argparse.Namespace) -> int:
    """Run the plan."""
    directory = Path(tempfile.mkdtemp(prefix="windlass-bench-", dir=arguments.dir))
    syncs = bare_syncs(directory)
    python = arguments.runtime == "python"
    slots = arguments.slots or (HANDLERS_AT_ONCE if python else 2)
    options = ["--slots", str(slots)]
    options += ["--handlers", "benchmarks.handlers"] if python else ["--runtimes", arguments.runtime]
    rows: list[Row] = []
    of = f"{arguments.workers} worker(s) of {slots} slots"
    print(f"bare fdatasync: {len(syncs) / sum(syncs):,.0f}/s   runtime {arguments.runtime}, {of}")
    with stack(directory, storage=arguments.storage, workers=arguments.workers, worker_options=options) as running:
        await ready(running, arguments.runtime)
        for shape, way, in_flight in PLAN:
            if not wanted(arguments, shape, way, in_flight):
                continue
            rows.append(await measure(running, shape, way, in_flight, arguments.seconds, arguments.windows))
            show(rows[-1:]) if len(rows) > 1 else show(rows)
        memory = running.memory()
        print(f"own memory: engine {memory['engine']:.0f} MB, workers with slots {memory['workers']:.0f} MB")
    if arguments.json:
        save(arguments.json, rows, len(syncs) / sum(syncs))
    return 0 if not any(row.failed for row in rows) else 1


async def ready(running: Stack, runtime: str) -> None:
    """Wait until the engine answers and the workers are there."""
    async with grpc.aio.insecure_channel(running.address) as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
    await register(running, runtime)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runtime", choices=("javascript", "wasm", "python"), default="javascript")
    parser.add_argument("--storage", default="", help="as for windlass engine; default the embedded store with fsync")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--slots", type=int, default=0, help="of each worker; default 2, or 64 for Python handlers")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--only", default="", help="lines, comma-separated: w1, w1-batch, w1-unary-64")
    parser.add_argument("--dir", default=None, help="where the data directory is made")
    parser.add_argument("--json", default="", help="file for all figures")
    sys.exit(uvloop.run(main(parser.parse_args())))
