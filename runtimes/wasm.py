"""The WebAssembly runtime: wasmtime, a fresh store and instance for every attempt.

Two interfaces, told apart by what the module exports: a WASI command (`_start`; input on the standard input, one JSON
value on the standard output, standard error is the log) and the pointer interface (`alloc`, `run`). See
`docs/sandbox.md` for the author's side of both.

`prepare` checks and compiles; it runs in a child that then ends. Everybody else only loads what it made.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections import OrderedDict
from typing import Final

import msgspec
import wasmtime

from windlass.runtimes import failures
from windlass.runtimes.port import (
    Activation,
    BadCode,
    Completion,
    Failure,
    Problem,
    Report,
    TaskIdentity,
    Usage,
    failed,
    flavour_of,
)
from windlass.runtimes.wasm_engine import CONFIG_VERSION, TaskClock, engine_for
from windlass.runtimes.wasm_guest import Guest, GuestEnded, GuestExit
from windlass.runtimes.wasm_instance import MissingExport, call_function, memory_of
from windlass.runtimes.wasm_linker import linker_for
from windlass.runtimes.wasm_outcome import completion_of, failure_of
from windlass.runtimes.wasm_sections import ModuleFacts, module_facts

_TABLE_ELEMENTS_MAX: Final = 100_000
_TABLES_MAX: Final = 10
_MODULES_KEPT: Final = 64
_U32: Final = 0xFFFFFFFF
_WARM_UP: Final = """
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "null")
  (func (export "alloc") (param i32) (result i32) (i32.const 64))
  (func (export "run") (param i32 i32) (result i64)
    (drop (call $random (i32.const 128) (i32.const 8)))
    (i64.const 0x0000000800000004)))
