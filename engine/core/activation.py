"""What a worker must know to run an attempt, computed from the record at the moment of dispatch.

While a body is open the context does not change by tasks, so the input is the same at every dispatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from windlass.engine.core.branches import branch_at, extra_at, input_of, merged_config, task_of
from windlass.engine.core.definition import Definition, Limits, Timeouts
from windlass.engine.core.limits import START_TO_CLOSE_US
from windlass.engine.core.state import Node, RunState


class TaskActivation(msgspec.Struct, frozen=True, kw_only=True):
    """All of one attempt. Bytes are JSON text."""

    path: str
    visit: int
    attempt: int
    epoch: int  #: of the lease, once the node is leased
    runtime: str
    digest: str
    handler: str
    input: bytes
    config: bytes
    context: Mapping[str, bytes]  #: what `ctx.get` sees
    limits: Limits
    timeouts: Timeouts  #: start_to_close is always set
    idempotency_key: str
    resume: bytes = b""  #: what the task gave to `suspend`; empty on the first check
    checkpoint: bytes = b""  #: from the last attempt's heartbeats
    checks: int = 0  #: how often a polled task has been asked, this time included
    routes: tuple[str, ...] = ()  #: names that `ctx.route` may take
    deterministic: bool = False
    at_most_once: bool = False
    item: bytes = b""  #: inside a map


def activation_of(
    definition: Definition, state: RunState, item: Callable[[str], Node | None], path: str, node: Node
) -> TaskActivation:
    """`item` gives a map item's record by path; it is called only for paths inside a map.

    Raises SelectorError if the context was edited so that the input can no longer be selected, and LookupError for a
    path that is not a task of the definition.
    """
    branch = branch_at(definition, state, path)
    task = task_of(branch)
    extra = extra_at(state, item, path)
    timeouts = branch.timeouts
    if timeouts.start_to_close_us is None:
        timeouts = _default_timeouts(timeouts)
    return TaskActivation(
        path=path,
        visit=state.visit,
        attempt=node.attempt,
        epoch=node.epoch,
        runtime=task.runtime,
        digest=task.digest,
        handler=task.handler,
        input=input_of(branch, state.context, extra),
        config=merged_config(definition, branch, state.config),
        context=_context(state, task.context, node),
        limits=task.limits,
        timeouts=timeouts,
        idempotency_key=f"{state.run_id}:{state.visit}:{path}",
        resume=node.data,
        checkpoint=node.checkpoint,
        checks=node.counts[0] if node.counts else 0,
        routes=tuple(name for name, _ in definition.states[state.state].routes) if path == "" else (),
        deterministic=task.limits.deterministic,
        at_most_once=task.at_most_once,
        item=extra.get("item", b""),
    )


def _default_timeouts(given: Timeouts) -> Timeouts:
    return msgspec.structs.replace(given, start_to_close_us=START_TO_CLOSE_US)


def _context(state: RunState, keys: tuple[str, ...] | None, node: Node) -> Mapping[str, bytes]:
    """The run's context, with what earlier attempts of this task have set."""
    context = {**state.context, **node.patch} if node.patch else state.context
    if keys is None:
        return context
    return {key: context[key] for key in keys if key in context}
