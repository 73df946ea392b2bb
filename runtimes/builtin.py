"""The ready-made handlers, for a worker that was told to offer them."""

from __future__ import annotations

from typing import Any

import pydantic

from windlass.runtimes.builtin_email import email_handlers
from windlass.runtimes.builtin_http import http_handlers
from windlass.runtimes.builtin_network import NetworkPolicy
from windlass.runtimes.port import Level
from windlass.runtimes.python_context import TaskContext
from windlass.runtimes.python_handlers import Handler, handler


class LogEntry(pydantic.BaseModel):
    """What to write."""

    model_config = pydantic.ConfigDict(extra="forbid")

    message: str
    level: Level = "info"
    fields: dict[str, Any] = {}


@handler("log.write", name="Log", category="basic")
async def log_write(input: LogEntry, ctx: TaskContext) -> None:
    """Write a line to the run's log."""
    ctx.log(input.level, input.message, **input.fields)


def standard_handlers(policy: NetworkPolicy | None = None) -> list[Handler]:
    """Return all ready-made handlers. `policy`: whom they may talk to; by default any public address."""
    chosen = policy or NetworkPolicy()
    return [log_write, *http_handlers(chosen), *email_handlers(chosen)]
