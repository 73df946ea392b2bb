"""The mixed load: one definition per kind of work, the input that starts it, and the only output it may end with.

Every step adds to a counter that it has read from the context, so a result that is recorded twice, or not at all, shows
in the output. Some steps are Python handlers that also write to a ledger outside: that counts executions, which may be
more than the recordings.
"""

from __future__ import annotations

from typing import Any, Final

Document = dict[str, Any]

#: Steps of "ten".
STEPS: Final = 10
#: Items of "fan".
ITEMS: Final = 8
#: Payloads of the signals of one "signals" run: every subset has another sum.
SIGNALS: Final = (1, 10, 100)
#: How long "timer" waits, in milliseconds.
DELAY_MS: Final = 700

_PATIENT: Final[Document] = {"max_attempts": 0, "initial_delay": "100ms", "max_delay": "2s"}
_JAVASCRIPT: Final[Document] = {"runtime": "javascript", "code": "input + 1"}
_LEDGER: Final[Document] = {"runtime": "python", "handler": "chaos.step"}


def _counting(task: Document, to: str | None, **more: Any) -> Document:
    """A state that takes `n` and leaves `n + 1`."""
    step = {"task": task, "input": {"key": "n"}, "output": "n", "retry": _PATIENT, "timeout": "10s", **more}
    return {**step, "transitions": [{"on": "success", "to": to}]}


def _slow(to: str | None) -> Document:
    """A state whose task takes its time, and is signed by the worker that did it."""
    task = {"runtime": "python", "handler": "chaos.slow"}
    step = {"task": task, "input": {"path": "at.n"}, "output": "at", "retry": _PATIENT, "timeout": "10s"}
    return {**step, "transitions": [{"on": "success", "to": to}]}


def _workflow(name: str, initial: str, states: Document, output: Any) -> Document:
    return {"workflow": name, "initial": initial, "states": states, "output": output, "on_unhandled": "incident"}


_TEN: Final = {
    f"s{number}": _counting(_LEDGER if number % 2 else _JAVASCRIPT, f"s{number + 1}" if number + 1 < STEPS else None)
    for number in range(STEPS)
}
_FLAKY: Final = {
    "runtime": "javascript",
    "code": "if (ctx.attempt < 3) throw new Error('not yet'); input + 1",
}
_FAN: Final = {
    "items": {"key": "items"},
    "concurrency": 4,
    "task": _JAVASCRIPT,
    "input": {"key": "item"},
    "retry": _PATIENT,
}
_COLLECT: Final = {"runtime": "javascript", "code": "({total: input.total + input.got.tick, count: input.count + 1})"}

DEFINITIONS: Final[tuple[Document, ...]] = (
    _workflow("one", "only", {"only": _counting(_LEDGER, None)}, {"key": "n"}),
    _workflow("ten", "s0", _TEN, {"key": "n"}),
    _workflow("flaky", "try", {"try": _counting(_FLAKY, None)}, {"key": "n"}),
    _workflow("fan", "fan", {"fan": {"map": _FAN, "output": "raised"}}, {"key": "raised"}),
    _workflow(
        "timer",
        "sleep",
        {"sleep": {"delay": f"{DELAY_MS}ms", "next": "wake"}, "wake": _counting(_LEDGER, None)},
        {"key": "n"},
    ),
    _workflow(
        "signals",
        "listen",
        {
            "listen": {"wait": "tick", "output": "got", "next": "collect"},
            "collect": {
                "task": _COLLECT,
                "input": {"template": {"total": "${sum.total}", "count": "${sum.count}", "got": "${got}"}},
                "output": "sum",
                "retry": _PATIENT,
                "transitions": [{"on": "success", "when": f"sum.count < {len(SIGNALS)}", "to": "listen"}, {"to": None}],
            },
        },
        {"key": "sum"},
    ),
    _workflow("slow", "first", {"first": _slow("second"), "second": _slow(None)}, {"path": "at.n"}),
    _workflow("parent", "child", {"child": {"spawn": "ten", "input": {"keys": ["n"]}, "output": "n"}}, {"key": "n"}),
    _workflow("cancelled", "sleep", {"sleep": {"delay": "1h", "next": "after"}, "after": {}}, {"key": "n"}),
)
KINDS: Final = tuple(document["workflow"] for document in DEFINITIONS)

INPUTS: Final[dict[str, Any]] = {
    **{kind: {"n": 0} for kind in KINDS},
    "slow": {"at": {"n": 0}},
    "fan": {"items": list(range(ITEMS))},
    "signals": {"sum": {"total": 0, "count": 0}},
}
#: What a run ends with: its state and its output.
ENDS: Final[dict[str, tuple[str, Any]]] = {
    "one": ("completed", 1),
    "ten": ("completed", STEPS),
    "flaky": ("completed", 1),
    "fan": ("completed", list(range(1, ITEMS + 1))),
    "slow": ("completed", 2),
    "timer": ("completed", 1),
    "signals": ("completed", {"total": sum(SIGNALS), "count": len(SIGNALS)}),
    "parent": ("completed", STEPS),
    "cancelled": ("cancelled", None),
}
