"""The first command of a run."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from windlass.engine.core import jsontext
from windlass.engine.core.branches import branches_of, merged_config
from windlass.engine.core.commands import Start
from windlass.engine.core.definition import Definition
from windlass.engine.core.effects import ArmTimer, Effect
from windlass.engine.core.events import RunStarted
from windlass.engine.core.jsontext import BAD_JSON
from windlass.engine.core.limits import CONTEXT_BYTES_MAX, context_bytes
from windlass.engine.core.refusal import Rejection


def started(definition: Definition, command: Start, now_us: int) -> tuple[RunStarted, list[Effect]]:
    """The run's first event. Raises Rejection for an input, config or state that does not fit the definition."""
    first = command.state or definition.initial
    if first not in definition.states:
        raise Rejection("STATE_NOT_FOUND", f"workflow {definition.name!r} has no state {first!r}", state=first)
    context = dict(command.context) if command.context is not None else _context_of(definition, command.input)
    size = context_bytes(context)
    if size > CONTEXT_BYTES_MAX:
        message = f"the context would have {size} bytes, {CONTEXT_BYTES_MAX} are allowed"
        raise Rejection("CONTEXT_TOO_LARGE", message, limit=str(CONTEXT_BYTES_MAX))
    if command.config not in (b"", b"{}"):
        _check_config(definition, command.config)
    pending = command.start_us > now_us
    timeout_us = command.timeout_us if command.timeout_us is not None else definition.timeout_us
    timers = _timers(command, timeout_us, pending, now_us)
    effects: list[Effect] = [ArmTimer(timer=timer, due_us=due_us) for timer, due_us in timers]
    event = RunStarted(
        now_us,
        command.namespace,
        command.run_id,
        command.workflow_id,
        definition.name,
        definition.revision,
        first,
        context,
        command.queue or definition.queue,
        definition.priority if command.priority is None else command.priority,
        pending,
        command.config or b"{}",
        command.metadata,
        command.parent,
        command.root_run_id or command.run_id,
        command.forked_from,
        command.virtual_time,
        timers,
        timeout_us,
        command.timeout_from,
        command.retry,
    )
    return event, effects


def _timers(command: Start, timeout_us: int | None, pending: bool, now_us: int) -> tuple[tuple[str, int], ...]:
    timers: tuple[tuple[str, int], ...] = ()
    if pending:
        timers += (("run:start", command.start_us),)
    if timeout_us is not None and command.timeout_from == "start":
        timers += (("run:timeout", max(now_us, command.start_us) + timeout_us),)
    return timers


_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _context_of(definition: Definition, text: bytes) -> Mapping[str, bytes]:
    """An object's members become the context; any other value becomes {"input": value}."""
    text = text.strip() or b"{}"
    try:
        if definition.input_schema is not None:
            problems = definition.input_schema.check(jsontext.parse(text))
            if problems:
                raise Rejection("INPUT_SCHEMA_MISMATCH", "the input does not fit: " + "; ".join(problems))
        elif flaw := jsontext.flaw(text):
            raise Rejection("INVALID_JSON", f"the input is {flaw}")
        if text[:1] == b"{":
            return {name: bytes(value) for name, value in _object.decode(text).items()}
    except BAD_JSON as error:
        raise Rejection("INVALID_JSON", f"the input is not JSON: {error}") from None
    return {"input": text}


def _check_config(definition: Definition, override: bytes) -> None:
    try:
        _object.decode(override)
    except BAD_JSON as error:
        raise Rejection("INVALID_JSON", f"the config must be a JSON object: {error}") from None
    problems: list[str] = []
    for name, state in definition.states.items():
        for branch in branches_of(state):
            if branch.config_schema is not None:
                merged = jsontext.parse(merged_config(definition, branch, override))
                problems += [f"config of state {name}: {problem}" for problem in branch.config_schema.check(merged)]
    if problems:
        raise Rejection("CONFIG_SCHEMA_MISMATCH", "; ".join(problems))
