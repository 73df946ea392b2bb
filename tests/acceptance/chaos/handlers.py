"""The trusted handler of the load, for `windlass worker --handlers tests.acceptance.chaos.handlers`.

Its side effect is a line in a file: one atomic append per execution, which no crash of the worker can take back.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from windlass.runtimes.python_context import TaskContext
from windlass.runtimes.python_handlers import handler

LEDGER, WORKER = "WINDLASS_CHAOS_LEDGER", "WINDLASS_CHAOS_WORKER"
SLOW_SECONDS = 0.8


@handler("chaos.step")
async def step(input: int, ctx: TaskContext) -> int:
    """Adds one, and says so outside."""
    _note(ctx)
    return input + 1


@handler("chaos.slow")
async def slow(input: int, ctx: TaskContext) -> dict[str, int | str]:
    """The same, in its own time and signed by its worker: whatever happens to a worker hits some of these."""
    _note(ctx)
    await asyncio.sleep(SLOW_SECONDS)
    return {"n": input + 1, "by": os.environ[WORKER]}


def _note(ctx: TaskContext) -> None:
    opened = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(opened, f"{ctx.task.idempotency_key} {ctx.task.attempt}\n".encode())
    finally:
        os.close(opened)


def executions(path: Path) -> dict[str, int]:
    """How often each task was executed, by idempotency key."""
    counted: dict[str, int] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        key = line.split()[0]
        counted[key] = counted.get(key, 0) + 1
    return counted
