"""Every program of the hostile lists through real workers, among four times as many good tasks.

Two worker processes that hold a secret in their environment and in a file run all of it at once: no good task is
lost, each hostile one ends in its way, and nothing that comes back holds the secret.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest

from tests.runtimes.guests import ECHO, assemble
from tests.runtimes.hostile_javascript import INVENTED as INVENTED_SCRIPTS
from tests.runtimes.hostile_javascript import LISTED as LISTED_SCRIPTS
from tests.runtimes.hostile_wasm import LISTED as LISTED_MODULES
from tests.runtimes.hostile_wasm_invented import INVENTED as INVENTED_MODULES
from tests.worker.fake_engine import FakeEngine, Stored
from tests.worker.worker_process import worker_process
from windlass.runtimes.failures import OUT_OF_MEMORY, SANDBOX_CRASHED, TIMEOUT
from windlass.v1 import common_pb2

SNOOPING = (
    "JSON.stringify(Object.getOwnPropertyNames(globalThis)) + typeof process + typeof require + typeof std + typeof os",
    "(async () => { try { return await import('/proc/self/environ') } catch (e) { return String(e) } })()",
    "(async () => { try { return await import('SECRET_FILE') } catch (e) { return String(e) + e.stack } })()",
    "Object.getOwnPropertyNames(ctx).map(name => name + '=' + String(ctx[name]))",
    "ctx.getClass ? ctx.getClass() : new Error().stack + this.constructor.constructor('return JSON.stringify(this)')()",
)


def limits() -> common_pb2.TaskLimits:
    return common_pb2.TaskLimits(memory_bytes=16 << 20)


def seconds_for(ends: tuple[str, ...]) -> float:
    return 0.15 if TIMEOUT in ends else 10.0


def submit_hostile(engine: FakeEngine) -> list[tuple[str, tuple[str, ...], Stored]]:
    """Everything of the lists: name, allowed ends, task."""
    sent = []
    for script in LISTED_SCRIPTS + INVENTED_SCRIPTS:
        code = script.source if isinstance(script.source, bytes) else script.source.encode()
        stored = engine.submit("javascript", code=code, timeout_s=seconds_for(script.ends), limits=limits())
        sent.append((script.name, script.ends, stored))
    for module in LISTED_MODULES + INVENTED_MODULES:
        code = assemble(module.code) if isinstance(module.code, str) else module.code
        stored = engine.submit("wasm", code=code, timeout_s=seconds_for(module.ends), limits=limits())
        sent.append((module.name, module.ends, stored))
    return sent


def end_of(stored: Stored) -> str:
    if stored.result is None:
        return SANDBOX_CRASHED
    return stored.result.failure.code if stored.result.HasField("failure") else "OK"


def ended_as(stored: Stored, ends: tuple[str, ...]) -> bool:
    """Whether it ended in one of these ways.

    With all memory gone QuickJS throws a bare null. The runtime tells it from an author's by how much the process
    has grown; a child that is warm from other tasks may not show it.
    """
    bare_null = stored.result is not None and stored.result.failure.message == "null"
    return end_of(stored) in ends or (OUT_OF_MEMORY in ends and bare_null)


@pytest.mark.timeout(300)
async def test_hostile_and_good_tasks_side_by_side(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = secrets.token_hex(16)
    secret_file = tmp_path / "token"
    secret_file.write_text(secret)
    monkeypatch.setenv("WINDLASS_TOKEN", secret)
    settings = {"engines": [engine.address], "runtimes": ["javascript", "wasm"], "slots": 1}
    echo = assemble(ECHO)
    async with worker_process(**settings, worker_id="one"), worker_process(**settings, worker_id="two"):
        hostile, good = [], []
        for sent in submit_hostile(engine):
            hostile.append(sent)
            for _ in range(2):
                good.append(engine.submit("javascript", code=b"input.a + 1", input=b'{"a": 41}', timeout_s=60))
                good.append(engine.submit("wasm", code=echo, input=b"42", timeout_s=60))
        snoopers = [
            engine.submit("javascript", code=code.replace("SECRET_FILE", str(secret_file)).encode())
            for code in SNOOPING
        ]
        for stored in (*good, *snoopers, *(each for _, _, each in hostile)):
            await asyncio.wait_for(stored.done.wait(), 240)
    wrong = [(name, ends, stored.result) for name, ends, stored in hostile if not ended_as(stored, ends)]
    assert not wrong
    assert {(end_of(stored), stored.result and stored.result.output) for stored in good} == {("OK", b"42")}
    told = b"".join(stored.result.SerializeToString() for stored in engine.tasks.values() if stored.result)
    assert secret.encode() not in told
