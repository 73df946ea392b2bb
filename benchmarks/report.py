"""What is printed and written: rows, targets, and one aligned table, for people or for a page in Markdown."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Row:
    """One line of the main table. Times per workflow in µs of CPU."""

    shape: str
    way: str
    in_flight: int
    workflows_per_second: float = 0.0
    steps_per_second: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    engine_us: float = 0.0
    worker_us: float = 0.0
    client_us: float = 0.0
    store_us: float = 0.0
    #: Transactions of the store per workflow, and the syncs that made them durable; 0 where the store does not count.
    transactions: float = 0.0
    syncs: float = 0.0
    failed: int = 0
    #: Workflows per second in each window: how much the machine wavers.
    windows: list[float] = field(default_factory=list)
    #: Own memory in MB by process at the end of the line.
    memory_mb: dict[str, float] = field(default_factory=dict)
    verdicts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """What was promised of a figure on two cores: `least` or `most`, of one attribute of the row."""

    figure: str
    bound: float
    least: bool = False

    def verdict(self, row: Row) -> str:
        """Such as `≥1,500/s ok`."""
        found = getattr(row, self.figure)
        met = found >= self.bound if self.least else found <= self.bound
        units = {"workflows_per_second": "/s", "steps_per_second": " steps/s", "engine_us": " µs", "p50_ms": " ms p50"}
        unit = units.get(self.figure, " ms p99")
        return f"{'≥' if self.least else '≤'}{self.bound:,g}{unit} {'ok' if met else 'MISS'}"


def rate(bound: float, *, steps: bool = False) -> Target:
    return Target("steps_per_second" if steps else "workflows_per_second", bound, least=True)


def engine_cpu(bound: float) -> Target:
    return Target("engine_us", bound)


#: Runtime, shape, way, in flight: what the line has to show, on the store with fsync.
TARGETS: dict[tuple[str, str, str, int], tuple[Target, ...]] = {
    ("javascript", "w1", "unary", 1): (Target("p50_ms", 2.5), Target("p99_ms", 10)),
    ("javascript", "w2", "unary", 1): (Target("p50_ms", 15),),
    ("javascript", "w1", "unary", 64): (rate(1500), engine_cpu(600)),
    ("javascript", "w1", "batch", 256): (rate(3000), engine_cpu(120)),
    ("python", "w1", "batch", 256): (rate(6000), engine_cpu(120)),
    ("javascript", "w2", "batch", 256): (rate(4500, steps=True), engine_cpu(800)),
    ("javascript", "w3", "batch", 4): (rate(5500, steps=True), engine_cpu(4000)),
}

HEAD = (
    *("shape", "way", "flight", "wf/s", "steps/s", "p50 ms", "p99 ms", "engine µs", "worker µs", "client µs"),
    *("store µs", "tx", "syncs", "failed", "target"),
)


def cells(row: Row) -> list[str]:
    """The row as the table shows it."""
    return [
        row.shape,
        row.way,
        str(row.in_flight),
        *(f"{value:,.0f}" for value in (row.workflows_per_second, row.steps_per_second)),
        f"{row.p50_ms:,.1f}",
        f"{row.p99_ms:,.1f}",
        *(f"{value:,.0f}" for value in (row.engine_us, row.worker_us, row.client_us, row.store_us)),
        f"{row.transactions:.2f}",
        f"{row.syncs:.3f}",
        str(row.failed),
        ", ".join(row.verdicts),
    ]


def width(text: str) -> int:
    """Places that a text takes in a terminal."""
    return sum(not unicodedata.combining(sign) for sign in text)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: texts to the left, figures to the right. Columns without anything are left out."""
    kept = [at for at in range(len(head)) if any(row[at] not in ("", "0", "0.00", "0.000") for row in rows)]
    lines = [[head[at] for at in kept], *([row[at] for at in kept] for row in rows)]
    widths = [max(width(line[at]) for line in lines) for at in range(len(kept))]
    left = [at for at in range(len(kept)) if any(row[at][:1].isalpha() or row[at][:1] in "≥≤" for row in lines[1:])]
    shown = []
    for line in lines:
        parts = [
            part + " " * (widths[at] - width(part)) if at in left else " " * (widths[at] - width(part)) + part
            for at, part in enumerate(line)
        ]
        shown.append("  ".join(parts).rstrip())
    return "\n".join(shown)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same to be pasted into a page."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(head: Sequence[str], rows: Sequence[Sequence[str]], *, for_page: bool) -> str:
    """Either of them."""
    return markdown(head, rows) if for_page else aligned(head, rows)


def save(path: str | Path, facts: dict[str, Any], rows: Sequence[Any], **more: Any) -> None:
    """All figures, for programs. Rows are dataclasses."""
    found = {**facts, **more, "rows": [asdict(row) for row in rows]}
    Path(path).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
