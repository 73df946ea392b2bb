"""The workflows that are measured: W1 one step, W2 ten steps in sequence, W3 a fan-out of 100 and its join."""

from __future__ import annotations

import json
from typing import Any, Final

#: Task code per runtime: doubles a number (`{"x": 1}` or a bare number in, a number out).
JAVASCRIPT: Final = "input * 2"
WAT: Final = """
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1)))))
"""
#: Name of the Python handler that `--handlers benchmarks.handlers` registers.
HANDLER: Final = "bench_double"


def task(runtime: str, module: str = "") -> dict[str, Any]:
    """The task of every step."""
    if runtime == "python":
        return {"runtime": "python", "handler": HANDLER}
    if runtime == "wasm":
        return {"runtime": "wasm", "module": module}
    return {"runtime": "javascript", "code": JAVASCRIPT}


def one_step(body: dict[str, Any]) -> dict[str, Any]:
    """W1."""
    return {"workflow": "w1", "initial": "s0", "states": {"s0": {"task": body, "input": {"key": "x"}, "output": "x"}}}


def ten_steps(body: dict[str, Any]) -> dict[str, Any]:
    """W2."""
    states: dict[str, Any] = {}
    for number in range(10):
        states[f"s{number}"] = {"task": body, "input": {"key": "x"}, "output": "x"}
        if number < 9:
            states[f"s{number}"]["transitions"] = [{"on": "success", "to": f"s{number + 1}"}]
    return {"workflow": "w2", "initial": "s0", "states": states}


def fan_out(body: dict[str, Any]) -> dict[str, Any]:
    """W3."""
    items = {"items": {"key": "items"}, "task": body, "input": {"key": "item"}}
    return {"workflow": "w3", "initial": "fan", "states": {"fan": {"map": items, "output": "doubled"}}}


SHAPES: Final = {"w1": one_step, "w2": ten_steps, "w3": fan_out}
#: Steps of one workflow, for steps/s and tasks/s.
STEPS: Final = {"w1": 1, "w2": 10, "w3": 100}


def input_of(shape: str) -> bytes:
    """A run's input."""
    return json.dumps({"items": list(range(100))} if shape == "w3" else {"x": 1}).encode()
