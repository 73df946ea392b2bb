"""One pool of jailed children for all tests of this folder: what a test breaks, the next one finds repaired."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.runtimes.guests import MIB
from windlass.runtimes.jail_pool import SlotPool
from windlass.runtimes.jail_settings import JailSettings


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def pool() -> AsyncIterator[SlotPool]:
    """A pool with a short grace, on the session's event loop."""
    slots = SlotPool(JailSettings(slots=2, spares=2, grace_us=100_000, overhead_bytes=512 * MIB))
    await slots.start()
    yield slots
    await slots.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that share the pool on the loop that it lives on."""
    for item in items:
        if "pool" in getattr(item, "fixturenames", ()) and "tests/runtimes" in item.path.as_posix():
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
