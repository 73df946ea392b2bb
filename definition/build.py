"""The document's model as the core's `Definition`, every part compiled and every local mistake reported."""

from __future__ import annotations

from windlass.definition.build_bodies import build_action_task, build_step
from windlass.definition.build_tasks import build_retry
from windlass.definition.checks_expressions import kinds_of, reads_error
from windlass.definition.checks_names import written
from windlass.definition.model import ActionModel, CatchModel, DocumentModel, StateModel, TransitionModel, UpdateModel
from windlass.definition.parts import Parts
from windlass.definition.problems import Place
from windlass.engine.core.definition import (
    Action,
    Branch,
    Catch,
    Definition,
    EmitAction,
    LogAction,
    Scope,
    SetAction,
    State,
    TaskAction,
    TaskBody,
    Transition,
    Update,
)

_ACTIONS = ("set", "log", "emit", "task")
_FOR_TASK = (
    "input",
    "output",
    "config",
    "input_schema",
    "output_schema",
    "config_schema",
    "retry",
    "timeout",
    "timeouts",
)


def build_definition(parts: Parts, model: DocumentModel, revision: str) -> Definition:
    """The definition under this revision.

    Problems go to the report; with errors there the result is not to be used.
    """
    config_schema = parts.schema(model.config_schema, ("config_schema",))
    parts.kinds = kinds_of(model.input_schema, set(written(model)))
    return Definition(
        name=model.workflow,
        revision=revision,
        initial=model.initial,
        states={name: _state(parts, name, state, ("states", name)) for name, state in model.states.items()},
        scopes={
            name: Scope(name=name, parent=scope.parent, catches=_catches(parts, scope.catch, ("scopes", name, "catch")))
            for name, scope in model.scopes.items()
        },
        updates={name: _update(parts, name, update, ("updates", name)) for name, update in model.updates.items()},
        catches=_catches(parts, model.catch, ("catch",)),
        retry=build_retry(parts, model.retry, ("retry",)),
        on_unhandled=model.on_unhandled,
        unread_signals=model.unread_signals,
        compensate_on=tuple(model.compensate_on),
        timeout_us=model.timeout,
        timeout_route=model.on_timeout,
        cancel_grace_us=model.cancel_grace,
        input_schema=parts.schema(model.input_schema, ("input_schema",)),
        output_schema=parts.schema(model.output_schema, ("output_schema",)),
        config_schema=config_schema,
        output=None if model.output is None else parts.selector(model.output, ("output",)),
        config=parts.config(model.config, model.config_schema, config_schema, ()),
        queue=model.queue,
        priority=model.priority,
        description=model.description,
        display_name=model.display_name,
        version=model.version,
    )


def _state(parts: Parts, name: str, model: StateModel, place: Place) -> State:
    step = build_step(parts, model, place, in_state=True)
    whole = model.timeout if step is not None and not isinstance(step.body, TaskBody) else None
    return State(
        name=name,
        enter=_actions(parts, model.enter, (*place, "enter")),
        step=step,
        exit=_actions(parts, model.exit, (*place, "exit")),
        transitions=_transitions(parts, model, place),
        timeout_us=whole,
        outcome=model.outcome,
        error_code=model.error_code,
        routes=tuple(model.routes.items()),
        scope=model.scope,
        compensate=_compensation(parts, model, place),
        description=model.description,
    )


def _compensation(parts: Parts, model: StateModel, place: Place) -> Branch | None:
    at = (*place, "compensate")
    if model.compensate is None:
        return None
    branch = build_step(parts, model.compensate, at)
    if not model.compensate.bodies():
        parts.report.error(at, "a compensation needs a body, such as task", at_key=True)
    if not model.bodies():
        parts.report.warn(at, "the state has no body, so there is nothing that its compensation undoes", at_key=True)
    return branch


def _transitions(parts: Parts, model: StateModel, place: Place) -> tuple[Transition, ...]:
    written = tuple(
        _transition(parts, transition, (*place, "transitions", index))
        for index, transition in enumerate(model.transitions)
    )
    if "next" not in model.model_fields_set:
        return written
    return (*written, Transition(on="success", to=model.next))


def _transition(parts: Parts, model: TransitionModel, place: Place) -> Transition:
    when = parts.condition(model.when, (*place, "when"))
    succeeded = model.on in ("success", "approved") or model.on.startswith("route:")
    if when is not None and succeeded and not parts.stored and reads_error(when.source):
        parts.report.warn((*place, "when"), f"'error' is always null on {model.on!r}: it has no members there")
    return Transition(
        on=model.on,
        to=model.to,
        when=when,
        codes=tuple(model.codes),
        set=parts.values(model.set, (*place, "set")),
    )


def _actions(parts: Parts, models: list[ActionModel], place: Place) -> tuple[Action, ...]:
    built = (_action(parts, model, (*place, index)) for index, model in enumerate(models))
    return tuple(action for action in built if action is not None)


def _action(parts: Parts, model: ActionModel, place: Place) -> Action | None:
    given = [kind for kind in _ACTIONS if kind in model.model_fields_set]
    if len(given) != 1:
        what = f"has {' and '.join(given)}" if given else "has none"
        parts.report.error(place, f"an action needs exactly one of {', '.join(_ACTIONS)}; it {what}")
        return None
    for name in _FOR_TASK if model.task is None else ():
        if name in model.model_fields_set:
            parts.report.error((*place, name), f"{name!r} belongs to a task action, not to {given[0]!r}", at_key=True)
    if model.set is not None:
        return SetAction(values=parts.values(model.set, (*place, "set")))
    if model.log is not None:
        return LogAction(message=parts.template(model.log.message, (*place, "log")), level=model.log.level)
    if model.emit is not None:
        has_payload = "payload" in model.emit.model_fields_set
        payload = parts.template(model.emit.payload, (*place, "emit", "payload")) if has_payload else None
        return EmitAction(name=model.emit.name, payload=payload)
    if model.task is not None:
        return TaskAction(branch=build_action_task(parts, model, place))
    parts.report.error((*place, given[0]), "must not be null")
    return None


def _catches(parts: Parts, models: list[CatchModel], place: Place) -> tuple[Catch, ...]:
    for index, model in enumerate(models[:-1]):
        if not model.codes:
            parts.report.error((*place, index + 1), "never reached: the catch before it takes every code")
            break
    return tuple(Catch(codes=tuple(model.codes), to=model.to, compensate=model.compensate) for model in models)


def _update(parts: Parts, name: str, model: UpdateModel, place: Place) -> Update:
    return Update(
        name=name,
        when=parts.condition(model.when, (*place, "when")),
        set=parts.values(model.set, (*place, "set")),
        reply=parts.template(model.reply, (*place, "reply")) if "reply" in model.model_fields_set else None,
        schema=parts.schema(model.input_schema, (*place, "input_schema")),
    )
