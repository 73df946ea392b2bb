"""Inline actions: set, log and emit, run by the engine itself."""

from __future__ import annotations

from typing import assert_never

import msgspec

from windlass.engine.core.branches import NOTHING
from windlass.engine.core.definition import EmitAction, LogAction, SetAction
from windlass.engine.core.effects import AppendOutbox
from windlass.engine.core.events import ContextSet, Emitted, Logged
from windlass.engine.core.limits import ACTION_WORK
from windlass.engine.core.selectors import render, render_to_json
from windlass.engine.core.turn import Turn, evaluating, fit_context, rendered

Inline = SetAction | LogAction | EmitAction


def run(turn: Turn, action: Inline) -> None:
    """Raises Problem when a template names something that is not there."""
    turn.spend(ACTION_WORK)
    scope = turn.values({"result": turn.state.result, **NOTHING})
    match action:
        case SetAction(values=values):
            new = rendered(values, scope)
            turn.spend(sum(map(len, new.values())))
            fit_context(turn, new)
            turn.apply(ContextSet(turn.now_us, new, "action"))
        case LogAction(message=message, level=level):
            text = evaluating(lambda: render(message, scope))
            line = text if isinstance(text, str) else msgspec.json.encode(text).decode()
            turn.spend(len(line))
            turn.apply(Logged(turn.now_us, level, line))
        case EmitAction(name=name, payload=template):
            payload = b"null" if template is None else evaluating(lambda: render_to_json(template, scope))
            turn.spend(len(payload))
            turn.apply(Emitted(turn.now_us, name, payload))
            turn.owe(AppendOutbox(name=name, payload=payload))
        case _:
            assert_never(action)
