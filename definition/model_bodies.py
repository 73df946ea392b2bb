"""The file format: steps, that is bodies with what belongs to them. See `docs/definition.md` for the reference."""

# ruff: noqa: RUF012 (pydantic copies mutable defaults for each instance)

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from windlass.definition.fields import (
    Authoring,
    Codes,
    Duration,
    Grants,
    JsonObject,
    Name,
    Names,
    Needs,
    Size,
    short_form,
)

BODIES = ("task", "parallel", "map", "wait", "delay", "poll", "spawn", "escalate", "agent")


class SelectorModel(Authoring):
    """What a step gets as its input: exactly one of the first seven, with a default for the first four."""

    key: Name | None = None
    keys: list[Name] | None = None
    path: str | None = None
    template: Any = None
    static: Any = None
    full: Literal[True] | None = None
    none: Literal[True] | None = None
    default: Any = None


def _selector(value: Any) -> Any:
    if value in ("full", "none"):
        return {value: True}
    if not isinstance(value, dict):
        raise ValueError(
            'write full, none, or an object with key, keys, path, template or static, as in {path: "order.id"}'
        )
    return value


def _items(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) and value != "full" else _selector(value)


SelectorField = Annotated[SelectorModel, BeforeValidator(_selector)]


class RetryModel(Authoring):
    """When a failed attempt is tried again."""

    max_attempts: int = Field(default=3, ge=0, le=1_000_000)
    initial_delay: Duration = 1_000_000
    max_delay: Duration = 60_000_000
    multiplier: float = Field(default=2.0, ge=1, le=1000, allow_inf_nan=False)
    jitter: float = Field(default=0.1, ge=0, le=1, allow_inf_nan=False)
    non_retryable: Codes = []
    retryable: Codes = []


def _retry(value: Any) -> Any:
    return {"max_attempts": 1} if value == "none" else value


RetryField = Annotated[RetryModel, BeforeValidator(_retry)]


class TimeoutsModel(Authoring):
    """The four timeouts of a task."""

    schedule_to_start: Duration | None = None
    start_to_close: Duration | None = None
    schedule_to_close: Duration | None = None
    heartbeat: Duration | None = None


class LimitsModel(Authoring):
    """What one attempt may use."""

    memory: Size | None = Field(default=None, ge=65_536, le=2**32)
    fuel: int | None = Field(default=None, ge=1)
    output: Size | None = Field(default=None, ge=1, le=2**31)
    log_lines: int | None = Field(default=None, ge=0, le=1_000_000)
    deterministic: bool = False
    stack: Size | None = Field(default=None, ge=65_536, le=2**20)
    cpu: Duration | None = None
    log_bytes: Size | None = Field(default=None, ge=1, le=2**20)
    grants: Grants = []


class TaskModel(Authoring):
    """Work for a worker: code in place, code in a file, a module by path or digest, or a named Python handler."""

    runtime: str
    code: str | None = None
    code_file: str | None = None
    module: str | None = None
    handler: str | None = None
    queue: Name | None = None
    limits: LimitsModel = LimitsModel()
    at_most_once: bool = False
    context: list[Name] | None = None
    needs: Needs = {}


class JoinModel(Authoring):
    """When a parallel is over."""

    mode: Literal["all", "any", "first_success", "quorum"] = "all"
    quorum: int | None = Field(default=None, ge=1)


class WaitModel(Authoring):
    """Until signals arrive or a time comes."""

    signals: Annotated[Names, Field(max_length=100)] = []
    mode: Literal["all", "any"] = "all"
    until: str | None = None
    correlate: str | None = None
    schemas: dict[Name, Any] = Field(default={}, max_length=100)


class DelayModel(Authoring):
    """A durable timer."""

    span: Duration | None = Field(default=None, alias="for")
    until: str | None = None


class PollModel(Authoring):
    """A task asked again every interval."""

    task: TaskModel
    interval: Duration
    max_wait: Duration | None = None
    max_checks: int = Field(default=0, ge=0, le=10_000_000)


class SpawnModel(Authoring):
    """A child workflow."""

    workflow: Name
    revision: str = ""
    detach: bool = False
    close_policy: Literal["terminate", "abandon", "cancel"] = "terminate"
    workflow_id: str | None = None
    queue: Name | None = None


class OptionModel(Authoring):
    """One choice of a select."""

    value: str
    label: str


def _options(value: Any) -> Any:
    """Choices as an object of labels by value, or as a list of values. Kept as a list: their order is the author's."""
    if isinstance(value, dict):
        return [{"value": key, "label": label} for key, label in value.items()]
    if isinstance(value, list):
        return [{"value": item, "label": item} if isinstance(item, str) else item for item in value]
    return value


class FormFieldModel(Authoring):
    """One input that a person fills in."""

    id: Name
    type: Literal["select", "comment", "text", "number", "boolean", "date"]
    label: str = ""
    options: Annotated[list[OptionModel], BeforeValidator(_options), Field(max_length=1000)] = []
    required: bool = False


class EscalateModel(Authoring):
    """A question to a person or an outside system."""

    to: str
    message: str
    inputs: list[FormFieldModel] = Field(default=[], max_length=100)
    channel: Name = "person"


class StepModel(Authoring):
    """What belongs to a body, wherever it stands: in a state, a branch, a map, a compensation."""

    task: TaskModel | None = None
    parallel: ParallelModel | None = None
    map: MapModel | None = None
    wait: Annotated[WaitModel, BeforeValidator(short_form("signals", str, list))] | None = None
    delay: Annotated[DelayModel, BeforeValidator(short_form("for", str))] | None = None
    poll: PollModel | None = None
    spawn: Annotated[SpawnModel, BeforeValidator(short_form("workflow", str))] | None = None
    escalate: EscalateModel | None = None
    agent: Any = None

    input: SelectorField | None = None
    output: Name | None = None
    config: JsonObject = {}
    input_schema: Any = None
    output_schema: Any = None
    config_schema: Any = None
    retry: RetryField | None = None
    timeout: Duration | None = None
    timeouts: TimeoutsModel | None = None

    def bodies(self) -> list[str]:
        """The keys of the bodies given, in the order of the format; a valid step has at most one."""
        return [body for body in BODIES if body in self.model_fields_set]


class MapModel(StepModel):
    """The same step for each item of a list."""

    items: Annotated[SelectorModel, BeforeValidator(_items)]
    concurrency: int = Field(default=0, ge=0, le=100_000)
    tolerated_failures: int = Field(default=0, ge=0)
    tolerated_percent: float = Field(default=0.0, ge=0, le=100, allow_inf_nan=False)


def _join(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"quorum"}:
        return {"mode": "quorum", **value}
    return {"mode": value} if isinstance(value, str) else value


class ParallelModel(Authoring):
    """Several named steps at once."""

    branches: dict[Name, StepModel] = Field(min_length=1, max_length=100)
    join: Annotated[JoinModel, BeforeValidator(_join)] = JoinModel()


StepModel.model_rebuild()
MapModel.model_rebuild()
ParallelModel.model_rebuild()
