"""What events about open work do to the state: its nodes, and the run's position when a body ends. See `evolve`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from windlass.engine.core import events as e
from windlass.engine.core import tree
from windlass.engine.core.commands import Failure
from windlass.engine.core.state import Incident, Node, RunState
from windlass.engine.core.tree import Items


def _opened(state: RunState, items: Items, event: e.NodeOpened) -> RunState:
    if state.node is not None:
        return tree.put(state, items, event.path, event.node)
    stage = "body" if event.path == "" else state.stage
    return replace(state, node=event.node, node_path=event.path, stage=stage)


def _items_opened(state: RunState, items: Items, event: e.ItemsOpened) -> RunState:
    opened = done = running = failed = 0
    for number, node in enumerate(event.nodes, event.first):
        items[tree.child_path(event.path, f"#{number}")] = node
        opened += node.phase != "ready"
        running += tree.active(node)
        if node.phase == "done":
            done += tree.good(node.outcome)
            failed += not tree.good(node.outcome)
    node = _node(state, items, event.path)
    was = node.counts
    counts = (
        was[0], was[1] + len(event.nodes), was[2] + opened, was[3] + done, was[4] + failed, was[5] + running,
    )  # fmt: skip
    return tree.put(state, items, event.path, replace(node, counts=counts))


def _attempt_started(state: RunState, items: Items, event: e.AttemptStarted) -> RunState:
    node = _node(state, items, event.path)
    leased = replace(
        node,
        phase="leased",
        epoch=node.epoch + 1,
        session=event.session,
        worker=event.worker,
        lease_us=event.lease_us,
        timers=event.timers,
    )
    new = tree.put(state, items, event.path, leased)
    if state.first_task_us and not state.spin and event.run_timers is None:
        return new
    timers = state.timers if event.run_timers is None else event.run_timers
    return replace(new, spin=0, timers=timers, first_task_us=state.first_task_us or event.at_us)


def _attempt_extended(state: RunState, items: Items, event: e.AttemptExtended) -> RunState:
    return tree.put(state, items, event.path, replace(_node(state, items, event.path), lease_us=event.lease_us))


def _task_completed(state: RunState, items: Items, event: e.TaskCompleted) -> RunState:
    node = _node(state, items, event.path)
    if not event.take:
        return tree.put(state, items, event.path, _closed(node, event.outcome, event.output, event.patch, None, True))
    context = state.context
    if event.patch or node.patch or event.key:
        context = {**context, **node.patch, **event.patch}
        if event.key:
            context[event.key] = event.output
    return replace(
        state,
        node=None,
        stage="route",
        context=context,
        outcome=event.outcome,
        result=event.output,
        last=(state.visit, event.path, node.epoch),
        undo=state.undo if event.undo is None else (*state.undo, event.undo),
    )


def _closed(
    node: Node, outcome: str, output: bytes, patch: Mapping[str, bytes], failure: Failure | None, recorded: bool
) -> Node:
    return replace(
        node,
        phase="done",
        outcome=outcome,
        output=output,
        patch={**node.patch, **patch} if patch else node.patch,
        failure=failure or node.failure,
        recorded=node.epoch if recorded else node.recorded,
        session="",
        timers=(),
        checkpoint=b"",
        data=b"",
    )


def _replaced(state: RunState, items: Items, event: e.TaskAsked | e.NodeChanged) -> RunState:
    held = state.held or event.node.phase == "held"
    return replace(tree.put(state, items, event.path, event.node), spin=0, held=held)


def _attempt_ended(state: RunState, items: Items, event: e.AttemptEnded) -> RunState:
    new = tree.put(state, items, event.path, event.node)
    return replace(new, failure=event.failure or state.failure, held=state.held or event.node.phase == "held")


def _node_closed(state: RunState, items: Items, event: e.NodeClosed) -> RunState:
    node = _node(state, items, event.path)
    closed = _closed(node, event.outcome, event.output, event.patch, event.failure, event.recorded)
    new = tree.put(state, items, event.path, closed)
    left = _incidents_outside(state, event.path)
    spin = state.spin if event.joined else 0
    return replace(new, failure=event.failure or state.failure, spin=spin, incidents=left)


def _incidents_outside(state: RunState, path: str) -> tuple[Incident, ...]:
    """Those that do not belong to the node at this path or to anything below it."""
    if not state.incidents:
        return ()
    below = path + "/" if path else ""
    mine = ("open", "lease", "items", "unhandled", "undo")
    return tuple(i for i in state.incidents if i.kind not in mine or not (i.path == path or i.path.startswith(below)))


def _body_ended(state: RunState, items: Items, event: e.BodyEnded) -> RunState:
    node = state.node
    undo = state.undo if event.undo is None else (*state.undo, event.undo)
    if node is None:  # a pure choice
        return replace(state, stage="route", outcome=event.outcome, undo=undo)
    context = state.context
    if event.merge and (node.patch or event.key):
        context = {**context, **node.patch}
        if event.key and tree.good(event.outcome):
            context[event.key] = node.output
    items.clear()
    gave = node.kind != "events" and state.node_path == "" and tree.good(event.outcome)
    path = state.node_path
    common = replace(
        state,
        node=None,
        node_path="",
        context=context,
        last=(state.visit, path, node.recorded) if node.recorded else state.last,
        failure=event.failure or (None if tree.good(event.outcome) else node.failure) or state.failure,
        undo=undo,
        incidents=_incidents_outside(state, path),
    )
    if path.startswith("undo!"):
        return common
    if path and tree.good(event.outcome):
        return replace(common, cursor=state.cursor + 1)
    if state.stage == "exit":  # an exit task that failed: go on with the next
        return replace(common, cursor=state.cursor + 1)
    return replace(common, stage="route", outcome=event.outcome, result=node.output if gave else state.result)


def _stopped(state: RunState, items: Items, event: e.NodesStopped) -> RunState:
    for path in event.paths:
        node = _node(state, items, path)
        done = replace(
            node,
            phase="done",
            outcome="cancelled",
            timers=(),
            session="",
            data=b"",
            children={},
            counts=(),
            checkpoint=b"",
        )
        state = tree.put(state, items, path, done)
        if state.incidents:
            state = replace(state, incidents=_incidents_outside(state, path))
    return state


def _signal_taken(state: RunState, items: Items, event: e.SignalTaken) -> RunState:
    if event.data is not None:
        node = replace(_node(state, items, event.path), data=event.data)
        state = tree.put(state, items, event.path, node)
    return replace(state, inbox=state.inbox - event.buffered, spin=0)


def _task_logged(state: RunState, items: Items, event: e.TaskLogged) -> RunState:
    return state


def _items_dropped(state: RunState, items: Items, event: e.ItemsDropped) -> RunState:
    for path in event.paths:
        items.drop(path)
    return state


def _node(state: RunState, items: Items, path: str) -> Node:
    node = tree.find(state, items, path)
    if node is None:
        raise LookupError(f"the history names work that is not open: visit {state.visit}, path {path!r}")
    return node


APPLIERS: dict[type, Callable[[Any, Items, Any], RunState]] = {
    e.NodeOpened: _opened,
    e.ItemsOpened: _items_opened,
    e.ItemsDropped: _items_dropped,
    e.AttemptStarted: _attempt_started,
    e.AttemptExtended: _attempt_extended,
    e.TaskCompleted: _task_completed,
    e.TaskAsked: _replaced,
    e.TaskLogged: _task_logged,
    e.AttemptEnded: _attempt_ended,
    e.NodeChanged: _replaced,
    e.NodeClosed: _node_closed,
    e.BodyEnded: _body_ended,
    e.NodesStopped: _stopped,
    e.SignalTaken: _signal_taken,
}
