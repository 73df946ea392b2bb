"""What always holds of a run. Asserted after every step of every test, and offered as an admin check on stored runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import msgspec

from windlass.engine.core import tree
from windlass.engine.core.state import CLOSED, OPEN, Node, RunState

PHASES = frozenset({"queued", "leased", "backoff", "waiting", "joining", "incident", "done", "held", "ready"})


class Outside(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored about the run besides its records, as far as the caller knows it. None = not looked at."""

    queued: Set[tuple[int, str]] | None = None  #: visit, path of queue entries
    leased: Set[tuple[tuple[int, str], int]] | None = None  #: ((visit, path), epoch) of leases
    timers: Set[tuple[str, int]] | None = None
    inbox: int | None = None
    deferred: Set[str] | None = None  #: may hold stale tokens, which change nothing
    incidents: Set[str] | None = None
    escalations: Set[str] | None = None


def check(state: RunState, items: Mapping[str, Node], outside: Outside | None = None) -> list[str]:
    """The problems found; empty when all is well."""
    found = list(_run(state))
    if state.status in CLOSED:
        found += _closed(state, items)
    else:
        found += _open(state, items)
    nodes = dict(live(state, items))
    for path, node in nodes.items():
        found += [f"{path!r}: {problem}" for problem in _node(path, node, items)]
    return found + (list(_agrees(state, nodes, outside)) if outside is not None else [])


def live(state: RunState, items: Mapping[str, Node]) -> Iterator[tuple[str, Node]]:
    """Every node that still matters: none below one that has decided."""
    if state.node is not None:
        yield from _below(state.node_path, state.node, items)


def _below(path: str, node: Node, items: Mapping[str, Node]) -> Iterator[tuple[str, Node]]:
    yield path, node
    if node.phase != "joining":
        return
    for name, child in node.children.items():
        yield from _below(tree.child_path(path, name), child, items)
    if node.counts:
        for item_path, item in _items_of(path, items):
            yield from _below(item_path, item, items)


def _items_of(path: str, items: Mapping[str, Node]) -> Iterator[tuple[str, Node]]:
    prefix = tree.child_path(path, "#")
    for name, node in items.items():
        if name.startswith(prefix) and "/" not in name[len(prefix) :]:
            yield name, node


def _run(state: RunState) -> Iterator[str]:
    if state.status not in OPEN | CLOSED:
        yield f"unknown status {state.status!r}"
    if state.seq < 1 or not state.run_id:
        yield "the run has no first event"
    if state.updated_us < state.created_us:
        yield "it was updated before it was created"
    if state.inbox < 0:
        yield f"inbox count is {state.inbox}"


def _closed(state: RunState, items: Mapping[str, Node]) -> Iterator[str]:
    if state.node is not None or items or state.timers or state.incidents or state.deferred or state.move or state.undo:
        yield f"the run is {state.status} and has something open"
    if not state.closed_us:
        yield "a closed run has no closing time"
    if state.status == "failed" and state.failure is None:
        yield "a failed run has no failure"


def _open(state: RunState, items: Mapping[str, Node]) -> Iterator[str]:
    if state.closed_us:
        yield "an open run has a closing time"
    if not _reasons(state, items):
        yield f"nothing will ever move the run: stage {state.stage}, state {state.state!r}"


def _reasons(state: RunState, items: Mapping[str, Node]) -> bool:
    """At least one: a task, a timer, a wait, a child, a person, a pause, an incident, or deferred work."""
    if state.paused_us or state.incidents or state.deferred or (state.stage == "start" and state.timers):
        return True
    return any(node.phase in ("queued", "leased", "backoff", "waiting", "incident") for _, node in live(state, items))


def _node(path: str, node: Node, items: Mapping[str, Node]) -> Iterator[str]:
    if node.phase not in PHASES:
        yield f"unknown phase {node.phase!r}"
    if node.phase == "leased" and not (node.session and node.epoch):
        yield "leased by nobody"
    if node.phase == "done" and (node.timers or not node.outcome):
        yield "done, with timers or without an outcome"
    if node.phase in ("backoff",) and not node.timers:
        yield "backing off without a timer"
    if node.phase == "joining" and node.counts:
        yield from _map(path, node, items)


def _map(path: str, node: Node, items: Mapping[str, Node]) -> Iterator[str]:
    mine = [item for _, item in _items_of(path, items)]
    done = [item for item in mine if item.phase == "done"]
    good = sum(tree.good(item.outcome) for item in done)
    counted = (
        node.counts[0], len(mine), sum(item.phase != "ready" for item in mine), good, len(done) - good,
        sum(tree.active(item) for item in mine),
    )  # fmt: skip
    if node.counts != counted:
        yield f"counts are {node.counts}, its items say {counted}"


def _agrees(state: RunState, nodes: Mapping[str, Node], outside: Outside) -> Iterator[str]:
    """The indexes say what the records say."""
    visit = state.visit
    mine: dict[str, tuple[object, object]] = {
        "queue": (outside.queued, {(visit, path) for path, node in nodes.items() if node.phase == "queued"}),
        "leases": (outside.leased, {((visit, p), node.epoch) for p, node in nodes.items() if node.phase == "leased"}),
        "timers": (outside.timers, {t for node in nodes.values() for t in node.timers} | set(state.timers)),
        "inbox": (outside.inbox, state.inbox),
        "incidents": (outside.incidents, {incident.incident_id for incident in state.incidents}),
        "escalations": (outside.escalations, {
            f"{state.run_id}:{visit}:{path}" for path, node in nodes.items()
            if node.phase == "waiting" and node.kind.endswith("escalate")
        }),
    }  # fmt: skip
    if outside.deferred is not None and not set(state.deferred) <= outside.deferred:
        yield f"deferred: outside {outside.deferred}, in the record {state.deferred}"
    for name, (there, here) in mine.items():
        if there is not None and there != here:
            yield f"{name}: outside {there}, in the record {here}"
