"""The worker of the documentation, on the plain path, as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from tests.worker.fake_engine import FakeEngine

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "minimal_worker.py"


async def test_the_minimal_worker_works_fails_and_leaves(engine: FakeEngine) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), engine.address)
    try:
        good = engine.submit("python", handler="shout", input=b'{"text": "hello"}')
        bad = engine.submit("python", handler="shout", input=b"{}")
        for stored in (good, bad):
            await asyncio.wait_for(stored.done.wait(), 30)
        assert good.result is not None
        assert json.loads(good.result.output) == {"text": "HELLO!", "attempt": 1}
        assert bad.result is not None
        assert bad.result.failure.code == "USER_ERROR"
        assert "KeyError" in bad.result.failure.message
        engine.lapse(next(iter(engine.sessions)))  # it registers anew
        again = engine.submit("python", handler="shout", input=b'{"text": "still here"}')
        await asyncio.wait_for(again.done.wait(), 30)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        assert len(engine.left) == 1
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
