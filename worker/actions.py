"""What a session wants done: returned by its functions, carried out by the driver."""

from __future__ import annotations

from dataclasses import dataclass

from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.answers import Refusal


@dataclass(frozen=True)
class Start:
    """Run this task."""

    task: wire.Task


@dataclass(frozen=True)
class Stop:
    """Stop this task and throw away what comes of it."""

    token: bytes
    why: str


@dataclass(frozen=True)
class Cancel:
    """Interrupt this task; its answer is still wanted."""

    token: bytes
    why: str


@dataclass(frozen=True)
class Refused:
    """The engine did not take an answer. For the log."""

    task: wire.Task
    refusal: Refusal


@dataclass(frozen=True)
class Reconnect:
    """Leave this stream, and open another, to the next engine if there are several."""

    why: str


@dataclass(frozen=True)
class Registered:
    """The engine knows this worker."""

    reply: wire.RegisterWorkerResponse


Action = Start | Stop | Cancel | Refused | Reconnect | Registered
