"""Settings of the test tools that pyproject.toml cannot hold."""

from __future__ import annotations

import os
import signal
import sys

# A process started as another user is forked, and gRPC's own handlers crash in the child before it becomes a program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import fdb.tuple  # noqa: F401
import pytest
from hypothesis import HealthCheck, settings

# A deadline per example is a timed test: it fails on a busy machine and says nothing about the code. Hypothesis has
# chosen its own profile by now (on CI the examples are the same in every run), so only this is changed.
settings.register_profile(
    "windlass",
    parent=settings.get_profile(settings.get_current_profile_name()),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("windlass")

# `fdb`, imported above for the tests of its tuple format, brings an old `six` whose importer lacks what pytest asks of
# importers. It has nothing more to import once it is loaded.
sys.meta_path[:] = [importer for importer in sys.meta_path if hasattr(importer, "find_spec")]


# A shell's background jobs ignore ctrl-c, and the programs that tests start and stop with it would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: for one that begins last, everybody else has to wait."""
    items.sort(key=_seconds, reverse=True)
    if strange := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"processes that share the tests must call them the same, so give these ids: {strange}")


def _seconds(item: pytest.Item) -> float:
    """What a test says with `@pytest.mark.long(seconds)`; those that say nothing keep their order."""
    mark = item.get_closest_marker("long")
    return float(mark.args[0]) if mark is not None else 0.0
