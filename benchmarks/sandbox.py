"""What a task costs in the jail: alone, at full load, with larger values, when it is cancelled, after one was killed.

    python -m benchmarks.sandbox                  # a table; with --json also the figures as JSON
    python -m benchmarks.sandbox --tasks 100000   # and whether the memory of a slot stays flat over so many

Everything goes through the real jail, as a worker uses it: child processes, both pipes, a fresh context per task. The
parent is one event loop on the same cores. Each figure is the best of several rounds for throughput, the median for
latency; a busy machine makes both worse.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import wasmtime

from windlass.runtimes.jail_pool import SlotPool
from windlass.runtimes.jail_settings import JailSettings
from windlass.runtimes.port import Activation, Limits, TaskIdentity

_visits = itertools.count(1)
_LIMITS = Limits(wall_us=10_000_000)
_SMALL = b'{"a":1,"b":2}'
_LARGE = json.dumps(
    {"items": [{"id": number, "name": f"item number {number}", "price": 12.5} for number in range(210)]},
    separators=(",", ":"),
).encode()
_ECHO = """(module (memory (export "memory") 2)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1)))))"""
_COMMAND = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 100000))
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""

#: What issue and design ask for: name → (figure must be, unit).
TARGETS: dict[str, tuple[str, float, str]] = {
    "js_per_second": (">=", 4_500, "tasks/s, trivial, two slots"),
    "js_alone_us": ("<", 400, "µs, one at a time"),
    "js_cpu_us": ("", 0, "µs of CPU per task, children and parent together"),
    "js_run_ctx_alone_us": ("", 0, "µs, run(input, ctx) that sets a context value"),
    "js_10kb_per_second": (">=", 1_300, "tasks/s, 10 kB of JSON in and out"),
    "wasm_ptr_per_second": ("", 0, "tasks/s, pointer interface"),
    "wasm_ptr_cpu_us": ("", 0, "µs of CPU per task, children and parent together"),
    "wasm_ptr_alone_us": ("<", 300, "µs, one at a time"),
    "wasm_wasi_alone_us": ("", 0, "µs, WASI command, one at a time"),
    "wasm_10kb_per_second": (">=", 1_300, "tasks/s, 10 kB of JSON in and out"),
    "cancel_ms": ("<", 100, "ms from cancel to the answer, the child killed"),
    "after_kill_wait_ms": ("<=", 5, "ms that the task after a killed one waits longer"),
    "start_ms": ("", 0, "ms from nothing to two slots and a spare"),
    "slot_rss_mb": ("<", 60, "MB, an idle slot with both engines"),
    "slot_growth_mb": ("<", 5, "MB that a slot has grown over --tasks tasks"),
}


def activation(code: bytes, runtime: str, given: bytes) -> Activation:
    """Return one more task."""
    visit = next(_visits)
    task = TaskIdentity("default", "run", "benchmark", "state", visit, "", 1, f"run:{visit}:")
    return Activation(task, runtime, code, input=given, limits=_LIMITS)


def js(source: str, given: bytes = _SMALL) -> Activation:
    """Return a task in JavaScript."""
    return activation(source.encode(), "javascript", given)


class Modules:
    """The two modules, assembled once."""

    pointer = bytes(wasmtime.wat2wasm(_ECHO))
    command = bytes(wasmtime.wat2wasm(_COMMAND))


async def alone_us(pool: SlotPool, make: Callable[[], Activation], count: int = 400) -> float:
    """Return the median time of one task when there is no other."""
    took = []
    for _ in range(count):
        one = make()
        began = time.perf_counter()
        completion = await pool.run(one)
        took.append((time.perf_counter() - began) * 1e6)
        assert completion.failure is None, completion
    return statistics.median(took[count // 10 :])


async def per_second(pool: SlotPool, make: Callable[[], Activation], count: int, rounds: int = 4) -> float:
    """Return the best throughput with many tasks waiting."""
    best = 0.0
    gc.collect()
    for _ in range(rounds):
        tasks = [make() for _ in range(count)]
        began = time.perf_counter()
        async for _, completion in pool.run_batch(tasks):
            assert completion.failure is None, completion
        best = max(best, count / (time.perf_counter() - began))
    return best


async def cancel_ms(pool: SlotPool, rounds: int = 5) -> float:
    """Return the worst time from a cancel to its answer."""
    worst = 0.0
    for _ in range(rounds):
        endless = js("for(;;);")
        answer = pool.submit(endless)
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        pool.cancel(endless.task.key)
        await answer
        worst = max(worst, (time.perf_counter() - began) * 1e3)
        await spare_is_back(pool)
    return worst


async def after_kill_ms(pool: SlotPool, rounds: int = 7) -> float:
    """Return by how much longer the task after a killed one takes than usual (median)."""
    usual = await alone_us(pool, lambda: js("input.a"), 100) / 1e3
    waits = []
    for _ in range(rounds):
        endless = js("for(;;);")
        answer = pool.submit(endless)
        await asyncio.sleep(0.05)
        pool.cancel(endless.task.key)
        began = time.perf_counter()
        await pool.run(js("input.a"))
        waits.append((time.perf_counter() - began) * 1e3 - usual)
        await answer
        await spare_is_back(pool)
    return statistics.median(waits)


async def spare_is_back(pool: SlotPool) -> None:
    """Wait until the pool has got over a kill."""
    while not pool.report().spare or pool.report().starting:  # noqa: ASYNC110 - a benchmark may look now and then
        await asyncio.sleep(0.01)


def cpu_seconds(pool: SlotPool) -> float:
    """Return the CPU time that the children and this process have used."""
    ticks = 0
    for pid in pool.child_pids():
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


async def cpu_us(make: Callable[[], Activation], count: int) -> float:
    """Return the CPU time per task of both sides: what is left of a throughput figure on a busy machine."""
    pool = SlotPool(JailSettings(slots=2, recycle_after=count * 10))
    await pool.start()
    await per_second(pool, make, 200, rounds=1)
    await spare_is_back(pool)
    before = cpu_seconds(pool)
    await per_second(pool, make, count, rounds=1)
    used = cpu_seconds(pool) - before
    await pool.close()
    return used / count * 1e6


def rss_mb(pool: SlotPool) -> float:
    """Return the memory of the largest child."""
    sizes = []
    for pid in pool.child_pids():
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        sizes.append(pages * 4096 / 1e6)
    return max(sizes)


async def growth_mb(count: int) -> float:
    """Return by how much a slot grows over `count` tasks without being replaced."""
    pool = SlotPool(JailSettings(slots=1, spares=0, recycle_after=count * 2))
    await pool.start()
    numbers = itertools.count()

    def either() -> Activation:
        return activation(Modules.pointer, "wasm", _SMALL) if next(numbers) % 2 else js("input.a + input.b")

    await per_second(pool, either, 2_000, rounds=1)
    before = rss_mb(pool)
    for _ in range(count // 2_000):
        await per_second(pool, either, 2_000, rounds=1)
    after = rss_mb(pool)
    await pool.close()
    return after - before


async def measure(tasks: int) -> dict[str, float]:
    """Return all figures."""
    began = time.perf_counter()
    pool = SlotPool(JailSettings(slots=2))
    await pool.start()
    await spare_is_back(pool)
    found = {"start_ms": (time.perf_counter() - began) * 1e3, "slot_rss_mb": rss_mb(pool)}
    steps: dict[str, Callable[[], Awaitable[float]]] = {
        "js_alone_us": lambda: alone_us(pool, lambda: js("input.a + input.b")),
        "js_run_ctx_alone_us": lambda: alone_us(pool, lambda: js("const run = (i, ctx) => ctx.set('sum', i.a + i.b)")),
        "js_per_second": lambda: per_second(pool, lambda: js("input.a + input.b"), 4_000),
        "js_cpu_us": lambda: cpu_us(lambda: js("input.a + input.b"), 4_000),
        "js_10kb_per_second": lambda: per_second(pool, lambda: js("input", _LARGE), 1_500),
        "wasm_ptr_alone_us": lambda: alone_us(pool, lambda: activation(Modules.pointer, "wasm", _SMALL)),
        "wasm_wasi_alone_us": lambda: alone_us(pool, lambda: activation(Modules.command, "wasm", _SMALL)),
        "wasm_ptr_per_second": lambda: per_second(pool, lambda: activation(Modules.pointer, "wasm", _SMALL), 6_000),
        "wasm_ptr_cpu_us": lambda: cpu_us(lambda: activation(Modules.pointer, "wasm", _SMALL), 6_000),
        "wasm_10kb_per_second": lambda: per_second(pool, lambda: activation(Modules.pointer, "wasm", _LARGE), 2_000),
        "cancel_ms": lambda: cancel_ms(pool),
        "after_kill_wait_ms": lambda: after_kill_ms(pool),
    }
    for name, step in steps.items():
        found[name] = await step()
    await pool.close()
    if tasks:
        found["slot_growth_mb"] = await growth_mb(tasks)
    return found


def verdict(name: str, value: float) -> str:
    """Return "ok", "MISSED", or "" for a figure without a target."""
    relation, target, _ = TARGETS[name]
    if not relation:
        return ""
    met = {">=": value >= target, "<": value < target, "<=": value <= target}[relation]
    return "ok" if met else "MISSED"


def table(found: dict[str, float]) -> str:
    """Return the figures for people."""
    lines = []
    for name, (relation, target, unit) in TARGETS.items():
        if name in found:
            wanted = f"{relation} {target:,.0f}" if relation else ""
            lines.append(f"{name:22} {found[name]:>10,.1f}  {wanted:>9}  {verdict(name, found[name]):6} {unit}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON as well")
    parser.add_argument(
        "--tasks", type=int, default=0, help="also run so many tasks in one slot and look at its memory"
    )
    options: Any = parser.parse_args()
    found = asyncio.run(measure(options.tasks))
    print(table(found))
    print(f"load of the machine over the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if options.json:
        print(json.dumps({name: round(value, 2) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
