"""Finding and replacing nodes by their path.

A run's open work is a tree. Its root is `RunState.node`, named by `RunState.node_path` ("" for the body). A branch
`a` of a parallel is the child "a", inside the same record. An item of a map is the child "#17" and is a record of its
own, kept under its whole path; what is inside an item lies in the item's record again. So a path such as "a/#17/b"
names the branch b inside the record "a/#17", whose map is the node "a" inside the run's record.

A map knows its items only by `counts`: (total, created, opened, succeeded, failed, active). `put` keeps them when an
item changes, which costs the same however many items there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Protocol

from msgspec.structs import replace

from windlass.engine.core.state import Node, RunState

TOTAL, CREATED, OPENED, SUCCEEDED, FAILED, ACTIVE = range(6)


class Found(Protocol):
    """Item records by path, to be looked at."""

    def get(self, path: str, /) -> Node | None: ...


class Items(Found, Protocol):
    """The item records of the current body, by path."""

    def __setitem__(self, path: str, node: Node, /) -> None: ...
    def clear(self) -> None: ...
    def drop(self, path: str, /) -> None: ...  #: the records of the items of the map at this path, and all below them


class ItemTable(dict[str, Node]):
    """All item records, in a dictionary."""

    def drop(self, path: str) -> None:
        prefix = child_path(path, "#")
        for name in [name for name in self if name.startswith(prefix)]:
            del self[name]


def good(outcome: str) -> bool:
    """True if a join counts this outcome as success."""
    return outcome in ("success", "approved") or outcome.startswith("route:")


def active(node: Node) -> bool:
    """True if some leaf is queued or leased: the node makes progress by itself."""
    if node.phase == "joining":
        return node.counts[ACTIVE] > 0 if node.counts else any(active(child) for child in node.children.values())
    return node.phase in ("queued", "leased", "held")


def child_path(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def undo_index(path: str) -> int:
    """Place in `RunState.undo` of the compensation at this path, `undo!<place>.<visit of what it undoes>`."""
    return int(path[len("undo!") :].partition(".")[0])


def parent_path(path: str) -> str:
    head, _, _ = path.rpartition("/")
    return head


@lru_cache(maxsize=8192)
def owner_of(path: str) -> str:
    """The record that holds the node: an item's path, or "" for the run's record."""
    if "#" not in path:
        return ""
    end = path.find("/", path.rindex("#"))
    return path if end < 0 else path[:end]


def find(state: RunState, items: Found, path: str) -> Node | None:
    """The node at this path, or None."""
    if path == state.node_path:
        return state.node
    owner = owner_of(path)
    if owner == path:
        return items.get(path)
    if owner:
        record = items.get(owner)
        inner: str | None = path[len(owner) + 1 :]
    else:
        record, inner = state.node, _below_root(state, path)
    if inner is None:
        return None
    for name in inner.split("/") if inner else ():
        if record is None:
            return None
        record = record.children.get(name)
    return record


def put(state: RunState, items: Items, path: str, node: Node) -> RunState:
    """The state with this node in its place; an item's record is changed in `items`."""
    owner = owner_of(path)
    if not owner:
        inner = _below_root(state, path)
        if not inner or state.node is None:
            return replace(state, node=node)
        return replace(state, node=_grafted(state.node, inner.split("/"), node))
    old = items.get(owner)
    new = node
    if owner != path and old is not None:
        new = _grafted(old, path[len(owner) + 1 :].split("/"), node)
    items[owner] = new
    above = parent_path(owner)
    counted = find(state, items, above)
    if old is None or counted is None or counted.phase != "joining":
        return state
    counts = _recounted(counted.counts, old, new)
    return state if counts == counted.counts else put(state, items, above, replace(counted, counts=counts))


def leaves(path: str, node: Node) -> Iterator[tuple[str, Node]]:
    """The undecided leaves inside this record, in the order written; what has decided, or is a map, counts as one."""
    if not node.children or node.phase != "joining":
        yield path, node
        return
    for name, child in node.children.items():
        yield from leaves(child_path(path, name), child)


def _below_root(state: RunState, path: str) -> str | None:
    root = state.node_path
    if path == root:
        return ""
    if not root:
        return path
    return path[len(root) + 1 :] if path.startswith(root + "/") else None


def _grafted(node: Node, names: list[str], new: Node) -> Node:
    name, *rest = names
    child = _grafted(node.children[name], rest, new) if rest else new
    return replace(node, children={**node.children, name: child})


def _recounted(counts: tuple[int, ...], old: Node, new: Node) -> tuple[int, ...]:
    total, created, opened, succeeded, failed, running = counts
    opened += (new.phase != "ready") - (old.phase != "ready")
    for node, sign in ((old, -1), (new, 1)):
        if node.phase == "done":
            succeeded += sign * good(node.outcome)
            failed += sign * (not good(node.outcome))
        running += sign * active(node)
    return (total, created, opened, succeeded, failed, running)
