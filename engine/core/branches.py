"""Which part of the definition a node path stands for, and what its input is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from windlass.engine.core import tree
from windlass.engine.core.definition import (
    Branch,
    Definition,
    MapBody,
    ParallelBody,
    PollBody,
    State,
    TaskAction,
    TaskBody,
)
from windlass.engine.core.selectors import NoInput, select
from windlass.engine.core.state import Node, RunState

Extra = Mapping[str, Any]
NOTHING: Extra = {}


def branch_at(definition: Definition, state: RunState, path: str) -> Branch:
    """The branch of the node at this path. Raises LookupError for a path that the definition does not have."""
    root = _root(definition, state)
    if path == state.node_path:
        return root
    inner = path[len(state.node_path) + 1 :] if state.node_path else path
    branch = root
    for name in inner.split("/"):
        branch = _below(branch, name, path)
    return branch


def _root(definition: Definition, state: RunState) -> Branch:
    kind, _, number = state.node_path.partition("!")
    if kind == "undo":
        found = definition.states[state.undo[tree.undo_index(state.node_path)].state].compensate
    elif kind:
        here = definition.states[state.state]
        action = (here.enter if kind == "enter" else here.exit)[int(number)]
        found = action.branch if isinstance(action, TaskAction) else None
    else:
        found = definition.states[state.state].step
    if found is None:
        raise LookupError(f"state {state.state!r} has no step at {state.node_path!r}")
    return found


def _below(branch: Branch, name: str, path: str) -> Branch:
    body = branch.body
    if isinstance(body, MapBody) and name.startswith("#"):
        return body.branch
    if isinstance(body, ParallelBody):
        for key, inner in body.branches:
            if key == name:
                return inner
    if isinstance(body, TaskBody | PollBody):  # a child that task code asked for
        return branch
    raise LookupError(f"the definition has no step at path {path!r}")


def map_paths(branch: Branch, path: str) -> list[str]:
    """Paths of the outermost maps at or below this branch."""
    body = branch.body
    if isinstance(body, MapBody):
        return [path]
    if isinstance(body, ParallelBody):
        return [found for name, inner in body.branches for found in map_paths(inner, tree.child_path(path, name))]
    return []


def has_items(definition: Definition) -> bool:
    """True if runs of this definition may have item records: it has a map somewhere."""
    key = (definition.name, definition.revision)
    found = _HAS_ITEMS.get(key)
    if found is None:
        found = any(map_paths(branch, "") for state in definition.states.values() for branch in _branches(state))
        if len(_HAS_ITEMS) > _KNOWN_MAX:
            _HAS_ITEMS.clear()
        if definition.revision:
            _HAS_ITEMS[key] = found
    return found


_HAS_ITEMS: dict[tuple[str, str], bool] = {}
_KNOWN_MAX = 10_000


def _branches(state: State) -> list[Branch]:
    actions = [action.branch for action in (*state.enter, *state.exit) if isinstance(action, TaskAction)]
    return [*actions, *(branch for branch in (state.step, state.compensate) if branch is not None)]


def branches_of(state: State) -> Iterator[Branch]:
    """Every step of the state: its own, those of its actions and its compensation, and those inside of them."""
    for branch in _branches(state):
        yield from _with_inner(branch)


def _with_inner(branch: Branch) -> Iterator[Branch]:
    yield branch
    body = branch.body
    if isinstance(body, MapBody):
        yield from _with_inner(body.branch)
    elif isinstance(body, ParallelBody):
        for _, inner in body.branches:
            yield from _with_inner(inner)


def task_of(branch: Branch) -> TaskBody:
    """The task of a task or poll step."""
    body = branch.body
    if isinstance(body, PollBody):
        return body.task
    if isinstance(body, TaskBody):
        return body
    raise LookupError(f"a {type(body).__name__} runs no task")


def extra_at(state: RunState, item: Callable[[str], Node | None], path: str) -> Extra:
    """The names that exist only here: `item` and `index` inside a map, `result` for a compensation."""
    owner = tree.owner_of(path)
    if owner:
        record = item(owner)
        return item_extra(int(owner[owner.rindex("#") + 1 :]), record.item if record is not None else b"null")
    if state.node_path.startswith("undo!"):
        return {"result": state.undo[tree.undo_index(state.node_path)].result}
    return NOTHING


def item_extra(index: int, item: bytes) -> Extra:
    return {"item": item, "index": index}


def input_of(branch: Branch, context: Mapping[str, bytes], extra: Extra) -> bytes:
    """The step's input as JSON text. Raises SelectorError."""
    if isinstance(branch.input, NoInput):
        return b"null"
    return select(branch.input, context, extra)


def merged_config(definition: Definition, branch: Branch, override: bytes) -> bytes:
    """The step's config: the definition's, then the step's, then the run's own, key by key."""
    parts = [part for part in (definition.config, branch.config, override) if part not in (b"{}", b"")]
    if not parts:
        return b"{}"
    if len(parts) == 1:
        return parts[0]
    merged: dict[str, msgspec.Raw] = {}
    for part in parts:
        merged.update(msgspec.json.decode(part, type=dict[str, msgspec.Raw]))
    return msgspec.json.encode(merged)
