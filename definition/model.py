"""The file format: states, transitions and the document. The bodies are in `model_bodies`.

One model validates the three spellings of a definition (file, builder, message). It checks shapes only; what needs
more than one part of the document is checked in `checks`, and expressions, templates and schemas are compiled in
`build`.
"""

# ruff: noqa: RUF012 (pydantic copies mutable defaults for each instance)

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from windlass.definition.fields import (
    Authoring,
    Codes,
    Condition,
    Duration,
    ErrorCode,
    JsonObject,
    Name,
    short_form,
)
from windlass.definition.model_bodies import (
    RetryField,
    SelectorField,
    StepModel,
    TaskModel,
    TimeoutsModel,
)


class LogModel(Authoring):
    """A line in the run's log."""

    message: str
    level: Literal["debug", "info", "warning", "error"] = "info"


class EmitModel(Authoring):
    """An event for the outbox."""

    name: Name
    payload: Any = None


class ActionModel(Authoring):
    """One small step on entering or leaving a state: exactly one of set, log, emit and task."""

    set: dict[Name, Any] | None = None
    log: Annotated[LogModel, BeforeValidator(short_form("message", str))] | None = None
    emit: Annotated[EmitModel, BeforeValidator(short_form("name", str))] | None = None
    task: TaskModel | None = None

    input: SelectorField | None = None
    output: Name | None = None
    config: JsonObject = {}
    input_schema: Any = None
    output_schema: Any = None
    config_schema: Any = None
    retry: RetryField | None = None
    timeout: Duration | None = None
    timeouts: TimeoutsModel | None = None


class TransitionModel(Authoring):
    """Where to go when a body has ended so."""

    on: str = ""
    to: str | None
    when: Condition | None = None
    codes: Codes = []
    set: dict[Name, Any] = {}
    description: str = ""


class StateModel(StepModel):
    """A node of the definition."""

    description: str = ""
    enter: list[ActionModel] = Field(default=[], max_length=100)
    exit: list[ActionModel] = Field(default=[], max_length=100)
    transitions: list[TransitionModel] = Field(default=[], max_length=500)
    next: str | None = None
    outcome: Literal["success", "failure"] = "success"
    error_code: ErrorCode = ""
    routes: dict[Name, str] = {}
    scope: str = ""
    compensate: StepModel | None = None


class CatchModel(Authoring):
    """Takes failures that the failing state does not handle."""

    codes: Codes = []
    to: str
    compensate: bool = True


class ScopeModel(Authoring):
    """A named group of states."""

    parent: str = ""
    catch: list[CatchModel] = Field(default=[], max_length=100)
    description: str = ""


class UpdateModel(Authoring):
    """A validated change from outside."""

    when: Condition | None = None
    set: dict[Name, Any] = {}
    reply: Any = None
    input_schema: Any = None
    description: str = ""


class DocumentModel(Authoring):
    """A whole definition."""

    workflow: Name
    display_name: str = ""
    description: str = ""
    version: str = ""
    created_at: str = ""
    input_schema: Any = None
    output_schema: Any = None
    config_schema: Any = None
    config: JsonObject = {}
    initial: str
    states: dict[Name, StateModel] = Field(min_length=1, max_length=2000)
    scopes: dict[Name, ScopeModel] = Field(default={}, max_length=200)
    catch: list[CatchModel] = Field(default=[], max_length=100)
    updates: dict[Name, UpdateModel] = Field(default={}, max_length=200)
    output: SelectorField | None = None
    retry: RetryField | None = None
    on_unhandled: Literal["fail", "incident"] = "fail"
    unread_signals: Literal["allow", "refuse"] = "allow"
    compensate_on: list[Literal["failure", "cancel"]] = ["failure", "cancel"]
    timeout: Duration | None = None
    on_timeout: str = ""
    cancel_grace: Duration = 10_000_000
    queue: Name = "default"
    priority: int = Field(default=5, ge=0, le=9)
