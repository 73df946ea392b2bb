"""Bodies that wait for something outside: signals, time, a poll, a child, a person."""

from __future__ import annotations

import re

from windlass.definition.build_tasks import build_task
from windlass.definition.model_bodies import DelayModel, EscalateModel, PollModel, SpawnModel, WaitModel
from windlass.definition.parts import Parts
from windlass.definition.problems import Place
from windlass.engine.core.definition import (
    ClosePolicy,
    DelayBody,
    EscalateBody,
    FormField,
    PollBody,
    SpawnBody,
    WaitBody,
)


def build_wait(parts: Parts, model: WaitModel, place: Place) -> WaitBody:
    if not model.signals and model.until is None:
        parts.report.error(place, "a wait needs signals, or a time as until")
    _check_unique(parts, model.signals, (*place, "signals"))
    for name in model.schemas:
        if name not in model.signals:
            parts.report.error((*place, "schemas", name), f"the wait has no signal {name!r}", at_key=True)
    if model.correlate is not None and not model.signals:
        parts.report.error((*place, "correlate"), "a wait without signals has nothing to correlate", at_key=True)
    return WaitBody(
        names=tuple(model.signals),
        any=model.mode == "any",
        until=None if model.until is None else parts.expression(model.until, (*place, "until")),
        correlate=None if model.correlate is None else parts.expression(model.correlate, (*place, "correlate")),
        schemas=tuple(
            (name, schema)
            for name, value in model.schemas.items()
            if (schema := parts.schema(value, (*place, "schemas", name))) is not None
        ),
    )


def _check_unique(parts: Parts, names: list[str], place: Place) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            parts.report.error((*place, index), f"{name!r} is given twice")


def build_delay(parts: Parts, model: DelayModel, place: Place) -> DelayBody:
    if (model.span is None) == (model.until is None):
        parts.report.error(place, 'a delay is a duration ("5s", or {for: 5s}) or a time ({until: expression})')
    until = None if model.until is None else parts.expression(model.until, (*place, "until"))
    return DelayBody(duration_us=model.span or 0, until=until)


def build_poll(parts: Parts, model: PollModel, place: Place) -> PollBody:
    if model.interval < 1_000:
        parts.report.error((*place, "interval"), "the interval must be at least 1ms")
    if model.max_wait is not None and model.max_wait < model.interval:
        parts.report.error((*place, "max_wait"), "'max_wait' is shorter than 'interval': it would be asked only once")
    return PollBody(
        task=build_task(parts, model.task, (*place, "task")),
        interval_us=model.interval,
        max_wait_us=model.max_wait,
        max_checks=model.max_checks,
    )


def build_spawn(parts: Parts, model: SpawnModel, place: Place) -> SpawnBody:
    if not re.fullmatch(r"(?:latest|[0-9a-f]{64})?", model.revision):
        message = "a revision is 64 hex digits, or latest; without it the one that was default at the parent's start"
        parts.report.error((*place, "revision"), message)
    workflow_id = None if model.workflow_id is None else parts.template(model.workflow_id, (*place, "workflow_id"))
    return SpawnBody(
        workflow=model.workflow,
        revision=model.revision,
        detach=model.detach,
        close_policy=ClosePolicy(model.close_policy),
        workflow_id=workflow_id,
        queue=model.queue or "",
    )


def build_escalate(parts: Parts, model: EscalateModel, place: Place) -> EscalateBody:
    _check_unique(parts, [field.id for field in model.inputs], (*place, "inputs"))
    for index, field in enumerate(model.inputs):
        _check_unique(parts, [option.value for option in field.options], (*place, "inputs", index, "options"))
        if field.type == "select" and not field.options:
            parts.report.error((*place, "inputs", index), "a select needs options")
        if field.type != "select" and field.options:
            parts.report.error((*place, "inputs", index, "options"), f"options are for select, not for {field.type!r}")
    return EscalateBody(
        to=parts.template(model.to, (*place, "to")),
        message=parts.template(model.message, (*place, "message")),
        fields=tuple(
            FormField(
                id=field.id,
                kind=field.type,
                label=field.label or field.id,
                options=tuple((option.value, option.label) for option in field.options),
                required=field.required,
            )
            for field in model.inputs
        ),
        channel=model.channel,
    )
