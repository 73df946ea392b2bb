"""The host functions of `wasm_signatures`, defined once per engine and shared by all instances.

They are bound to no store: each asks `current` for the guest that runs, and there is one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import wasmtime

from windlass.runtimes.wasm_guest import Guest
from windlass.runtimes.wasm_signatures import TASK, TASK_FUNCTIONS, WASI, WASI_FUNCTIONS, Signature
from windlass.runtimes.wasm_wasi import wasi_function

_VALUE_TYPES: Final = {
    "i": wasmtime.ValType.i32,
    "I": wasmtime.ValType.i64,
    "f": wasmtime.ValType.f32,
    "F": wasmtime.ValType.f64,
}


def linker_for(engine: wasmtime.Engine, current: Callable[[], Guest]) -> wasmtime.Linker:
    """Return a linker with every import that a module may have."""
    linker = wasmtime.Linker(engine)
    for name, signature in WASI_FUNCTIONS.items():
        linker.define_func(WASI, name, _type(signature), wasi_function(name, current))
    for name, signature in TASK_FUNCTIONS.items():
        linker.define_func(TASK, name, _type(signature), _task_function(name, current))
    return linker


def _type(signature: Signature) -> wasmtime.FuncType:
    parameters, results = ([_VALUE_TYPES[letter]() for letter in part] for part in signature)
    return wasmtime.FuncType(parameters, results)


def _task_function(name: str, current: Callable[[], Guest]) -> Callable[..., int | None]:
    method = f"task_{name}"

    def call(*arguments: float) -> int | None:
        answer: int | None = getattr(current(), method)(*arguments)
        return answer

    return call
