"""`python -m tests.histories.record`: keeps a store with a run in every phase, as this version writes it.

It goes into a folder named after the version, with what the runs looked like from outside. Run it once per release, by
hand, before the version number changes; never again for a version that has been released.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib.metadata
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from tests.engine.cluster import TestWorker
from tests.histories.documents import DOCUMENTS
from tests.histories.site import LEASE_US, RECORDED_US, Site, at_first, site
from windlass.client import Client
from windlass.definition.source import from_value
from windlass.storage import offline

FOLDER: Final = Path(__file__).parent
DATA, SEEN = "data.mdb.gz", "seen.json"
#: Held leases, of the attempts that never end, once all else stands still.
HELD: Final = 3


async def record(folder: Path) -> dict[str, Any]:
    """Write a store into the folder; what is seen of it."""
    async with site(folder, RECORDED_US, LEASE_US) as running:
        revisions: dict[str, str] = {}
        for document in DOCUMENTS:
            reply = await running.client.register(from_value(document, document["workflow"]))
            revisions[document["workflow"]] = reply.revision
        worker = await TestWorker(running.engine, at_first, credits=20).connect()
        await _begin(running.client)
        await worker.until(lambda: len(worker.held) >= HELD)
        await _steer(running)
        seen = {
            run.ref.workflow_id: await seen_of(running.client, run.ref.run_id) async for run in running.client.list()
        }
        await worker.vanish()
    return {"recorded_us": RECORDED_US, "revisions": revisions, "runs": seen}


async def _begin(client: Client) -> None:
    closed = [await client.start(name, {"n": 1}, workflow_id=f"closed-{name}") for name in ("once", "failing")]
    for run in closed:
        await client.wait(run, timeout=20)
    for document in DOCUMENTS:
        name = document["workflow"]
        delay = 3600 if name == "pending" else None
        await client.start(name, {"n": 1, "items": [1, 2, 3]}, workflow_id=f"open-{name}", start_in=delay)
    for name in ("asleep", "listening"):
        await client.start(name, {"n": 1}, workflow_id=f"ended-{name}")


async def _steer(running: Site) -> None:
    client = running.client
    await client.cancel("ended-asleep", "recorded")
    await client.terminate("ended-listening", "recorded")
    await client.signal("open-listening", "a", {"first": True})
    await client.signal("open-hoarding", "a", {"early": True})
    await client.pause("open-paused", "recorded")
    await client.cancel("open-cancelling", "recorded")
    for name in ("open-once", "open-failing", "ended-asleep", "ended-listening"):
        await client.wait(name, timeout=20)


async def seen_of(client: Client, run_id: str) -> dict[str, Any]:
    """A run as a client sees it, with the types of its events."""
    run = MessageToDict(await client.get(run_id), preserving_proto_field_name=True)
    run["events"] = [event.type async for event in client.history(run_id)]
    return run


def main() -> int:
    """Record for the installed version. Exit code 1 if that version is there already (--again overwrites it)."""
    target = FOLDER / importlib.metadata.version("windlass")
    if target.exists() and "--again" not in sys.argv:
        print(f"{target.name} is recorded already", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seen = asyncio.run(record(folder))
        offline.compact(folder)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        (target / DATA).write_bytes(gzip.compress((folder / "data.mdb").read_bytes(), mtime=0))
        (target / SEEN).write_text(json.dumps(seen, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
