"""Tasks for the tests: activations, and small modules written as WebAssembly text."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import wasmtime

from windlass.runtimes.port import Activation, Limits, TaskIdentity

_visits = itertools.count(1)
MIB = 1 << 20
#: Short, so that a test of a timeout takes no longer than this and the grace of the pool.
SHORT = Limits(wall_us=300_000, memory_bytes=16 * MIB, output_bytes=1 * MIB)
#: For what must end by something else than the clock, on however busy a machine.
PATIENT = Limits(wall_us=10_000_000, memory_bytes=16 * MIB, output_bytes=1 * MIB)


def task(**fields: Any) -> TaskIdentity:
    """Return a task of its own: every call a new visit of the same run."""
    visit = next(_visits)
    known: dict[str, Any] = {
        "namespace": "default",
        "run_id": "run-1",
        "definition": "orders",
        "state": "charge",
        "visit": visit,
        "path": "",
        "attempt": 1,
        "idempotency_key": f"run-1:{visit}:",
    }
    return TaskIdentity(**{**known, **fields})


def script(source: str | bytes, **fields: Any) -> Activation:
    """Return an activation of JavaScript."""
    code = source if isinstance(source, bytes) else source.encode("utf-8")
    return Activation(**{"task": task(), "runtime": "javascript", "code": code, "limits": SHORT, **fields})


def module(code: str | bytes, **fields: Any) -> Activation:
    """Return an activation of a module, given as text (assembled here) or as it is."""
    binary = assemble(code) if isinstance(code, str) else code
    return Activation(**{"task": task(), "runtime": "wasm", "code": binary, "limits": SHORT, **fields})


@functools.cache
def assemble(text: str) -> bytes:
    """Return the binary of a module in WebAssembly text."""
    return bytes(wasmtime.wat2wasm(text))


def text_data(text: str | bytes) -> str:
    """Return a string literal of WebAssembly text."""
    data = text.encode() if isinstance(text, str) else text
    return '"' + "".join(f"\\{byte:02x}" for byte in data) + '"'


# --- the pointer interface ----------------------------------------------------------------------------------------

ALLOC = '(func (export "alloc") (param i32) (result i32) (i32.const 4096))'


def packed(pointer: int, length: int) -> int:
    """Return the result of `run` for a range."""
    return pointer << 32 | length


def pointer_module(body: str, *, imports: str = "", data: str = "", memory: str = "2", rest: str = ALLOC) -> str:
    """Return a module whose `run(ptr, len)` has this body; locals $p and $n are its parameters."""
    return f"""(module {imports}
      (memory (export "memory") {memory})
      {data} {rest}
      (func (export "run") (param $p i32) (param $n i32) (result i64) {body}))"""


ECHO = pointer_module(
    "(i64.or (i64.shl (i64.extend_i32_u (local.get $p)) (i64.const 32)) (i64.extend_i32_u (local.get $n)))"
)


def constant(output: str | bytes, **parts: str) -> str:
    """Return a module that answers with `output`, whatever it is given."""
    size = len(output.encode() if isinstance(output, str) else output)
    data = f"(data (i32.const 1024) {text_data(output)})" + parts.pop("data", "")
    return pointer_module(f"(i64.const {packed(1024, size)})", data=data, **parts)


def calling(name: str, parameters: str, call: str, texts: dict[int, str], output: str = "null") -> str:
    """Return a module that calls `task.<name>` once and then answers with `output`."""
    data = "".join(f"(data (i32.const {at}) {text_data(text)})" for at, text in texts.items())
    imports = f'(import "task" "{name}" (func $call (param {parameters})))'
    body = f"{call} (i64.const {packed(1024, len(output.encode()))})"
    return pointer_module(body, imports=imports, data=f"(data (i32.const 1024) {text_data(output)}){data}")


def compile_bomb(number: int) -> bytes:
    """Return a module that takes the compiler longer than its first time and does nothing; each number another one."""
    name = b"bomb %d" % number
    return _branches(3_000, functions=150) + bytes([0, len(name) + 1, len(name)]) + name


def memory_bomb() -> bytes:
    """Return a module for which the compiler needs more than 256 MB: all of it is one function."""
    return _branches(150_000, functions=1)


@functools.cache
def _branches(count: int, *, functions: int) -> bytes:
    step = "(if (i64.eqz (local.get 1)) (then (local.set 2 (i64.mul (local.get 3) (local.get 0)))))"
    function = f"(func (param i64) (result i64) (local i64 i64 i64) {step * count} (local.get 1))"
    return assemble(constant("1", rest=ALLOC + function * functions))


# --- WASI commands ------------------------------------------------------------------------------------------------

WASI_TYPES = {
    "fd_read": "i32 i32 i32 i32",
    "fd_write": "i32 i32 i32 i32",
    "random_get": "i32 i32",
    "clock_time_get": "i32 i64 i32",
    "poll_oneoff": "i32 i32 i32 i32",
    "environ_sizes_get": "i32 i32",
    "environ_get": "i32 i32",
    "args_sizes_get": "i32 i32",
    "fd_prestat_get": "i32 i32",
    "fd_prestat_dir_name": "i32 i32 i32",
    "path_open": "i32 i32 i32 i32 i32 i64 i64 i32 i32",
    "path_unlink_file": "i32 i32 i32",
    "path_symlink": "i32 i32 i32 i32 i32",
    "sock_send": "i32 i32 i32 i32 i32",
    "proc_raise": "i32",
}


def command(body: str, *, imports: tuple[str, ...] = ("fd_read", "fd_write"), data: str = "", memory: str = "2") -> str:
    """Return a WASI command with this body. `$write1 pointer length` writes to the standard output."""
    lines = [
        f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {WASI_TYPES[name]}) (result i32)))'
        for name in dict.fromkeys((*imports, "fd_write"))
    ]
    return f"""(module {" ".join(lines)}
      (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
      (memory (export "memory") {memory})
      {data}
      (func $write (param $fd i32) (param $p i32) (param $n i32)
        (i32.store (i32.const 0) (local.get $p)) (i32.store (i32.const 4) (local.get $n))
        (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
      (func (export "_start") {body}))"""


COMMAND_ECHO = command(
    """(i32.store (i32.const 0) (i32.const 4096)) (i32.store (i32.const 4) (i32.const 100000))
       (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
       (call $write (i32.const 1) (i32.const 4096) (i32.load (i32.const 8)))""",
    memory="4",
)


#: Tries to open /etc/passwd three times, says nothing about it, and answers 1.
BURGLAR = command(
    """(drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 11) (i32.const 0)
        (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 8)))"""
    * 3
    + "(call $write (i32.const 1) (i32.const 1024) (i32.const 1))",
    imports=("path_open",),
    data='(data (i32.const 512) "/etc/passwd") (data (i32.const 1024) "1")',
)


def saying(output: str, *, log: str = "", exit_code: int | None = None) -> str:
    """Return a command that writes to both streams and ends."""
    data = f"(data (i32.const 1024) {text_data(output)}) (data (i32.const 8192) {text_data(log)})"
    body = f"(call $write (i32.const 2) (i32.const 8192) (i32.const {len(log.encode())}))"
    body += f"(call $write (i32.const 1) (i32.const 1024) (i32.const {len(output.encode())}))"
    if exit_code is not None:
        body += f"(call $proc_exit (i32.const {exit_code}))"
    return command(body, data=data)
