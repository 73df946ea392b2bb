"""Counts over many rows: runs by state, tasks by queue.

Theory of operation: an answer is of one moment as far as one moment can be had. FoundationDB keeps a snapshot for five
seconds, so a look reads at most LOOK_ROWS rows with LOOK_READS reads, and what is left is read by later looks. A store
with fewer rows than that is counted exactly; in a larger one, what moves while it is counted may count twice, or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from windlass.engine import keys
from windlass.engine.reading import STATES, workflows
from windlass.storage.port import Row, Storage, Transaction

LOOK_ROWS: Final = 50_000
LOOK_READS: Final = 500
PAGE: Final = 5000


async def count_runs(storage: Storage, ns: str, names: Sequence[str]) -> dict[str, int]:
    """Runs per state, counted over the index; of these workflows, or of all."""
    names = names or await storage.read(lambda tr: workflows(tr, ns))
    heads = [keys.listing(ns, name, status) for name in names for status in STATES]
    counts = dict.fromkeys(STATES, 0)

    def see(at: int, rows: Sequence[Row]) -> None:
        counts[STATES[at % len(STATES)]] += len(rows)

    await survey(storage, heads, see)
    return counts


async def survey(storage: Storage, heads: Sequence[bytes], see: Callable[[int, Sequence[Row]], None]) -> None:
    """Show all rows below each of `heads`, in order and in pages, to `see`, with the place of their head."""
    at, begin = 0, b""
    while at < len(heads):
        pages, at, begin = await storage.read(partial(_look, heads, at, begin))
        for place, rows in pages:
            see(place, rows)


async def _look(
    heads: Sequence[bytes], at: int, begin: bytes, tr: Transaction
) -> tuple[list[tuple[int, Sequence[Row]]], int, bytes]:
    """The pages that one snapshot gives, and the place and key where the next one begins."""
    pages: list[tuple[int, Sequence[Row]]] = []
    seen = 0
    while at < len(heads) and seen < LOOK_ROWS and len(pages) < LOOK_READS:
        rows = await tr.get_range(begin or heads[at], keys.end(heads[at]), limit=PAGE, snapshot=True)
        pages.append((at, rows))
        seen += len(rows)
        at, begin = (at, rows[-1][0] + b"\x00") if len(rows) == PAGE else (at + 1, b"")
    return pages, at, begin
