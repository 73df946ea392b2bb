"""Definitions for tests, built straight from the core's records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from windlass.engine.core.definition import (
    Body,
    Branch,
    Definition,
    DelayBody,
    Expression,
    ExpressionError,
    RetryPolicy,
    Schema,
    State,
    TaskBody,
    Timeouts,
    Transition,
)
from windlass.engine.core.selectors import NO_INPUT, Key, Selector, Template, parse_template

SECOND = 1_000_000


def task(handler: str = "work", **given: Any) -> TaskBody:
    return TaskBody(runtime="python", handler=handler, **given)


def branch(body: Body, input: Selector | str = NO_INPUT, **given: Any) -> Branch:
    return Branch(body=body, input=Key(key=input) if isinstance(input, str) else input, **given)


def delay(seconds: float) -> Branch:
    return Branch(body=DelayBody(duration_us=int(seconds * SECOND)))


def on(outcome: str, to: str | None, **given: Any) -> Transition:
    return Transition(on=outcome, to=to, **given)


def state(name: str, step: Branch | Body | None = None, *transitions: Transition, **given: Any) -> State:
    if step is not None and not isinstance(step, Branch):
        step = Branch(body=step)
    return State(name=name, step=step, transitions=transitions, **given)


def workflow(*states: State, **given: Any) -> Definition:
    """The first state is the initial one."""
    return Definition(
        name=given.pop("name", "test"),
        revision="0" * 64,
        initial=states[0].name,
        states={one.name: one for one in states},
        **given,
    )


def template(value: Any) -> Template:
    return parse_template(value)


def expression(source: str) -> Expression:
    """A tiny stand-in for CEL: Python's own expressions over the names, with dots into objects."""
    python = source.replace("&&", " and ").replace("||", " or ")
    python = re.sub(r"\btrue\b", "True", re.sub(r"\bfalse\b", "False", python))
    code = compile(python, source, "eval")

    def evaluate(values: Mapping[str, Any]) -> Any:
        try:
            return eval(code, {"__builtins__": {}}, _Names(values))
        except Exception as error:
            raise ExpressionError(f"{source!r}: {error}") from error

    return Expression(source=source, evaluate=evaluate)


class _Names(dict[str, Any]):
    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self._values = values

    def __missing__(self, name: str) -> Any:
        return _dotted(self._values[name])


class _Object(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        return _dotted(self[name])


def _dotted(value: Any) -> Any:
    return _Object(value) if isinstance(value, dict) else value


def number_schema() -> Schema:
    """Accepts numbers only."""
    return Schema(
        document=b'{"type":"number"}',
        check=lambda value: [] if isinstance(value, int | float) else [f"$: {value!r} is not a number"],
    )


ONCE = RetryPolicy(max_attempts=1)
QUICK = RetryPolicy(max_attempts=3, initial_delay_us=SECOND, multiplier=2.0, jitter=0.0)


def limits(**seconds: float) -> Timeouts:
    return Timeouts(**{f"{name}_us": int(value * SECOND) for name, value in seconds.items()})
