"""`storage` is an empty store; a test that asks for it runs once for every backend."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.storage.backends import Backend, all_backends
from windlass.storage.port import Storage


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        between = "interleaving" in metafunc.fixturenames
        chosen = [backend for backend in all_backends() if backend.interleaves or not between]
        if "aging" in metafunc.fixturenames:
            chosen = [backend for backend in chosen if backend.aging]
        metafunc.parametrize("backend", chosen, ids=lambda backend: backend.name)


@pytest_asyncio.fixture
async def storage(backend: Backend, tmp_path: Path) -> AsyncIterator[Storage]:
    if reason := backend.skip():
        pytest.skip(reason)
    async with backend.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def interleaving(storage: Storage) -> Storage:
    """A store whose bodies suspend, so that another transaction can get in between."""
    return storage
