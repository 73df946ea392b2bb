"""Tasks without a workflow: each different task is a one-state definition, stored when it is first asked for."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from windlass.definition.compile import compile_document
from windlass.definition.problems import DefinitionError
from windlass.definition.source import from_value
from windlass.engine.core.definition import Definition
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.registering import store_revision

#: The workflow under which standalone tasks are listed.
WORKFLOW: Final = "windlass_task"


async def task_definition(engine: Engine, ns: str, state: dict[str, Any]) -> Definition:
    """The definition whose only state is `state`, as an author would write it, stored if it is new.

    Raises EngineError BAD_DEFINITION if the task is not a valid one.
    """
    document = {
        "workflow": WORKFLOW,
        "description": "A standalone task.",
        "initial": "task",
        "states": {"task": {**state, "input": {"key": "input"}, "transitions": [{"on": "success", "to": None}]}},
    }
    try:
        compiled = compile_document(from_value(msgspec.to_builtins(document), "task"))
    except DefinitionError as error:
        raise EngineError("BAD_DEFINITION", f"the task is not valid: {error}", field="task") from error
    await store_revision(engine, ns, compiled, make_default=False)
    return compiled.definition
