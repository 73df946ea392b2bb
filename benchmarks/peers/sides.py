"""A system under comparison: how to load it with a shape, and what its processes used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.load import Loop


class Side(Protocol):
    """One system in one setting, up and waiting for load."""

    @property
    def system(self) -> str:
        """Its name, with its setting."""
        ...

    @property
    def task(self) -> str:
        """`dispatched` to a worker as a durable unit, or run `in-process`."""
        ...

    def loop(self, shape: str, in_flight: int) -> Loop | None:
        """A closed loop with this shape; None if it does not do it."""
        ...

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far: `server`, `worker` (whatever runs the tasks), `client`."""
        ...


@dataclass
class Compared:
    """One line."""

    system: str
    task: str
    shape: str
    in_flight: int
    workflows_per_second: float
    steps_per_second: float
    p50_ms: float
    p99_ms: float
    server_us: float
    worker_us: float
    client_us: float
    failed: int
    windows: list[float] = field(default_factory=list)
    #: Steps per second of the reference over these; for one in flight, its p50 under these's.
    ahead: float = 0.0

    def cells(self) -> list[str]:
        """The line as the table shows it."""
        rates = (self.workflows_per_second, self.steps_per_second)
        return [
            self.shape,
            str(self.in_flight),
            self.system,
            self.task,
            *(f"{value:,.0f}" for value in rates),
            f"{self.p50_ms:,.1f}",
            f"{self.p99_ms:,.1f}",
            *(f"{value:,.0f}" for value in (self.server_us, self.worker_us, self.client_us)),
            str(self.failed),
            f"{self.ahead:.2f}" if self.ahead else "-",
        ]


HEAD = (
    *("shape", "flight", "system", "task", "wf/s", "steps/s", "p50 ms", "p99 ms"),
    *("server µs", "worker µs", "client µs", "failed", "Windlass is × ahead"),
)
