"""Every attempt of a Python handler has an answer, whatever its author's code raises: without one it holds its slot for
as long as the worker lives.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pydantic
import pytest

from tests.runtimes.guests import task
from windlass.runtimes import failures
from windlass.runtimes.port import Activation, Failure
from windlass.runtimes.python import PythonHandlers
from windlass.runtimes.python_handlers import HandlerRegistry, handler


class Panic(BaseException):
    """What extensions written in Rust raise, so that `except Exception` does not take it."""


class Wordless(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise ValueError


class Picky(pydantic.BaseModel):
    """Its validator has a mistake."""

    item: str

    @pydantic.field_validator("item")
    @classmethod
    def known(cls, item: str) -> str:
        return {"screw": item}[item]


@handler("raises")
def raises(input: str) -> Any:
    """Raise what is asked for, in a thread."""
    if input == "panic":
        raise Panic("oh")
    if input == "wordless":
        raise Wordless
    return next(iter(()))


@handler("raises_later")
async def raises_later(input: str) -> Any:
    """The same on the loop."""
    return raises.function(input)


@handler("picky")
async def picky(input: Picky) -> None:
    """Never called."""


async def failure_of(type: str, given: object) -> Failure:
    python = PythonHandlers(HandlerRegistry([raises, raises_later, picky]), threads=1)
    async with asyncio.timeout(5):
        done = await python.run(Activation(task=task(), runtime="python", entry=type, input=msgspec.json.encode(given)))
    await python.close()
    assert done.failure is not None
    return done.failure


@pytest.mark.parametrize("type", ["raises", "raises_later"])
@pytest.mark.parametrize(
    ("way", "message"), [("panic", "Panic: oh"), ("wordless", "Wordless"), ("stop", "RuntimeError: ")]
)
async def test_whatever_a_handler_raises_is_its_attempts_failure(type: str, way: str, message: str) -> None:
    failure = await failure_of(type, way)
    assert failure.code == failures.USER_ERROR
    assert failure.message.startswith(message)


async def test_whatever_a_validator_raises_is_the_attempts_failure_too() -> None:
    failure = await failure_of("picky", {"item": "nail"})
    assert (failure.code, failure.message) == (failures.USER_ERROR, "KeyError: 'nail'")
