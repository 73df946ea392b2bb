"""Definitions that the engine's tests run, as authors would write them."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]


def one_task(name: str = "task", **more: Any) -> Document:
    """A state that runs a task on the default queue, then the end. `more` goes into the state."""
    state: Document = {"task": {"runtime": "javascript", "code": "input"}, "input": "full", "output": "done", **more}
    state.setdefault("next", "end")
    return {"workflow": name, "initial": "work", "states": {"work": state, "end": {}}}


def waiting(name: str = "wait", **more: Any) -> Document:
    """A state that waits for the signal `go`. `more` goes into the state."""
    state: Document = {"wait": "go", "output": "got", "next": "end", **more}
    return {"workflow": name, "initial": "hold", "states": {"hold": state, "end": {}}}


def delayed(span: str, name: str = "delay") -> Document:
    """A state that lasts this long."""
    return {"workflow": name, "initial": "rest", "states": {"rest": {"delay": span, "next": "end"}, "end": {}}}


def instant(name: str = "instant", **more: Any) -> Document:
    """A run that closes in the transaction that starts it. `more` goes into the document."""
    return {"workflow": name, "initial": "end", "states": {"end": {}}, **more}


def asking(name: str = "ask", **more: Any) -> Document:
    """A state that asks a person. `more` goes into the escalation."""
    escalate = {
        "to": "alice",
        "message": "Approve ${order}?",
        "inputs": [
            {"id": "reason", "type": "select", "label": "Reason", "options": {"vip": "VIP", "other": "Other"}},
            {"id": "discount", "type": "number", "label": "Discount"},
            {"id": "note", "type": "comment", "label": "Note"},
        ],
        **more,
    }
    state = {
        "escalate": escalate,
        "output": "decision",
        "timeout": "7d",
        "transitions": [
            {"on": "approved", "to": "yes"},
            {"on": "rejected", "to": "no"},
            {"on": "timeout", "to": "late"},
        ],
    }
    states = {"ask": state, "yes": {}, "no": {"outcome": "failure", "error_code": "REFUSED"}, "late": {}}
    return {"workflow": name, "initial": "ask", "states": states}
