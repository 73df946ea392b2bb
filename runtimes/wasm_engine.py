"""wasmtime, set up for hostile modules: what is switched off, and the clock that ends a module.

Time is limited by epochs: compiled code compares a counter at each loop and call, and traps when it has moved on. Every
store's deadline is one step away, and the counter moves only when the running task is past its limits. So there is no
drift between ticks and time, and between tasks the clock thread sleeps. It must be started before seccomp forbids it.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import wasmtime

#: Part of the name of what is compiled: change it when anything in `engine_for` changes.
CONFIG_VERSION: Final = "2"
STACK_BYTES: Final = 512 << 10

_OFF: Final = (
    "wasm_threads",
    "shared_memory",
    "wasm_gc",
    "gc_support",
    "wasm_function_references",
    "wasm_exceptions",
    "wasm_memory64",
    "wasm_multi_memory",
    "wasm_component_model",
    "wasm_stack_switching",
    "wasm_custom_page_sizes",
    "wasm_wide_arithmetic",
    "wasm_relaxed_simd",
    "parallel_compilation",
    # Would need memfd_create for every instance.
    "memory_init_cow",
    "native_unwind_info",
)
_ON: Final = ("wasm_simd", "wasm_bulk_memory", "wasm_reference_types", "wasm_multi_value", "wasm_tail_call")


def engine_for(flavour: str) -> wasmtime.Engine:
    """Return a new engine. "metered" code counts its fuel, which costs half its speed."""
    config = wasmtime.Config()
    for feature in _OFF:
        setattr(config, feature, False)
    for feature in _ON:
        setattr(config, feature, True)
    config.cranelift_nan_canonicalization = True
    config.epoch_interruption = True
    config.consume_fuel = flavour == "metered"
    config.max_wasm_stack = STACK_BYTES
    # The default reserves 4 GB of addresses for each memory, which an address space limit refuses.
    config.memory_reservation = 0
    config.memory_guard_size = 0
    config.memory_reservation_for_growth = 16 << 20
    return wasmtime.Engine(config)


class TaskClock:
    """Moves the epoch of an engine when the task that runs on it is past its wall or CPU limit."""

    _TICK_SECONDS: Final = 0.005
    _LINGER_SECONDS: Final = 0.5

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._task: tuple[wasmtime.Engine, float, float] | None = None
        self._parked = True
        self._cpu_clock: int | None = None

    def start(self) -> None:
        """Start the thread. The calling thread is the one whose CPU time counts."""
        self._cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
        threading.Thread(target=self._watch, name="task clock", daemon=True).start()

    def begin(self, engine: wasmtime.Engine, wall_seconds: float, cpu_seconds: float) -> None:
        """Say that a task begins now, with these limits."""
        with self._changed:
            self._task = (engine, time.monotonic() + wall_seconds, self._cpu() + cpu_seconds)
            if self._parked:
                self._parked = False
                self._changed.notify()

    def end(self) -> None:
        """Say that the task is over: the counter will not move any more for its sake."""
        with self._changed:
            self._task = None

    def _cpu(self) -> float:
        return time.clock_gettime(self._cpu_clock) if self._cpu_clock is not None else 0.0

    def _watch(self) -> None:
        idle_since = time.monotonic()
        while True:
            with self._changed:
                now = time.monotonic()
                if self._task is not None:
                    engine, wall_end, cpu_end = self._task
                    idle_since = now
                    if now >= wall_end or self._cpu() >= cpu_end:
                        engine.increment_epoch()
                elif now - idle_since > self._LINGER_SECONDS:
                    self._parked = True
                    while self._parked:
                        self._changed.wait()
                    idle_since = time.monotonic()
            time.sleep(self._TICK_SECONDS)
