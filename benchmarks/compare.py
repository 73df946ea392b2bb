"""`python -m benchmarks.compare`: Restate (tuned) and DBOS beside Windlass, on this machine, in the same run.

The peers are installed under a temporary directory (--peers keeps one) by npm and pip as they are set up here; if one
cannot be had, that is said and the others are compared. Everything is up at once, one system has work at a time, and
each shape is measured on all of them before the next shape comes. All of them sync to disk before they answer.

*Dispatched*: a step is a durable unit that is handed to another process. *In-process*: the step runs inside of the
process that runs the workflow, and only its result is recorded; no peer runs it in a sandbox. Windlass's tasks are
dispatched, and run in the sandbox. The clients are closed loops in this one process: HTTP/1.1 for Restate, gRPC for
Windlass; DBOS has its loops inside of its own processes. Their CPU comes out of the same cores and has its column.

`Windlass is × ahead`: its steps per second, by whichever of its two ways is faster, over those of the line; with one in
flight, the line's p50 over Windlass's.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from benchmarks.load import Load, started
from benchmarks.machine import facts, headline
from benchmarks.peers.dbos_side import dbos
from benchmarks.peers.installing import CannotInstall, install_dbos, install_restate
from benchmarks.peers.restate_side import restate
from benchmarks.peers.sides import HEAD, Compared, Side
from benchmarks.peers.windlass_side import windlass
from benchmarks.report import save, shown
from benchmarks.storage import bare_syncs
from benchmarks.workflows import STEPS

#: shape, in flight
PLAN: Final = (("w1", 1), ("w2", 1), ("w3", 1), ("w1", 64), ("w1", 256), ("w2", 64), ("w2", 256), ("w3", 4))


async def measure(side: Side, shape: str, in_flight: int, seconds: float, windows: int) -> Compared | None:
    """Medians over the windows; None if the system does not do this."""
    loop = side.loop(shape, in_flight)
    if loop is None:
        return None
    found: list[tuple[Load, dict[str, float]]] = []
    async with started(loop):
        length = await loop.warm(seconds)
        for _ in range(windows):
            before = side.cpu()
            load = await loop.window(length)
            after = side.cpu()
            found.append((load, {name: after[name] - before[name] for name in after}))

    def per_workflow(name: str) -> float:
        return statistics.median(used[name] * 1e6 / max(load.finished, 1) for load, used in found)

    rate = statistics.median(load.rate for load, _ in found)
    return Compared(
        side.system,
        side.task,
        shape,
        in_flight,
        rate,
        rate * STEPS[shape],
        statistics.median(load.median for load, _ in found),
        statistics.median(load.percentile(0.99) for load, _ in found),
        per_workflow("server"),
        per_workflow("worker"),
        per_workflow("client"),
        sum(load.failed for load, _ in found),
        [round(load.rate, 1) for load, _ in found],
    )


def rated(lines: Sequence[Compared]) -> list[Compared]:
    """Lines of one shape and number in flight, with how far Windlass is ahead of each."""
    own = [line for line in lines if line.system.startswith("Windlass")]
    for line in lines:
        if line.in_flight == 1:
            line.ahead = line.p50_ms / min(each.p50_ms for each in own)
        else:
            fastest = max(each.steps_per_second for each in own)
            line.ahead = fastest / line.steps_per_second if line.steps_per_second else 0.0
    return list(lines)


class Peer(NamedTuple):
    """How a peer is had and brought up: with a directory for its data, and the one where it is installed."""

    name: str
    install: Callable[[Path], dict[str, str]]
    up: Callable[[Path, Path], AbstractAsyncContextManager[Sequence[Side]]]


PEERS: Final = (Peer("restate", install_restate, restate), Peer("dbos", install_dbos, dbos))


def made(directory: Path) -> Path:
    """The directory, which is there from now on."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory


async def sides(arguments: argparse.Namespace, directory: Path, stack: AsyncExitStack) -> tuple[list[Side], list[str]]:
    """Everything that could be had, up, Windlass first; and what there is to say about it."""
    found: list[Side] = []
    said: list[str] = []
    for peer in PEERS:
        if peer.name not in arguments.only:
            continue
        try:
            installed = made((arguments.peers or directory / "peers") / peer.name)
            versions = peer.install(installed)
            found += await stack.enter_async_context(peer.up(made(directory / peer.name), installed))
            said.append(f"{peer.name}: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
        except (CannotInstall, OSError, TimeoutError, RuntimeError, subprocess.CalledProcessError) as error:
            said.append(f"{peer.name} is not compared: {error!r}")
    own = await stack.enter_async_context(windlass(made(directory / "windlass"), arguments.runtime))
    return [*own, *found], said


async def main(arguments: argparse.Namespace) -> int:
    """Install, measure, print, write."""
    directory = Path(tempfile.mkdtemp(prefix="windlass-compare-", dir=arguments.dir))
    found = facts()
    rows: list[Compared] = []
    try:
        async with AsyncExitStack() as stack:
            systems, said = await sides(arguments, directory, stack)
            print("\n".join(f"… {line}" for line in said), file=sys.stderr, flush=True)
            syncs = bare_syncs(directory)
            for shape, in_flight in PLAN:
                if arguments.shapes and shape not in arguments.shapes.split(","):
                    continue
                lines: list[Compared] = []
                for side in systems:
                    line = await measure(side, shape, in_flight, arguments.seconds, arguments.windows)
                    lines += [line] if line is not None else []
                print(f"… {shape}, {in_flight} in flight: {len(lines)} systems", file=sys.stderr, flush=True)
                rows += rated(lines)
            syncs += bare_syncs(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    per_second = round(len(syncs) / sum(syncs))
    print(headline(found), *said, sep="\n")
    print(f"{arguments.windows} windows of {arguments.seconds:g} s; bare fdatasync here: {per_second:,}/s\n")
    print(shown(HEAD, [row.cells() for row in rows], for_page=arguments.markdown))
    if arguments.json:
        save(arguments.json, found, rows, peers=said, syncs_per_second=per_second)
    return 1 if any(row.failed for row in rows) else 0


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=("restate", "dbos"), default=("restate", "dbos"))
    parser.add_argument("--shapes", default="", help="w1,w2,w3")
    parser.add_argument("--runtime", choices=("javascript", "wasm", "python"), default="javascript")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument(
        "--peers", type=Path, default=None, help="a directory to install the peers in, kept for the next run"
    )
    parser.add_argument("--dir", default=None, help="where the data directories are made")
    parser.add_argument("--json", default="", help="file for all figures")
    parser.add_argument("--markdown", action="store_true", help="print the table for a page")
    arguments = parser.parse_args(words)
    arguments.peers = arguments.peers and arguments.peers.absolute()
    return arguments


if __name__ == "__main__":
    sys.exit(uvloop.run(main(parsed())))
