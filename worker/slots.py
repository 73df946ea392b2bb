"""What the execution needs of the places where code runs, and what it keeps about each task there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from windlass.runtimes import port
from windlass.v1 import worker_service_pb2 as wire


class Slots(Protocol):
    """Where activations are run: the pool of jailed children, or the trusted handlers."""

    def submit(
        self, activation: port.Activation, on_note: Callable[[port.TrustedNote], None] | None = None
    ) -> asyncio.Future[port.Completion]:
        """Run it. The future always gets a completion, never an exception."""

    def cancel(self, key: port.TaskKey) -> object:
        """Interrupt it; its future is settled soon. Nothing happens if it is not there."""


@runtime_checkable
class Queueing(Protocol):
    """Slots in which an activation may wait for its turn."""

    def withdraw(self, key: port.TaskKey) -> bool:
        """Take it back if it has not begun; its future is settled then. False otherwise."""


@dataclass
class Job:
    """A task on its way through this worker."""

    task: wire.Task
    received_s: float
    fetching: asyncio.Task[None] | None = None  #: while its code is on the way
    slots: Slots | None = None  #: set while it is with them


#: Codes that are counted apart: authors invent them, and all are kept and written to the log once a minute.
CODES_MAX: Final = 100
CODE_CHARACTERS_MAX: Final = 100


@dataclass
class Tally:
    """What has been done since the worker started."""

    started: int = 0
    succeeded: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    released: int = 0
    dropped: int = 0
    denied: dict[str, int] = field(default_factory=dict)  #: what sandboxes refused, by the kinds of `denials.KINDS`
    busy_s: float = 0.0

    def count_failure(self, code: str) -> None:
        """Count one failed task."""
        if code not in self.failed and (len(self.failed) >= CODES_MAX or len(code) > CODE_CHARACTERS_MAX):
            code = "other"
        self.failed[code] = self.failed.get(code, 0) + 1
