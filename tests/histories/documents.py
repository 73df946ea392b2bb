"""Definitions whose runs stand in every phase there is. Once recorded they must not change: revisions are kept."""

from __future__ import annotations

from typing import Any, Final

Document = dict[str, Any]

_RETRY: Final = {"max_attempts": 3, "initial_delay": "1h", "max_delay": "1h", "multiplier": 1}


def _task(**more: Any) -> Document:
    """A state with a task that takes the whole context."""
    task = {"runtime": "javascript", "code": "input", **more.pop("task", {})}
    return {"task": task, "input": "full", "output": "done", "retry": _RETRY, "timeout": "1h", **more}


def _workflow(name: str, states: Document, **more: Any) -> Document:
    return {"workflow": name, "initial": next(iter(states)), "states": states, **more}


_HANDLED: Final = {"runtime": "python", "handler": "echo"}
DOCUMENTS: Final[tuple[Document, ...]] = (
    _workflow("once", {"work": _task(next="end"), "end": {}}),
    _workflow("failing", {"work": _task(retry="none")}),
    _workflow("held", {"work": _task(next="more"), "more": _task(input={"path": "done.n"})}),
    _workflow("queued", {"work": _task(next="end"), "end": {}}, queue="elsewhere", priority=7),
    _workflow("backoff", {"work": _task()}),
    _workflow("asleep", {"rest": {"delay": "1h", "next": "work"}, "work": _task()}),
    _workflow("listening", {"listen": {"wait": {"signals": ["a", "b"]}, "output": "got", "timeout": "7d"}}),
    _workflow("hoarding", {"rest": {"delay": "1h", "next": "listen"}, "listen": {"wait": "a", "output": "got"}}),
    _workflow("asked", {"ask": {"escalate": {"to": "ada", "message": "n is ${n}"}, "output": "said"}}),
    _workflow("parked", {"judge": {"transitions": [{"when": "missing > 1", "to": "end"}, {"to": None}]}, "end": {}}),
    _workflow("paused", {"rest": {"delay": "30m", "next": "work"}, "work": _task()}),
    _workflow(
        "mapped",
        {
            "all": {
                "map": {"items": "items", "concurrency": 2, "task": _HANDLED, "input": {"key": "item"}},
                "output": "results",
            }
        },
    ),
    _workflow(
        "side_by_side",
        {
            "both": {
                "parallel": {
                    "branches": {
                        "done": {"task": _HANDLED, "input": {"key": "n"}, "output": "first"},
                        "open": {"wait": "go", "output": "second"},
                    }
                }
            }
        },
    ),
    _workflow("parent", {"child": {"spawn": "listening", "input": {"keys": ["n"]}, "output": "child"}}),
    _workflow("pending", {"work": _task()}),
    _workflow(
        "cancelling",
        {
            "book": _task(next="hold", compensate={"task": _HANDLED, "input": {"key": "n"}}),
            "hold": {"task": _HANDLED, "input": {"key": "n"}},
        },
        cancel_grace="30m",
    ),
    _workflow("polling", {"ask": {"poll": {"task": _HANDLED, "interval": "1h"}, "input": {"key": "n"}, "output": "n"}}),
)
