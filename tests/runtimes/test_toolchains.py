"""Modules as real toolchains make them. The sources lie beside the binaries, each with the command that built it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtimes.guests import PATIENT, module
from windlass.runtimes import failures
from windlass.runtimes.jail_pool import SlotPool
from windlass.runtimes.javascript import JavaScript
from windlass.runtimes.port import Progress, Runtime
from windlass.runtimes.wasm import Wasm

MODULES = Path(__file__).parent / "modules"


@pytest.mark.parametrize(
    ("name", "given", "output", "log"),
    [
        ("total.wasm", b"[1,2.5,3]", b"6.5", "added 9 bytes of input"),
        ("greet.wasm", b'{"name":"x"}', b'{"echo":{"name":"x"}}', "greeted"),
        ("shout.wasm", b'"hello"', b'"HELLO"', ""),
    ],
)
async def test_module_of_a_toolchain_runs(pool: SlotPool, name: str, given: bytes, output: bytes, log: str) -> None:
    code = (MODULES / name).read_bytes()
    assert await pool.check("wasm", code) == ()
    completion = await pool.run(module(code, input=given, limits=PATIENT))
    assert completion.output == output, completion
    assert [line.message for line in completion.logs] == ([log] if log else [])
    if name == "greet.wasm":
        assert completion.progress == (Progress(0.5, "half"),)


async def test_command_that_ends_badly_says_why(pool: SlotPool) -> None:
    completion = await pool.run(module((MODULES / "total.wasm").read_bytes(), input=b'[1,"x"]', limits=PATIENT))
    assert completion.failure is not None
    assert completion.failure.code == failures.USER_ERROR
    assert completion.failure.message == "not a number at 3"
    assert completion.failure.details == b'{"exit_code":2}'


def test_runtimes_keep_to_the_port() -> None:
    """The child loads them by name, where no type checker looks."""
    runtimes: list[Runtime] = [JavaScript(), Wasm()]
    assert [runtime.name for runtime in runtimes] == ["javascript", "wasm"]
