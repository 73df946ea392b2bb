"""Every program of the hostile lists through real workers, among four times as many good tasks.

Two worker processes that hold a secret in their environment and in a file run all of it at once: no good task is
lost, each hostile one ends in its way, and nothing that comes back holds the secret.
"""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import pytest

from tests.runtimes.guests import ECHO, assemble, command
from tests.runtimes.hostile_javascript import INVENTED as INVENTED_SCRIPTS
from tests.runtimes.hostile_javascript import LISTED as LISTED_SCRIPTS
from tests.runtimes.hostile_wasm import LISTED as LISTED_MODULES
from tests.runtimes.hostile_wasm_invented import INVENTED as INVENTED_MODULES
from tests.worker.fake_engine import CRASHES_MAX, FakeEngine, Stored
from tests.worker.worker_process import worker_process
from windlass.runtimes.failures import BAD_OUTPUT, SANDBOX_CRASHED, TIMEOUT, USER_ERROR
from windlass.v1 import common_pb2

SNOOPING_MODULES = (
    # Everything that the environment and the arguments hold, and a file by its whole name, told as the result.
    command(
        """(drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
        (drop (call $environ_get (i32.const 4096) (i32.const 8192)))
        (call $write (i32.const 1) (i32.const 4096) (i32.const 60000))""",
        imports=("environ_sizes_get", "environ_get"),
    ),
    # Which directories were opened for it.
    command(
        """(drop (call $fd_prestat_get (i32.const 3) (i32.const 4096)))
        (drop (call $fd_prestat_dir_name (i32.const 3) (i32.const 4104) (i32.const 4096)))
        (call $write (i32.const 1) (i32.const 4096) (i32.const 8192))""",
        imports=("fd_prestat_get", "fd_prestat_dir_name"),
    ),
    # The file itself, from any descriptor below 64 as the directory, and whatever can be read of what was opened.
    command(
        """(local $fd i32)
        (loop
          (drop (call $path_open (local.get $fd) (i32.const 0) (i32.const 512) (i32.const FILE_BYTES) (i32.const 0)
            (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 24)))
          (i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 4096))
          (drop (call $fd_read (i32.load (i32.const 24)) (i32.const 0) (i32.const 1) (i32.const 8)))
          (br_if 0 (i32.lt_u (local.tee $fd (i32.add (local.get $fd) (i32.const 1))) (i32.const 64))))
        (call $write (i32.const 1) (i32.const 4096) (i32.const 4096))""",
        imports=("path_open", "fd_read"),
        data='(data (i32.const 512) "SECRET_FILE")',
    ),
)
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
    """OK, the code of its failure, or that its slot died under it as often as the engine allows."""
    if stored.result is None:
        return SANDBOX_CRASHED if stored.crashes >= CRASHES_MAX else "NO_RESULT"
    return stored.result.failure.code if stored.result.HasField("failure") else "OK"


@pytest.mark.long(18)
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
        for text in SNOOPING_MODULES:
            named = text.replace("FILE_BYTES", str(len(str(secret_file)))).replace("SECRET_FILE", str(secret_file))
            snoopers.append(engine.submit("wasm", code=assemble(named)))
        for stored in (*good, *snoopers, *(each for _, _, each in hostile)):
            await asyncio.wait_for(stored.done.wait(), 240)
    wrong = [(name, ends, stored.result) for name, ends, stored in hostile if end_of(stored) not in ends]
    assert not wrong
    assert {(end_of(stored), stored.result and stored.result.output) for stored in good} == {("OK", b"42")}
    told = b"".join(stored.result.SerializeToString() for stored in engine.tasks.values() if stored.result)
    assert secret.encode() not in told
    assert b"WINDLASS_TOKEN" not in told
    refused = {BAD_OUTPUT, "OK", USER_ERROR}  # what they wrote is no JSON; none was stopped before it had looked
    assert {end_of(stored) for stored in snoopers} <= refused
