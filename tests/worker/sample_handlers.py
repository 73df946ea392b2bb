"""Handlers for the tests, as an operator would write them."""

from __future__ import annotations

import asyncio
import time

import pydantic

from windlass.runtimes.python_context import TaskContext, TaskFailure
from windlass.runtimes.python_handlers import handler


class Order(pydantic.BaseModel):
    """What comes in."""

    id: int
    amount: float = 0.0


class Receipt(pydantic.BaseModel):
    """What goes out."""

    order: int
    key: str


@handler("sample.charge", category="payment", name="Charge")
async def charge(input: Order, ctx: TaskContext) -> Receipt:
    """Charge an order."""
    if input.amount < 0:
        raise TaskFailure("BAD_AMOUNT", "an amount is not negative", retryable=False)
    ctx.progress(0.5, "charging")
    ctx.log("info", "charged", amount=input.amount)
    return Receipt(order=input.id, key=ctx.task.idempotency_key)


@handler("sample.slow")
async def slow(ctx: TaskContext) -> str:
    """Never ends by itself."""
    ctx.heartbeat({"at": 1})
    await asyncio.sleep(3600)
    return "never"


@handler("sample.blocking")
def blocking(input: float) -> float:
    """Blocks its thread, not the worker."""
    time.sleep(input)
    return input


@handler("sample.hanging")
def hanging(ctx: TaskContext) -> None:
    """Never looks whether it is wanted. The time that it asks for is in the history, so a test knows that it runs."""
    ctx.extend("2h")
    time.sleep(3600)


NOT_A_HANDLER = 1
