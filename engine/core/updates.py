"""Changes of the context from outside: declared updates, and variables set by an operator."""

from __future__ import annotations

from windlass.engine.core import jsontext
from windlass.engine.core.commands import ApplyUpdate, SetVariables
from windlass.engine.core.events import ContextSet, UpdateApplied
from windlass.engine.core.jsontext import BAD_JSON
from windlass.engine.core.refusal import Rejection
from windlass.engine.core.selectors import Scope, render_to_json
from windlass.engine.core.turn import Problem, Turn, evaluating, fit_context, rendered, run_facts


def apply_update(turn: Turn, command: ApplyUpdate) -> None:
    """Accept or refuse in one step; the reply is rendered after the change."""
    update = turn.definition.updates.get(command.name)
    if update is None:
        known = ", ".join(sorted(turn.definition.updates)) or "none"
        raise Rejection("UPDATE_NOT_DECLARED", f"no update {command.name!r}; declared: {known}", update=command.name)
    given = _parsed(command.input or b"null")
    if update.schema is not None and (problems := update.schema.check(given)):
        raise Rejection(
            "INPUT_SCHEMA_MISMATCH", f"update {command.name!r}: " + "; ".join(problems), update=command.name
        )
    extra = {
        "event": {"name": command.name, "payload": given}, "input": given, "error": None,
        "result": turn.state.result, "run": run_facts(turn.definition, turn.state),
    }  # fmt: skip
    try:
        when = update.when
        before = Scope(turn.state.context, extra, turn.spend)
        if when is not None and evaluating(lambda: when.evaluate(before)) is not True:
            raise Rejection(
                "UPDATE_REFUSED", f"update {command.name!r} is refused now: {when.source}", update=command.name
            )
        scope = Scope(turn.state.context, extra, turn.spend)
        values = rendered(update.set, scope)
        fit_context(turn, values)
        after = Scope({**turn.state.context, **values}, extra, turn.spend)
        template = update.reply
        turn.reply = b"null" if template is None else evaluating(lambda: render_to_json(template, after))
    except Problem as problem:
        raise Rejection("UPDATE_REFUSED", f"update {command.name!r}: {problem}", update=command.name) from None
    turn.apply(UpdateApplied(turn.now_us, command.name, command.input, values, turn.reply))


def set_variables(turn: Turn, command: SetVariables) -> None:
    edit_context(turn, dict(command.values), "user", command.by)


def edit_context(turn: Turn, values: dict[str, bytes], cause: str, by: str) -> None:
    """Raises Rejection for a value that is not JSON, or a context that would be too large."""
    for value in values.values():
        _parsed(value)
    try:
        fit_context(turn, values)
    except Problem as problem:
        raise Rejection("CONTEXT_TOO_LARGE", str(problem)) from None
    turn.apply(ContextSet(turn.now_us, values, cause, by))


def _parsed(text: bytes) -> object:
    try:
        return jsontext.parse(text)
    except BAD_JSON as error:
        raise Rejection("INVALID_JSON", f"not JSON: {error}") from None
