"""Stores written by earlier versions, and by this one: they open, say the same, and their runs end."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.engine.cluster import TestWorker
from tests.histories.documents import DOCUMENTS
from tests.histories.record import DATA, FOLDER, SEEN, seen_of
from tests.histories.site import RECORDED_US, SECOND, Site, at_last, site
from windlass.definition.source import from_value
from windlass.engine.checking import check_rows
from windlass.storage import offline

VERSIONS: Final = sorted(path.parent.name for path in FOLDER.glob(f"*/{DATA}"))
#: What every run ends with once it may.
ENDS: Final = {
    "closed-once": ("completed", {"n": 2}),
    "closed-failing": ("failed", None),
    "ended-asleep": ("cancelled", None),
    "ended-listening": ("terminated", None),
    "open-once": ("completed", {"n": 2}),
    "open-failing": ("failed", None),
    "open-held": ("completed", 2),
    "open-queued": ("completed", {"n": 2}),
    "open-backoff": ("completed", {"n": 2}),
    "open-asleep": ("completed", {"n": 2}),
    "open-listening": ("completed", {"a": {"first": True}, "b": 2}),
    "open-hoarding": ("completed", {"a": {"early": True}}),
    "open-asked": ("completed", {}),
    "open-parked": ("completed", None),
    "open-paused": ("completed", {"n": 2}),
    "open-mapped": ("completed", [1, 2, 3]),
    "open-side_by_side": ("completed", {"done": 1, "open": {"go": 1}}),
    "open-parent": ("completed", {"a": 1, "b": 2}),
    "open-pending": ("completed", {"n": 2}),
    "open-cancelling": ("cancelled", None),
    "open-polling": ("completed", 1),
}


@pytest.fixture(params=VERSIONS)
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A store as that version left it, and what was seen of it then."""
    kept = FOLDER / request.param
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "data.mdb").write_bytes(gzip.decompress((kept / DATA).read_bytes()))
    seen: dict[str, Any] = json.loads((kept / SEEN).read_text())
    return folder, seen


def test_there_is_a_store_to_open() -> None:
    assert VERSIONS


def test_recorded_histories_fold_to_the_recorded_states(recorded: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = recorded
    assert offline.check(folder).rows > 100
    with offline.Reader(folder) as reader:
        assert check_rows(reader.rows) == []


async def test_recorded_runs_look_as_they_did(recorded: tuple[Path, dict[str, Any]]) -> None:
    folder, seen = recorded
    async with site(folder, RECORDED_US, 10**15) as running:
        for workflow_id, then in seen["runs"].items():
            now = await seen_of(running.client, then["ref"]["run_id"])
            # Newer versions may say more than the recorded one did, never less or other.
            assert {key: now.get(key) for key in then} == then, workflow_id


async def test_the_same_documents_are_the_same_revisions(recorded: tuple[Path, dict[str, Any]]) -> None:
    folder, seen = recorded
    async with site(folder, RECORDED_US, 10**15) as running:
        for document in DOCUMENTS:
            name = document["workflow"]
            reply = await running.client.register(from_value(document, name))
            assert reply.revision == seen["revisions"][name], name


async def test_recorded_runs_end(recorded: tuple[Path, dict[str, Any]]) -> None:
    folder, seen = recorded
    children = [name for name in seen["runs"] if name not in ENDS]
    async with site(folder, RECORDED_US + 60 * SECOND, 10**15) as running:
        for queue in ("default", "elsewhere"):
            await TestWorker(running.engine, at_last, name=queue, credits=20).connect(queues=(queue,))
        await _let_go(running, children)
        async with _time_passing(running):
            for workflow_id, (state, output) in ENDS.items():
                result = await running.client.wait(seen["runs"][workflow_id]["ref"]["run_id"], timeout=30)
                assert (workflow_id, result.state, result.output) == (workflow_id, state, output)
    with offline.Reader(folder) as reader:
        assert check_rows(reader.rows) == []


async def _let_go(running: Site, children: list[str]) -> None:
    """Give every run what it waits for."""
    client = running.client
    await client.signal("open-listening", "b", 2)
    await client.signal("open-side_by_side", "go", 1)
    for child in children:
        for name, value in (("a", 1), ("b", 2)):
            await client.signal(child, name, value)
    await client.unpause("open-paused")
    async for escalation in client.escalations():
        await client.approve(escalation.escalation_id)
    await client.set_variables("open-parked", {"missing": 0})
    async for incident in client.incidents():
        await client.resolve_incident(incident.run.run_id, incident.incident_id, "retry")


@contextlib.asynccontextmanager
async def _time_passing(running: Site) -> AsyncIterator[None]:
    """Ten minutes go by every hundredth of a second, so that whatever waits for time comes about.

    But not while a worker has a task, or is being given one: it would be over its time.
    """

    async def pass_on() -> None:
        while True:
            if not any(each.held or each.reserved for each in running.engine.dispatch.connected.values()):
                running.advance(600)
            await asyncio.sleep(0.01)

    passing = asyncio.create_task(pass_on())
    try:
        yield
    finally:
        passing.cancel()
        await asyncio.wait([passing])
