"""The Python SDK: call an engine, register definitions, start and steer runs.

The `windlass` command line lies in `cli`.
"""

from __future__ import annotations

from windlass.client.client import Client, connect
from windlass.client.errors import RunNotCompleted, Violation, WindlassError
from windlass.client.streaming import Outcome
from windlass.client.values import Json, RunResult, Started

__all__ = [
    "Client",
    "Json",
    "Outcome",
    "RunNotCompleted",
    "RunResult",
    "Started",
    "Violation",
    "WindlassError",
    "connect",
]
