"""Steps of the document: bodies with what belongs to them, as the core's records."""

from __future__ import annotations

from windlass.definition.build_tasks import build_retry, build_task, build_timeouts
from windlass.definition.build_waits import build_delay, build_escalate, build_poll, build_spawn, build_wait
from windlass.definition.model import ActionModel
from windlass.definition.model_bodies import (
    BODIES,
    MapModel,
    ParallelModel,
    StepModel,
)
from windlass.definition.parts import Parts
from windlass.definition.problems import Place
from windlass.engine.core.definition import (
    Body,
    Branch,
    Join,
    MapBody,
    ParallelBody,
    Timeouts,
)
from windlass.engine.core.selectors import Full, Key, Selector

_NEEDS_BODY = (
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
_RUNS_TASKS = ("task", "poll")
_TASKS_ONLY = ("retry", "timeouts")
_NO_INPUT_BODIES = ("parallel", "wait", "delay", "escalate", "map")
_ITEM: Selector = Key(key="item")


def build_step(parts: Parts, model: StepModel, place: Place, *, in_state: bool = False) -> Branch | None:
    """The branch for a step, or None if it has no body.

    In a state the timeout of a longer body belongs to the state.
    """
    bodies = model.bodies()
    if len(bodies) > 1:
        parts.report.error((*place, bodies[1]), f"has {' and '.join(bodies)}; a step has one body", at_key=True)
    if not bodies:
        _without_body(parts, model, place)
        return None
    kind = bodies[0]
    body = build_body(parts, model, kind, place)
    _check_fit(parts, model, kind, place)
    return None if body is None else _branch(parts, model, kind, body, place, in_state=in_state)


def build_action_task(parts: Parts, model: ActionModel, place: Place) -> Branch:
    """The branch of a task that is run as an action."""
    assert model.task is not None
    body = build_task(parts, model.task, (*place, "task"))
    return _branch(parts, model, "task", body, place, in_state=False)


def build_body(parts: Parts, model: StepModel, kind: str, place: Place) -> Body | None:
    at = (*place, kind)
    if model.task is not None and kind == "task":
        return build_task(parts, model.task, at)
    if model.parallel is not None and kind == "parallel":
        return _parallel(parts, model.parallel, model.output, at)
    if model.map is not None and kind == "map":
        return _map(parts, model.map, at)
    if model.wait is not None and kind == "wait":
        return build_wait(parts, model.wait, at)
    if model.delay is not None and kind == "delay":
        return build_delay(parts, model.delay, at)
    if model.poll is not None and kind == "poll":
        return build_poll(parts, model.poll, at)
    if model.spawn is not None and kind == "spawn":
        return build_spawn(parts, model.spawn, at)
    if model.escalate is not None and kind == "escalate":
        return build_escalate(parts, model.escalate, at)
    message = "must not be null" if kind != "agent" else "the agent body is not supported by this version of the engine"
    parts.report.error(at, message, at_key=True)
    return None


def _branch(
    parts: Parts, model: StepModel | ActionModel, kind: str, body: Body, place: Place, *, in_state: bool
) -> Branch:
    config_schema = parts.schema(model.config_schema, (*place, "config_schema"))
    input_schema = parts.schema(model.input_schema, (*place, "input_schema"))
    _check_heartbeat(parts, model, place)
    if model.input is not None and "static" in model.input.model_fields_set and input_schema is not None:
        for finding in input_schema.check(model.input.static):
            parts.report.error((*place, "input", "static"), f"does not fit input_schema: {finding}")
    return Branch(
        body=body,
        input=_input(parts, model, kind, place),
        output=model.output or "",
        config=parts.config(model.config, model.config_schema, config_schema, place),
        retry=build_retry(parts, model.retry, (*place, "retry")),
        timeouts=_timeouts(parts, model, kind, place, in_state=in_state),
        output_schema=parts.schema(model.output_schema, (*place, "output_schema")),
        input_schema=input_schema,
        config_schema=config_schema,
    )


def _input(parts: Parts, model: StepModel | ActionModel, kind: str, place: Place) -> Selector:
    """What is selected; a body that takes an input gets the whole context if nothing is said."""
    if "input" not in model.model_fields_set and kind not in _NO_INPUT_BODIES:
        return Full()
    return parts.selector(model.input, (*place, "input"))


def _timeouts(parts: Parts, model: StepModel | ActionModel, kind: str, place: Place, *, in_state: bool) -> Timeouts:
    """`timeout` limits one attempt of a task, and any other body as a whole."""
    if kind == "task":
        return build_timeouts(parts, model.timeouts, model.timeout, place)
    timeouts = build_timeouts(parts, model.timeouts, None, place)
    if model.timeout == 0:
        parts.report.error((*place, "timeout"), "'timeout' must be longer than 0s")
    if in_state or model.timeout is None:
        return timeouts
    return Timeouts(
        schedule_to_start_us=timeouts.schedule_to_start_us,
        start_to_close_us=timeouts.start_to_close_us,
        schedule_to_close_us=model.timeout,
        heartbeat_us=timeouts.heartbeat_us,
    )


def _check_heartbeat(parts: Parts, model: StepModel | ActionModel, place: Place) -> None:
    """JavaScript cannot call its host while it runs: its heartbeats come with the result, too late for any timeout."""
    task = model.task
    if task is None and isinstance(model, StepModel) and model.poll is not None:
        task = model.poll.task
    if parts.stored or task is None or task.runtime != "javascript":
        return
    if model.timeouts is not None and model.timeouts.heartbeat:
        message = "JavaScript gives no sign of life while it runs, so every longer attempt would be timed out"
        at = (*place, "timeouts", "heartbeat")
        parts.report.error(at, f"{message}: limit the attempt with 'start_to_close' instead", at_key=True)


def _without_body(parts: Parts, model: StepModel, place: Place) -> None:
    if any((*place, body) in parts.report.left_out for body in BODIES):
        return
    for name in _NEEDS_BODY:
        if name in model.model_fields_set:
            message = f"{name!r} belongs to a body, and there is none here (task, parallel, map, wait, …)"
            parts.report.error((*place, name), message, at_key=True)


def _check_fit(parts: Parts, model: StepModel, kind: str, place: Place) -> None:
    """What is allowed by the format and has no effect with this body."""
    for name in _TASKS_ONLY if kind not in _RUNS_TASKS else ():
        if name in model.model_fields_set:
            where = "inside the map" if kind == "map" else "in the branches" if kind == "parallel" else "with a task"
            parts.report.error((*place, name), f"{name!r} is for tasks, not for {kind!r}: put it {where}", at_key=True)
    if model.task is not None and model.task.at_most_once and model.retry is not None and model.retry.max_attempts != 1:
        parts.report.error((*place, "retry"), "the task is at_most_once: it is never tried again", at_key=True)
    if "input" in model.model_fields_set and kind in _NO_INPUT_BODIES:
        where = {"map": ": give the list as map.items", "parallel": ": the branches have their own"}.get(kind, "")
        parts.report.error((*place, "input"), f"{kind!r} takes no input{where}", at_key=True)


def _parallel(parts: Parts, model: ParallelModel, output: str | None, place: Place) -> ParallelBody:
    branches: list[tuple[str, Branch]] = []
    taken: dict[str, str] = {output: "the state itself"} if output else {}
    for name, step in model.branches.items():
        at = (*place, "branches", name)
        branch = build_step(parts, step, at)
        if branch is None:
            if not step.bodies():
                parts.report.error(at, "a branch needs a body", at_key=True)
            continue
        branches.append((name, branch))
        for key in _outputs(branch):
            if key in taken:
                message = f"both {taken[key]} and branch {name!r} write the context key {key!r}: one would be lost"
                parts.report.error((*at, "output"), message)
            taken.setdefault(key, f"branch {name!r}")
    join = Join(model.join.mode)
    _check_quorum(parts, model, join, place)
    return ParallelBody(branches=tuple(branches), join=join, quorum=model.join.quorum or 0)


def _outputs(branch: Branch) -> list[str]:
    """The context keys that a branch writes, those of branches inside it included."""
    inner = branch.body.branches if isinstance(branch.body, ParallelBody) else ()
    return [*([branch.output] if branch.output else []), *(key for _, below in inner for key in _outputs(below))]


def _check_quorum(parts: Parts, model: ParallelModel, join: Join, place: Place) -> None:
    quorum, count = model.join.quorum, len(model.branches)
    at = (*place, "join")
    if join is Join.QUORUM and quorum is None:
        parts.report.error(at, "a quorum needs its number: {quorum: 2}")
    elif join is not Join.QUORUM and quorum is not None:
        parts.report.error(at, f"'quorum' is given, and the join is {join.value!r}")
    elif quorum is not None and quorum > count:
        parts.report.error((*at, "quorum"), f"the quorum of {quorum} can never be reached by {count} branches")


def _map(parts: Parts, model: MapModel, place: Place) -> MapBody | None:
    branch = build_step(parts, model, place)
    items = parts.selector(model.items, (*place, "items"))
    if model.output is not None:
        message = "the outputs of a map's items come as one list: put 'output' on the state"
        parts.report.error((*place, "output"), message, at_key=True)
    if branch is None:
        if not model.bodies():
            parts.report.error(place, "a map needs a body for its items, such as task", at_key=True)
        return None
    if "input" not in model.model_fields_set and model.bodies()[0] not in _NO_INPUT_BODIES:
        branch = _with_input(branch, _ITEM)
    return MapBody(
        items=items,
        branch=branch,
        concurrency=model.concurrency,
        tolerated_failures=model.tolerated_failures,
        tolerated_percent=float(model.tolerated_percent),
    )


def _with_input(branch: Branch, selector: Selector) -> Branch:
    fields = {name: getattr(branch, name) for name in branch.__struct_fields__}
    return Branch(**{**fields, "input": selector})
