"""A worker that holds secrets: no task gets to see them, not even one that took its whole process over.

The probe (see `probe_child`) is such a process: it runs arbitrary Python inside the locked-in child. Scripts and
modules get less far still; what they can name is tried as well.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.runtimes.guests import MIB, PATIENT, command, module, script
from tests.runtimes.test_jail import probe, slots
from windlass.runtimes.jail_pool import SlotPool

_SECRET = "windlass-secret-" + secrets.token_hex(8)


@pytest.fixture(scope="module")
def secret_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A secret in the environment, and in a file that everybody may read."""
    directory = tmp_path_factory.mktemp("vault")
    path = directory / "token"
    path.write_text(_SECRET)
    for place in (path, *list(path.parents)[:3]):
        place.chmod(place.stat().st_mode | 0o555 if place.is_dir() else 0o644)
    os.environ["WINDLASS_TOKEN"] = _SECRET
    yield path
    del os.environ["WINDLASS_TOKEN"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def jail(secret_file: Path) -> AsyncIterator[SlotPool]:
    """A pool of probe children, started while the secrets are there."""
    async with slots(runtimes=("javascript", "wasm", "probe"), slots=2) as pool:
        yield pool


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "attempt",
    [
        "read /etc/passwd",
        "read /etc/hostname",
        "read /proc/self/environ",
        "read /proc/self/maps",
        "read /proc/1/environ",
        "parent_environment",
        "parent_memory_file",
        "parent_memory",
        "ptrace",
        "signal_parent",
        "write /tmp/windlass-escaped",
        "list /",
        "list /proc",
        "stat /etc/passwd",
        "socket",
        "unix_socket",
        "socketpair",
        "fork",
        "execute",
        "execv",
        "pipe",
        "memfd",
        "more_descriptors",
        "raise_limits",
        "become_root",
        "memory 4000000000",
    ],
)
async def test_process_that_was_taken_over_is_refused(jail: SlotPool, attempt: str) -> None:
    completion = await jail.run(probe(attempt))
    assert completion.failure is None, completion
    assert completion.output.startswith(b'"refused: '), completion.output


async def test_secret_file_cannot_be_read(jail: SlotPool, secret_file: Path) -> None:
    completion = await jail.run(probe(f"read {secret_file}"))
    assert completion.output.startswith(b'"refused: ')
    assert _SECRET.encode() not in completion.output


async def test_environment_is_empty(jail: SlotPool) -> None:
    completion = await jail.run(probe("environment"))
    assert _SECRET.encode() not in completion.output
    assert b"WINDLASS" not in completion.output
    assert b"PATH" not in completion.output


async def test_nothing_listens_to_the_child(jail: SlotPool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        completion = await jail.run(probe(f"connect {server.getsockname()[1]}"))
    assert completion.output.startswith(b'"refused: ')


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a user to give up")
async def test_root_is_given_up(jail: SlotPool) -> None:
    pid = (await jail.run(probe("pid"))).output.decode().strip('"')
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")  # noqa: ASYNC240
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["65534"] * 4
    assert facts["Gid"].split() == ["65534"] * 4
    assert facts["Groups"].split() == []
    assert facts["CapEff"] == facts["CapPrm"] == "0" * 16
    assert facts["NoNewPrivs"] == "1"
    assert facts["Seccomp"] == "2"


@pytest.mark.parametrize(
    "source",
    [
        "Object.getOwnPropertyNames(globalThis).map(n=>{try{return String(globalThis[n])}catch{return 0}})",
        "JSON.stringify([config, input, ctx])",
        "new Function('return JSON.stringify(this)')()",
        "typeof process + typeof require + typeof std + typeof os + typeof scriptArgs + typeof print",
        "try { load('/proc/self/environ') } catch (e) { String(e) + e.stack }",
        "import('/proc/self/environ').then(String, String)",
        "new Error('x').stack",
        "const b=new Uint8Array(1e6);let s='';for(const x of b)if(x)s+=String.fromCharCode(x);s",
    ],
)
async def test_script_sees_no_secret(jail: SlotPool, source: str) -> None:
    completion = await jail.run(script(source, limits=PATIENT))
    told = completion.output + repr(completion.failure).encode()
    assert _SECRET.encode() not in told
    assert b"/home" not in told
    assert str(Path(__file__).parents[2]).encode() not in told


async def test_module_memory_is_its_own(jail: SlotPool) -> None:
    """Everything that a module can see is its memory, and that is zero where it put nothing."""
    dump = command(
        """(local $i i32)
        (loop (if (i32.load8_u (i32.add (local.get $i) (i32.const 65536))) (then (unreachable)))
          (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000000))))
        (call $write (i32.const 1) (i32.const 1024) (i32.const 1))""",
        data='(data (i32.const 1024) "1")',
        memory="20",
    )
    assert (await jail.run(module(dump, limits=PATIENT))).output == b"1"


async def test_nothing_of_one_task_is_left_for_the_next(jail: SlotPool) -> None:
    leaving = [
        "globalThis.left = 'secret'; Object.prototype.left = 'secret'; Array.prototype.map = () => 'secret'; 1",
        "JSON.parse = () => 'secret'; Promise.prototype.then = null; String.prototype.slice = () => 'secret'; 1",
        "Math.random = () => 0.5; Date.now = () => 7; console.log = () => { throw 1 }; 1",
    ]
    for source in leaving:
        assert (await jail.run(script(source, limits=PATIENT))).output == b"1"
        looked = await jail.run(
            script(
                "[typeof left, typeof ({}).left, [1].map(x => x)[0], JSON.parse('2'), 'abc'.slice(1)]", limits=PATIENT
            )
        )
        assert looked.output == b'["undefined","undefined",1,2,"bc"]'


async def test_result_that_would_be_too_much_for_the_worker_is_not_passed_on(jail: SlotPool) -> None:
    completion = await jail.run(script(f"'x'.repeat({64 * MIB})", limits=PATIENT))
    assert completion.failure is not None
    assert len(completion.output) < 100
