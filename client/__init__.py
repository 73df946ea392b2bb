"""The Python SDK: call an engine, register definitions, start and steer runs.

The `windlass` command line lies in `cli`.

The names are imported when they are first asked for: gRPC loads slowly, and `program.py` must have its say before.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "client": ("Client", "connect"),
    "errors": ("RunNotCompleted", "Violation", "WindlassError"),
    "streaming": ("Outcome",),
    "values": ("Json", "RunResult", "Started"),
}

if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        for module, names in _MODULES.items():
            if name in names:
                return getattr(importlib.import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
