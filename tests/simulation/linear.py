"""Were the answers that clients got possible, had each call taken effect at one moment between question and answer?

A small pure model of one run, and a search for an order of the calls that the model allows (as Wing and Gong do it).
What the run does by itself, its end, is one more operation without an answer. A call whose fate is unknown may take
effect at any time after it was made, or never.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tests.simulation.operations import Operation
from windlass.engine.core.state import CLOSED, RunState

#: Calls that change nothing the model knows.
_IGNORED: Final = ("set", "pause", "unpause", "step")


class Model(NamedTuple):
    """What clients can tell of a run."""

    exists: bool = False
    cancelling: bool = False
    closed: str = ""  #: how it ended


def steps(model: Model, operation: Operation, final: str) -> list[Model]:
    """The states that `operation`, with the answer it got, may lead to; none if the answer is impossible."""
    return _STEPS[operation.kind](model, operation, final)


def _start(model: Model, operation: Operation, _: str) -> list[Model]:
    if operation.outcome == "RUN_ALREADY_STARTED":
        return [model] if model.exists else []
    if operation.outcome == "unknown":
        return [model if model.exists else Model(exists=True)]
    return [] if model.exists else [Model(exists=True)]


def _signal(model: Model, operation: Operation, _: str) -> list[Model]:
    return _refusable(model, operation, [model] if model.exists and not model.closed else [])


def _cancel(model: Model, operation: Operation, _: str) -> list[Model]:
    effect = operation.value
    if effect == "EFFECT_ALREADY_CLOSED":
        return [model] if model.closed else []
    if effect == "EFFECT_ALREADY_REQUESTED":
        # Looked at a moment after the refusal, the run may be closed by then; both are the truth.
        return [model._replace(cancelling=True)] if model.exists else []
    return _refusable(model, operation, [model._replace(cancelling=True)] if model.exists and not model.closed else [])


def _terminate(model: Model, operation: Operation, _: str) -> list[Model]:
    ended = [model._replace(closed="terminated")] if model.exists and not model.closed else []
    return _refusable(model, operation, ended)


def _get(model: Model, operation: Operation, _: str) -> list[Model]:
    if operation.outcome == "ok" and operation.value in CLOSED:
        return [model] if model.closed == operation.value else []
    if operation.outcome == "ok":
        # A timeout, a parent and the simulation itself cancel too, without a call in the record.
        seen = model.cancelling or operation.value == "cancelling"
        possible = model.exists and not model.closed and seen == (operation.value == "cancelling")
        return [model._replace(cancelling=seen)] if possible else []
    return _refusable(model, operation, [model])


def _close(model: Model, _: Operation, final: str) -> list[Model]:
    return [model._replace(closed=final)] if model.exists and not model.closed else []


def _refusable(model: Model, operation: Operation, accepted: list[Model]) -> list[Model]:
    """Refusals that say something about the run must be true of it."""
    if operation.outcome == "RUN_NOT_FOUND":
        return [] if model.exists else [model]
    if operation.outcome == "RUN_CLOSED":
        return [model] if model.closed else []
    if operation.outcome == "unknown":
        return accepted or [model]
    return accepted if operation.outcome == "ok" else [model]


_STEPS = {"start": _start, "signal": _signal, "cancel": _cancel, "terminate": _terminate, "get": _get, "close": _close}


def check(operations: Sequence[Operation], state: RunState | None) -> Iterator[str]:
    """Problems with what was told about one run, which is now `state` (None: it does not exist)."""
    calls = [each for each in operations if each.kind not in _IGNORED]
    if state is None:
        yield from (f"it does not exist, yet: {call}" for call in calls if call.outcome == "ok")
        return
    if state.status in CLOSED and state.status != "terminated":
        calls.append(Operation("close", state.workflow_id, outcome="ok"))
    elif state.status == "terminated" and not any(
        c.kind == "terminate" and c.outcome in ("ok", "unknown") for c in calls
    ):
        yield "it was terminated, and nobody asked for it"
    if not _ordered(calls, state.status):
        told = "; ".join(f"[{c.called_s:.3f}, {c.answered_s:.3f}] {c}" for c in sorted(calls, key=lambda c: c.called_s))
        yield f"no order of these calls explains their answers (it ended {state.status}): {told}"


def _ordered(calls: list[Operation], final: str) -> bool:
    """Search for an order, depth first. A state met before with the same calls left is not tried again."""
    calls = sorted(calls, key=lambda call: call.called_s)
    begin = (frozenset(range(len(calls))), Model())
    met, stack = {begin}, [begin]
    while stack:
        left, model = stack.pop()
        if all(calls[n].outcome == "unknown" for n in left):
            return True
        bound = min(calls[n].answered_s for n in left)
        for n in sorted(left, reverse=True):
            if calls[n].called_s > bound:
                continue  # somebody had his answer before this was asked
            for after in steps(model, calls[n], final):
                found = (left - {n}, after)
                if found not in met:
                    met.add(found)
                    stack.append(found)
    return False
