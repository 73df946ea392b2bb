"""`python -m benchmarks.extra [name…]`: what happens with very many runs, very long ones, and after crashes.

    backlog        runs are queued without a worker, then drained by one
    open-waits     an idle engine with many runs in a wait
    cold-start     processes from nothing to their first answer
    restart        an engine killed with many open runs
    long-history   one run with very many events
    growth         the cost of a run beside ever more open and closed ones
    recovery       a worker killed under load
    eager          tasks that come with the answers to starts and results

All of them without a name. Sizes are those of the targets; --size and --sizes make them smaller to try.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

from benchmarks.extra.coming import TRIES, cold_start, restart
from benchmarks.extra.eager import eager
from benchmarks.extra.figures import HEAD, Asked, Figure, Measurement
from benchmarks.extra.growth import growth
from benchmarks.extra.long import long_history
from benchmarks.extra.recovery import recovery
from benchmarks.extra.standing import backlog, open_waits
from benchmarks.machine import facts, headline
from benchmarks.report import save, shown


class Kind(NamedTuple):
    """A measurement, its sizes and the length of its windows, when nothing else is asked for."""

    measurement: Measurement
    sizes: tuple[int, ...]
    seconds: float


KINDS: Final = {
    "cold-start": Kind(cold_start, (TRIES,), 0),
    "recovery": Kind(recovery, (100,), 2),
    "eager": Kind(eager, (500,), 0),
    "open-waits": Kind(open_waits, (100_000,), 20),
    "restart": Kind(restart, (100_000,), 0),
    "backlog": Kind(backlog, (100_000,), 0),
    "growth": Kind(growth, (1_000, 10_000, 100_000, 1_000_000), 3),
    "long-history": Kind(long_history, (1_000_000,), 2),
}


async def main(arguments: argparse.Namespace) -> int:
    """Measure, print, write."""
    found = facts()
    figures: list[Figure] = []
    for name in arguments.names or KINDS:
        kind = KINDS[name]
        directory = Path(tempfile.mkdtemp(prefix="windlass-bench-", dir=arguments.dir))
        given = arguments.sizes if name == "growth" else (arguments.size,) if arguments.size else ()
        asked = Asked(directory, tuple(given) or kind.sizes, arguments.seconds or kind.seconds, arguments.runtime)
        print(f"… {name}: {', '.join(f'{size:,}' for size in asked.sizes)}", file=sys.stderr, flush=True)
        try:
            figures += await kind.measurement(asked)
        finally:
            shutil.rmtree(directory)
        if arguments.json:
            save(arguments.json, found, figures, runtime=arguments.runtime)
    print(headline(found), end="\n\n")
    print(shown(HEAD, [figure.cells() for figure in figures], for_page=arguments.markdown))
    return 0


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extra", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="name", choices=[[], *KINDS])
    parser.add_argument("--size", type=int, default=0, help="runs, events or tries, instead of the target's")
    parser.add_argument("--sizes", type=int, nargs="+", default=(), help="the same for growth, which takes several")
    parser.add_argument("--seconds", type=float, default=0.0, help="length of a window")
    parser.add_argument("--runtime", choices=("javascript", "wasm", "python"), default="javascript")
    parser.add_argument("--dir", default=None, help="where the data directories are made")
    parser.add_argument("--json", default="", help="file for all figures")
    parser.add_argument("--markdown", action="store_true", help="print the table for a page")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(uvloop.run(main(parsed())))
