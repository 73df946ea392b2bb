"""The trusted handler of the load, for `windlass worker --handlers tests.acceptance.chaos.handlers`.

Its side effect is a line in a file: one atomic append per execution, which no crash of the worker can take back.
"""

from __future__ import annotations

import os
from pathlib import Path

from windlass.runtimes.python_context import TaskContext
from windlass.runtimes.python_handlers import handler

LEDGER = "WINDLASS_CHAOS_LEDGER"


@handler("chaos.step")
async def step(input: int, ctx: TaskContext) -> int:
    """Adds one, and says so outside."""
    path = os.environ[LEDGER]
    opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(opened, f"{ctx.task.idempotency_key} {ctx.task.attempt}\n".encode())
    finally:
        os.close(opened)
    return input + 1


def executions(path: Path) -> dict[str, int]:
    """How often each task was executed, by idempotency key."""
    counted: dict[str, int] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        key = line.split()[0]
        counted[key] = counted.get(key, 0) + 1
    return counted
