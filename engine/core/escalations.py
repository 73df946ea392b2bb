"""Escalations: a wait on a person or an outside system, with typed inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from windlass.engine.core.branches import Extra
from windlass.engine.core.closing import close
from windlass.engine.core.commands import Failure, ReplyEscalation
from windlass.engine.core.definition import Branch, EscalateBody, FormField
from windlass.engine.core.effects import AppendOutbox, CloseEscalation, OpenEscalation
from windlass.engine.core.jsontext import BAD_JSON
from windlass.engine.core.refusal import Rejection
from windlass.engine.core.selectors import render
from windlass.engine.core.state import Node
from windlass.engine.core.turn import Turn, evaluating, visit_of


class Form(msgspec.Struct, frozen=True, array_like=True):
    """`Node.data` of an escalation: the inputs that a reply is checked against."""

    fields: tuple[FormField, ...] = ()


def escalation_id(turn: Turn, path: str) -> str:
    return f"{turn.state.run_id}:{turn.state.visit}:{path}"


def open_escalation(turn: Turn, path: str, branch: Branch, body: EscalateBody, extra: Extra) -> Node:
    values = turn.values(extra)
    to = evaluating(lambda: render(body.to, values))
    message = evaluating(lambda: render(body.message, values))
    limits = [branch.timeouts.schedule_to_close_us]
    if path == "":
        limits.append(turn.definition.states[turn.state.state].timeout_us)
    timeout = min((limit for limit in limits if limit is not None), default=None)
    return announce(turn, path, "escalate", to, message, body.fields, body.channel, timeout)


def announce(
    turn: Turn,
    path: str,
    kind: str,
    to: Any,
    message: Any,
    fields: Sequence[FormField],
    channel: str,
    timeout_us: int | None,
) -> Node:
    """Owe the index row and the outbox row, and give the node that waits for the reply."""
    details = {
        "to": to,
        "message": message,
        "channel": channel,
        "fields": fields,
        "due_us": None if timeout_us is None else turn.now_us + timeout_us,
        "state": turn.state.state,
    }
    text = msgspec.json.encode(details)
    turn.owe(OpenEscalation(escalation_id=escalation_id(turn, path), details=text))
    row = msgspec.json.encode({"escalation_id": escalation_id(turn, path), **details})
    turn.owe(AppendOutbox(name="escalation.opened", payload=row))
    form = msgspec.msgpack.encode(Form(tuple(fields)))
    return Node("waiting", kind, opened_us=turn.now_us, data=form)


def reply(turn: Turn, command: ReplyEscalation) -> None:
    """Raises Rejection ESCALATION_CLOSED, or REPLY_INVALID with every problem of the values."""
    run_id, _, rest = command.escalation_id.partition(":")
    visit, _, path = rest.partition(":")
    node = turn.live(visit_of(visit), path) if run_id == turn.state.run_id else None
    if node is None or node.phase != "waiting" or not node.kind.endswith("escalate"):
        raise Rejection(
            "ESCALATION_CLOSED", "the escalation is not open: it was answered, timed out, or its state was left",
            escalation_id=command.escalation_id,
        )  # fmt: skip
    form = msgspec.msgpack.decode(node.data, type=Form)
    problems = _problems(form.fields, command.values, command.approved)
    if problems:
        raise Rejection("REPLY_INVALID", "the reply does not fit the form: " + "; ".join(problems))
    outcome = "approved" if command.approved else "rejected"
    status = "cancelled" if command.withdrawn else outcome
    turn.owe(CloseEscalation(escalation_id=command.escalation_id, status=status, values=command.values, by=command.by))
    failure = None
    if command.withdrawn:
        why = f": {command.by}" if command.by else ""
        failure = Failure("ESCALATION_CANCELLED", f"the escalation was withdrawn{why}", retryable=False)
    elif not command.approved:
        by = f" by {command.by}" if command.by else ""
        failure = Failure("REJECTED", f"the escalation was rejected{by}", retryable=False, details=command.values)
    close(turn, path, outcome, command.values, failure, by=command.by)


def _problems(fields: Sequence[FormField], text: bytes, approved: bool) -> list[str]:
    try:
        values = msgspec.json.decode(text, type=dict[str, Any])
    except BAD_JSON as error:
        return [f"values must be a JSON object ({error})"]
    found = []
    for field in fields:
        if field.id not in values or values[field.id] in (None, ""):
            if field.required and approved:
                found.append(f"{field.id} is required")
        elif why := _misfit(field, values[field.id]):
            found.append(f"{field.id} {why}")
    known = {field.id for field in fields}
    if fields:
        found += [f"{name} is not an input of this escalation" for name in values if name not in known]
    return found


def _misfit(field: FormField, value: Any) -> str:
    match field.kind:
        case "select":
            options = [option for option, _ in field.options]
            return "" if value in options else f"must be one of {', '.join(options)}"
        case "number":
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return "" if number else "must be a number"
        case "boolean":
            return "" if isinstance(value, bool) else "must be true or false"
        case _:
            return "" if isinstance(value, str) else "must be text"
