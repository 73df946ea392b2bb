"""What task code asked for besides its result: spawn, wait, escalate, suspend, route, emit.

The step then stays open until the answer is there, and the answer becomes its result: what signals brought, the
child's output (a list if there are several), the reply's values. Detached children, emitted events and the context
patch hold nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from windlass.engine.core import clock, escalations, jsontext, spawns, waits
from windlass.engine.core.closing import close
from windlass.engine.core.commands import Asks, Failure
from windlass.engine.core.definition import Branch, FormField, PollBody
from windlass.engine.core.effects import AppendOutbox
from windlass.engine.core.events import Emitted, TaskAsked
from windlass.engine.core.jsontext import BAD_JSON
from windlass.engine.core.limits import (
    EMIT_BYTES_MAX,
    EMITS_MAX,
    RESUME_BYTES_MAX,
    SPAWN_MAX,
    SUSPEND_US,
    WAIT_SIGNALS_MAX,
    name_flaw,
)
from windlass.engine.core.state import Node
from windlass.engine.core.turn import Turn

CLOSE_POLICIES = ("terminate", "abandon", "cancel")


class EscalationAsk(msgspec.Struct, frozen=True):
    """The JSON of `ctx.escalate`. `inputs` as in a definition; `timeout` a duration string or seconds."""

    to: Any
    message: Any = ""
    inputs: list[dict[str, Any]] = []
    timeout: Any = None
    channel: str = "person"


def problem(turn: Turn, path: str, asks: Asks) -> Failure | None:
    """Why these asks cannot be carried out; None if they can."""
    if (bad := _malformed(asks)) is not None:
        return bad
    if bool(asks.route) + sum(_holding(asks)) > 1:
        return _invalid("a task may ask for one of route, waitFor, escalate, suspend and spawn at a time")
    if len(asks.spawn) > SPAWN_MAX:
        return _invalid(f"{len(asks.spawn)} children asked for, {SPAWN_MAX} are allowed at a time")
    if len(asks.wait_for) > WAIT_SIGNALS_MAX:
        return _invalid(f"waitFor: {len(asks.wait_for)} signals, {WAIT_SIGNALS_MAX} are allowed at a time")
    if flawed := _bad_name(asks):
        return _invalid(flawed)
    for spawn in asks.spawn:
        if not spawn.workflow or spawn.close_policy not in CLOSE_POLICIES:
            return _invalid(f"a child needs a workflow and a close policy of {', '.join(CLOSE_POLICIES)}")
    if asks.route:
        return _unknown_route(turn, path, asks.route)
    if asks.escalate:
        return _bad_escalation(turn, asks.escalate)
    return None


def holds(asks: Asks) -> bool:
    """Whether the step stays open for what was asked."""
    return any(_holding(asks))


def _holding(asks: Asks) -> list[bool]:
    attached = any(not spawn.detach for spawn in asks.spawn)
    return [bool(asks.wait_for), bool(asks.escalate), bool(asks.suspend), attached]


def _bad_name(asks: Asks) -> str:
    named = [("waitFor: the name of a signal", name) for name in asks.wait_for]
    for spawn in asks.spawn:
        named += [("spawn: the name of the workflow", spawn.workflow), ("spawn: the id", spawn.workflow_id)]
    return next((f"{what} {flaw}" for what, name in named if (flaw := name_flaw(name))), "")


def _malformed(asks: Asks) -> Failure | None:
    """Too large, too many, or not JSON."""
    for name, text in (("resume state", asks.suspend), ("escalation", asks.escalate)):
        if len(text) > RESUME_BYTES_MAX:
            return _invalid(f"the {name} has {len(text)} bytes, {RESUME_BYTES_MAX} are allowed")
    if len(asks.emit) > EMITS_MAX or sum(len(payload) for _, payload in asks.emit) > EMIT_BYTES_MAX:
        return _invalid(f"at most {EMITS_MAX} events with {EMIT_BYTES_MAX} bytes together may be emitted")
    texts = [*asks.set.values(), *(payload for _, payload in asks.emit), *(spawn.input for spawn in asks.spawn)]
    for text in (*texts, *filter(None, (asks.suspend, asks.escalate))):
        if found := jsontext.flaw(text):
            return _invalid(f"a value given with the result is {found}")
    return None


def _invalid(message: str) -> Failure:
    return Failure("INVALID_ASK", message, retryable=False)


def _unknown_route(turn: Turn, path: str, route: str) -> Failure | None:
    routes = [name for name, _ in turn.definition.states[turn.state.state].routes]
    if path != "":
        return Failure("ROUTE_UNKNOWN", "only the state's own step can route, not a branch or an item", retryable=False)
    if route not in routes:
        known = ", ".join(routes) or "none"
        return Failure("ROUTE_UNKNOWN", f"route {route!r} is not declared here; declared: {known}", retryable=False)
    return None


def _bad_escalation(turn: Turn, text: bytes) -> Failure | None:
    try:
        ask = msgspec.json.decode(text, type=EscalationAsk)
        _fields(ask)
    except (*BAD_JSON, KeyError, TypeError) as error:
        return _invalid(f"the escalation cannot be read: {error!r}")
    if ask.timeout is not None and clock.time_us(ask.timeout, turn.now_us) is None:
        return _invalid(f"the escalation's timeout {ask.timeout!r} is neither a duration nor a time")
    return None


def _fields(ask: EscalationAsk) -> tuple[FormField, ...]:
    found = []
    for field in ask.inputs:
        options = field.get("options") or {}
        pairs = options.items() if isinstance(options, Mapping) else ((option, option) for option in options)
        found.append(
            FormField(
                id=str(field["id"]),
                kind=str(field.get("type", "text")),
                label=str(field.get("label", "")),
                options=tuple((str(value), str(label)) for value, label in pairs),
                required=bool(field.get("required", False)),
            )
        )
    return tuple(found)


def emit_all(turn: Turn, asks: Asks) -> None:
    for name, payload in asks.emit:
        turn.apply(Emitted(turn.now_us, name, payload, action=False))
        turn.owe(AppendOutbox(name=name, payload=payload))


def carry_out(turn: Turn, path: str, node: Node, branch: Branch, output: bytes, asks: Asks) -> bool:
    """Do what was asked. True if the step stays open for it, or has ended in a way of its own."""
    emit_all(turn, asks)
    children = {str(number): spawns.start_asked(turn, path, number, spawn) for number, spawn in enumerate(asks.spawn)}
    attached = {name: child for name, child in children.items() if not asks.spawn[int(name)].detach}
    patch = {**node.patch, **asks.set} if asks.set else node.patch
    left = replace(node, recorded=node.epoch, session="", lease_us=0, patch=patch, checkpoint=b"")
    if asks.route:
        close(turn, path, f"route:{asks.route}", output, patch=asks.set, recorded=True)
    elif asks.suspend:
        _suspend(turn, path, left, branch, asks)
    elif asks.wait_for:
        _wait(turn, path, left, asks)
    elif asks.escalate:
        _escalate(turn, path, left, asks)
    elif attached:
        timers = turn.disarm(node.timers, keep=("body",))
        asked = replace(left, phase="joining", kind="ask:spawn", children=attached, timers=timers, counts=())
        turn.apply(TaskAsked(turn.now_us, path, asked))
    else:
        return False
    return True


def _suspend(turn: Turn, path: str, node: Node, branch: Branch, asks: Asks) -> None:
    body = branch.body
    checks = node.counts[0] if node.counts else 1
    if isinstance(body, PollBody) and body.max_checks and checks >= body.max_checks:
        failure = Failure("POLL_EXHAUSTED", f"not ready after {checks} checks", retryable=False)
        close(turn, path, "timeout", b"null", failure, patch=asks.set, recorded=True)
        return
    wait_us = asks.suspend_us
    if wait_us is None:
        wait_us = body.interval_us if isinstance(body, PollBody) else SUSPEND_US
    timers = turn.disarm(node.timers, keep=("body", "s2c", "pollmax"))
    timers += (turn.arm(path, "poll", turn.now_us + max(0, wait_us)),)
    asked = replace(node, phase="waiting", data=asks.suspend, timers=timers, counts=(checks,), failure=None)
    turn.apply(TaskAsked(turn.now_us, path, asked))


def _wait(turn: Turn, path: str, node: Node, asks: Asks) -> None:
    wait = waits.new_wait(turn, path, waits.Received(asks.wait_for, asks.wait_any), "ask:wait", ())
    _ask(turn, path, node, wait, asks.wait_timeout_us)


def _escalate(turn: Turn, path: str, node: Node, asks: Asks) -> None:
    ask = msgspec.json.decode(asks.escalate, type=EscalationAsk)
    due_us = clock.time_us(ask.timeout, turn.now_us)
    timeout_us = None if due_us is None else max(0, due_us - turn.now_us)
    waiting = escalations.announce(
        turn, path, "ask:escalate", ask.to, ask.message, _fields(ask), ask.channel, timeout_us
    )
    _ask(turn, path, node, waiting, timeout_us)


def _ask(turn: Turn, path: str, node: Node, waiting: Node, timeout_us: int | None) -> None:
    timers = turn.disarm(node.timers, keep=("body",))
    if timeout_us is not None:
        timers += (turn.arm(path, "asked", turn.now_us + timeout_us),)
    asked = replace(node, phase="waiting", kind=waiting.kind, data=waiting.data, timers=timers, counts=())
    turn.apply(TaskAsked(turn.now_us, path, asked))
