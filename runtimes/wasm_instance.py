"""Look up one export, call one function: the two things we do with an instance, without the binding's detours.

`Instance.exports` lists all exports in Python, which a hostile module turns into minutes, so exports are looked up by
name; the binding has no public call for that, and this file is the only one that goes below its surface. Calling
through `Func.__call__` asks for the function's type every time; ours are known, `wasm_sections` has checked them.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

import wasmtime
from wasmtime import _ffi as ffi
from wasmtime._extern import wrap_extern
from wasmtime._func import enter_wasm

_I32: Final = 0
_NO_VALUES: Final = (ffi.wasmtime_val_t * 0)()


class MissingExport(Exception):
    """The instance has no export of this name and kind."""


def export_of(store: wasmtime.Store, instance: wasmtime.Instance, name: str) -> Any:
    """Return the export called `name`, as the binding's object for its kind. Raises MissingExport."""
    item = ffi.wasmtime_extern_t()
    text = name.encode()
    found = ffi.wasmtime_instance_export_get(
        store._context(),
        ctypes.byref(instance._instance),
        ctypes.create_string_buffer(text),
        len(text),
        ctypes.byref(item),
    )
    if not found:
        raise MissingExport(name)
    return wrap_extern(item)


def memory_of(store: wasmtime.Store, instance: wasmtime.Instance) -> wasmtime.Memory:
    """Return the exported memory. Raises MissingExport."""
    memory = export_of(store, instance, "memory")
    if not isinstance(memory, wasmtime.Memory):
        raise MissingExport("memory")
    return memory


def call_function(
    store: wasmtime.Store, instance: wasmtime.Instance, name: str, *arguments: int, results: int = 1
) -> int:
    """Call an export that takes i32 values; return its i32 or i64 result, unsigned in 64 bits, or 0 without one.

    Raises Trap, WasmtimeError, MissingExport, or whatever a host function raised.
    """
    function = export_of(store, instance, name)
    if not isinstance(function, wasmtime.Func):
        raise MissingExport(name)
    parameters: Any = (ffi.wasmtime_val_t * len(arguments))()
    for place, argument in enumerate(arguments):
        parameters[place].kind = _I32
        parameters[place].of.i32 = argument
    values: Any = (ffi.wasmtime_val_t * results)() if results else _NO_VALUES
    with enter_wasm(store) as trap:
        error: Any = ffi.wasmtime_func_call(
            store._context(), ctypes.byref(function._func), parameters, len(arguments), values, results, trap
        )
        if error:
            raise wasmtime.WasmtimeError._from_ptr(error)
    if not results:
        return 0
    value = values[0]
    return int(value.of.i32 if value.kind == _I32 else value.of.i64) & 0xFFFFFFFFFFFFFFFF
