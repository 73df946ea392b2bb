"""A worker as a process of its own, for tests that kill, freeze and stop it: `worker_process.py SETTINGS-AS-JSON`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from windlass.worker.journal import log_to
from windlass.worker.main import run
from windlass.worker.settings import WorkerSettings


@asynccontextmanager
async def worker_process(**settings: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start one; it is killed at the end of the block if it still runs then."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, json.dumps(settings), stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


if __name__ == "__main__":
    log_to(sys.stderr)
    sys.exit(asyncio.run(run(msgspec.json.decode(sys.argv[1], type=WorkerSettings))))
