"""Commands that need more than a client install: the engine, the worker, the store.

Their packages are imported when such a command runs and not before, by name, so that a client install stays small and
this package imports nothing of the engine or the worker.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from windlass.client.cli.failures import UNSUPPORTED, Stop


def load(module: str, extra: str) -> ModuleType:
    """Imports a module of an extra. Raises Stop, which names the extra, if what it needs is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("windlass."):
            raise
        raise Stop(
            f"this command needs the {extra} extra ({error.name} is not installed); "
            f"install it with: pip install 'windlass[{extra}]'",
            UNSUPPORTED,
        ) from error