"""


class _Loaded:
    """A module that is ready to be instantiated, as often as one likes."""

    def __init__(self, engine: wasmtime.Engine, ready: wasmtime.InstancePre, facts: ModuleFacts) -> None:
        self.engine, self.ready, self.facts = engine, ready, facts


class Wasm:
    """`Runtime` for modules."""

    name = "wasm"
    prepares = True

    def __init__(self) -> None:
        self.version = f"wasmtime {importlib.metadata.version('wasmtime')} config {CONFIG_VERSION}"
        self._engines: dict[str, tuple[wasmtime.Engine, wasmtime.Linker]] = {}
        self._loaded: OrderedDict[tuple[str, str, str], _Loaded] = OrderedDict()
        self._clock = TaskClock()
        self._guest: Guest | None = None

    def warm_up(self) -> None:
        """Start the clock and run one module through everything."""
        self._clock.start()
        code = wasmtime.wat2wasm(_WARM_UP)
        activation = Activation(TaskIdentity("", "", "", "", 0, "", 0, ""), self.name, bytes(code), digest="warm-up")
        self.activate(activation, self.prepare(activation.code, "plain"), lambda note: None)
        self._loaded.clear()

    def rest(self) -> None:
        """Nothing to make ready: a store costs little."""

    def check(self, code: bytes) -> tuple[Problem, ...]:
        """Check the format, the interface and the code, without compiling it."""
        try:
            module_facts(code)
            wasmtime.Module.validate(self._engine("plain")[0], code)
        except BadCode as error:
            return error.problems
        except wasmtime.WasmtimeError as error:
            return (Problem(f"the module is not valid: {str(error)[:500]}"),)
        return ()

    def prepare(self, code: bytes, flavour: str) -> bytes:
        """Check and compile. Raises BadCode."""
        module_facts(code)
        try:
            return bytes(wasmtime.Module(self._engine(flavour)[0], code).serialize())
        except wasmtime.WasmtimeError as error:
            raise BadCode(Problem(f"the module cannot be compiled: {str(error)[:500]}")) from error

    def activate(self, activation: Activation, prepared: bytes, report: Report) -> Completion:
        """Run one attempt. Never raises."""
        began, cpu_began = time.monotonic_ns(), time.process_time_ns()
        try:
            completion = self._attempt(activation, prepared, report)
        except BadCode as error:
            completion = failed(failures.BAD_CODE, str(error))
        except Exception as error:  # noqa: BLE001 - the port never raises; what is left here is a defect of ours, named
            completion = failed(failures.SANDBOX_CRASHED, f"the runtime failed: {type(error).__name__}: {error}")
        usage = msgspec.structs.replace(
            completion.usage,
            wall_us=(time.monotonic_ns() - began) // 1000,
            cpu_us=(time.process_time_ns() - cpu_began) // 1000,
        )
        return msgspec.structs.replace(completion, usage=usage, runtime=self.version)

    def _attempt(self, activation: Activation, prepared: bytes, report: Report) -> Completion:
        limits = activation.limits
        loaded = self._load(activation, prepared)
        store = wasmtime.Store(loaded.engine)
        store.set_limits(limits.memory_bytes, _TABLE_ELEMENTS_MAX, 1, _TABLES_MAX, 1)
        store.set_epoch_deadline(1)
        if limits.fuel:
            store.set_fuel(limits.fuel)
        guest = self._guest = Guest(activation, store, report)
        output: bytes | None = None
        failure: Failure | None = None
        self._clock.begin(loaded.engine, limits.wall_us / 1e6, (limits.cpu_us or limits.wall_us) / 1e6)
        try:
            output = _run(loaded, store, guest)
        except (wasmtime.Trap, wasmtime.WasmtimeError, GuestEnded, GuestExit, MissingExport) as error:
            guest.flush_log()
            failure = failure_of(error, guest)
        finally:
            self._clock.end()
            self._guest = None
        guest.flush_log()
        usage = Usage(
            fuel=limits.fuel - store.get_fuel() if limits.fuel else 0,
            peak_memory_bytes=guest.memory.data_len(store) if guest.memory is not None else 0,
        )
        return completion_of(output, failure, guest, usage)

    def _engine(self, flavour: str) -> tuple[wasmtime.Engine, wasmtime.Linker]:
        if flavour not in self._engines:
            engine = engine_for(flavour)
            self._engines[flavour] = engine, linker_for(engine, self._current)
        return self._engines[flavour]

    def _current(self) -> Guest:
        if self._guest is None:
            raise MissingExport("a host function was called while no task runs")
        return self._guest

    def _load(self, activation: Activation, prepared: bytes) -> _Loaded:
        flavour = flavour_of(activation.limits)
        key = (activation.digest, flavour, activation.entry)
        loaded = self._loaded.get(key)
        if loaded is None:
            engine, linker = self._engine(flavour)
            module = wasmtime.Module.deserialize(engine, prepared)
            loaded = _Loaded(engine, linker.instantiate_pre(module), module_facts(activation.code, activation.entry))
            self._loaded[key] = loaded
            if len(self._loaded) > _MODULES_KEPT:
                self._loaded.popitem(last=False)
        return loaded


def _run(loaded: _Loaded, store: wasmtime.Store, guest: Guest) -> bytes:
    """Instantiate and run; return the output as the module left it."""
    instance = loaded.ready.instantiate(store)
    guest.memory = memory_of(store, instance)
    if loaded.facts.abi == "wasi":
        try:
            call_function(store, instance, "_start", results=0)
        except GuestExit as exit_call:
            if exit_call.code != 0:
                raise
        return bytes(guest.output).strip()
    return _run_pointer(loaded.facts, store, instance, guest)


def _run_pointer(facts: ModuleFacts, store: wasmtime.Store, instance: wasmtime.Instance, guest: Guest) -> bytes:
    given, limits = guest.activation.input, guest.activation.limits
    if "_initialize" in facts.optional:
        call_function(store, instance, "_initialize", results=0)
    pointer = call_function(store, instance, "alloc", len(given)) & _U32
    if pointer == 0 or not guest.poke(pointer, given):
        raise guest.ended(failures.BAD_OUTPUT, f"alloc({len(given)}) gave {pointer}, where the input does not fit")
    result = call_function(store, instance, "run", pointer, len(given))
    at, length = result >> 32, result & _U32
    if length > limits.output_bytes:
        raise guest.ended(
            failures.OUTPUT_TOO_LARGE, f"the result is {length} bytes; the limit is {limits.output_bytes}"
        )
    output = guest.peek(at, length)
    if output is None:
        raise guest.ended(failures.BAD_OUTPUT, f"the result is {length} bytes at {at}, which is out of bounds")
    return output
