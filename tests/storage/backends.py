"""The backends that the conformance suite runs over. To add one, write a module with `BACKENDS` and name it in
`MODULES`.

A module that is missing is left out; a backend that cannot run here says why in `skip`, and its tests are reported as
skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from windlass.storage.port import Storage

MODULES = (
    "tests.storage.backends_local",
    "tests.storage.backends_foundationdb",
    "tests.storage.backends_postgres",
)


@dataclass(frozen=True)
class Backend:
    """One backend as the suite sees it."""

    name: str
    #: Opens an empty store; the path is a directory of this test's own.
    open: Callable[[Path], AbstractAsyncContextManager[Storage]]
    #: Bodies suspend, so that conflicts can be provoked. False only for the embedded store without strict mode.
    interleaves: bool = True
    #: How many transactions a test may throw at it at once: less for what is slow.
    crowd: int = 50
    #: Why it cannot run here; empty if it can. Asked when the first test runs, not before.
    skip: Callable[[], str] = lambda: ""
    #: Opens an empty store with what puts its clock forward by seconds. None where time is not ours: a real cluster.
    aging: Callable[[Path], AbstractAsyncContextManager[tuple[Storage, Callable[[float], None]]]] | None = None


def all_backends() -> list[Backend]:
    """All that there are, in the order of `MODULES`."""
    found: list[Backend] = []
    for name in MODULES:
        if find_spec(name) is not None:
            found.extend(import_module(name).BACKENDS)
    return found
