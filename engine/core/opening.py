"""Opening work: from a branch of the definition to the node that stands for it.

`open_branch` gives the node and owes the effects; the caller makes it part of the state with an event. What can only
be done then (an incident, a signal that already lies in the inbox, a map's items) is put into `turn.later`.
"""

from __future__ import annotations

import msgspec

from windlass.engine.core import escalations, incidents, jsontext, spawns, waits
from windlass.engine.core.branches import Extra, input_of, item_extra, task_of
from windlass.engine.core.clock import due_of
from windlass.engine.core.definition import (
    Branch,
    DelayBody,
    EscalateBody,
    MapBody,
    ParallelBody,
    PollBody,
    SpawnBody,
    TaskBody,
    WaitBody,
)
from windlass.engine.core.effects import Defer
from windlass.engine.core.events import Deferred, ItemsOpened, WorkHeld
from windlass.engine.core.jsontext import BAD_JSON
from windlass.engine.core.limits import MAP_CHUNK, MAP_CHUNK_BYTES, MAP_OPEN_MAX
from windlass.engine.core.scheduling import schedule
from windlass.engine.core.selectors import NoInput, select
from windlass.engine.core.state import Node
from windlass.engine.core.tree import CREATED, FAILED, OPENED, SUCCEEDED, TOTAL, child_path
from windlass.engine.core.turn import Problem, Turn, evaluating


def open_branch(turn: Turn, path: str, branch: Branch, extra: Extra) -> Node:
    """The node for this branch. What cannot be evaluated becomes a node in phase incident, and an incident."""
    mark = len(turn.effects)
    later = list(turn.later)
    try:
        node = _open(turn, path, branch, extra)
    except Problem as problem:
        del turn.effects[mark:]
        turn.later = later
        turn.later.append(incidents.later(turn, path, "open", problem))
        return Node(phase="incident", kind=kind_of(branch), opened_us=turn.now_us, epoch=turn.epoch)
    if node.phase == "done":
        turn.closed.append(path)
    elif branch.timeouts.schedule_to_close_us is not None and not isinstance(branch.body, TaskBody | PollBody):
        timer = turn.arm(path, "s2c", turn.now_us + branch.timeouts.schedule_to_close_us)
        node = msgspec.structs.replace(node, timers=(*node.timers, timer))
    return node


def kind_of(branch: Branch) -> str:
    return _KINDS[type(branch.body)]


_KINDS = {
    TaskBody: "task", ParallelBody: "parallel", MapBody: "map", WaitBody: "wait", DelayBody: "delay", PollBody: "poll",
    SpawnBody: "spawn", EscalateBody: "escalate",
}  # fmt: skip


def _open(turn: Turn, path: str, branch: Branch, extra: Extra) -> Node:
    body = branch.body
    match body:
        case TaskBody():
            return open_task(turn, path, branch, extra)
        case PollBody():
            return _open_poll(turn, path, branch, body, extra)
        case DelayBody():
            return _open_delay(turn, path, body, extra)
        case WaitBody():
            return waits.open_wait(turn, path, body, extra)
        case SpawnBody():
            return spawns.open_spawn(turn, path, branch, body, extra)
        case EscalateBody():
            return escalations.open_escalation(turn, path, branch, body, extra)
        case ParallelBody():
            return _open_parallel(turn, path, body, extra)
        case MapBody():
            return _open_map(turn, path, body, extra)
        case _:
            raise Problem("UNSUPPORTED_BODY", f"{type(body).__name__} cannot be run by this engine")


def open_task(turn: Turn, path: str, branch: Branch, extra: Extra) -> Node:
    check_input(turn, branch, extra)
    limits, now, paused = branch.timeouts, turn.now_us, bool(turn.state.paused_us)
    timers: tuple[tuple[str, int], ...] = ()
    if limits.schedule_to_start_us is not None and not paused:
        timers += (turn.arm(path, "s2s", now + limits.schedule_to_start_us),)
    if limits.schedule_to_close_us is not None:
        timers += (turn.arm(path, "s2c", now + limits.schedule_to_close_us),)
    node = Node("queued", "task", attempt=1, epoch=turn.epoch, opened_us=now, queued_us=now, timers=timers)
    if paused:  # opened by the repair of an incident
        turn.later.append(lambda: held_back(turn))
        return msgspec.structs.replace(node, phase="held", queued_us=0)
    schedule(turn, path, task_of(branch), branch.timeouts, 1)
    return node


def held_back(turn: Turn) -> None:
    """Work is withheld by the pause: its end looks for it."""
    if turn.state.paused_us and not turn.state.held:
        turn.apply(WorkHeld(turn.now_us))


def check_input(turn: Turn, branch: Branch, extra: Extra) -> None:
    """Find out now what would stop the task from being sent: a missing key, an input against its schema."""
    if isinstance(branch.input, NoInput) and branch.input_schema is None:
        return
    value = evaluating(lambda: input_of(branch, turn.state.context, extra))
    if branch.input_schema is not None:
        problems = jsontext.misfit(branch.input_schema, value)
        if problems:
            raise Problem("INPUT_SCHEMA_MISMATCH", f"the step's input does not fit: {problems}")


def _open_poll(turn: Turn, path: str, branch: Branch, body: PollBody, extra: Extra) -> Node:
    node = open_task(turn, path, branch, extra)
    timers = node.timers
    if body.max_wait_us is not None:
        timers += (turn.arm(path, "pollmax", turn.now_us + body.max_wait_us),)
    return msgspec.structs.replace(node, kind="poll", counts=(1,), timers=timers)


def _open_delay(turn: Turn, path: str, body: DelayBody, extra: Extra) -> Node:
    due_us = turn.now_us + body.duration_us
    if body.until is not None:
        due_us = due_of(turn, body.until, extra)
    if due_us <= turn.now_us:
        return Node("done", "delay", opened_us=turn.now_us, outcome="success", output=b"null")
    return Node("waiting", "delay", opened_us=turn.now_us, timers=(turn.arm(path, "delay", due_us),))


def _open_parallel(turn: Turn, path: str, body: ParallelBody, extra: Extra) -> Node:
    children = {name: open_branch(turn, child_path(path, name), branch, extra) for name, branch in body.branches}
    return Node("joining", "parallel", opened_us=turn.now_us, children=children)


def _open_map(turn: Turn, path: str, body: MapBody, extra: Extra) -> Node:
    total = len(_items(turn, body, extra))
    if not total:
        return Node("done", "map", opened_us=turn.now_us, outcome="success", output=b"[]")
    turn.later.append(lambda: create_items(turn, path, body, extra))
    return Node("joining", "map", opened_us=turn.now_us, counts=(total, 0, 0, 0, 0, 0))


def _items(turn: Turn, body: MapBody, extra: Extra) -> list[msgspec.Raw]:
    text = evaluating(lambda: select(body.items, turn.state.context, extra))
    try:
        return msgspec.json.decode(text, type=list[msgspec.Raw])
    except BAD_JSON:
        raise Problem(
            "MAP_ITEMS_NOT_A_LIST", f"map needs a list of items, not {text[:40].decode(errors='replace')}"
        ) from None


def window(body: MapBody) -> int:
    """How many items may be open at once."""
    return min(body.concurrency or MAP_OPEN_MAX, MAP_OPEN_MAX)


def create_items(turn: Turn, path: str, body: MapBody, extra: Extra) -> None:
    """Make the records of the next items, and open as many as the window allows.

    What is too much at once is deferred. A list that is none any more (the context was edited) is an incident.
    """
    node = turn.must(path)
    first = node.counts[CREATED]
    if any(incident.kind == "items" and incident.path == path for incident in turn.state.incidents):
        return
    if turn.items_created >= MAP_CHUNK or spawned_enough(turn):  # before the list is read: each item that ends asks
        defer_items(turn, path)
        return
    try:
        found = _items(turn, body, extra)
    except Problem as problem:
        incidents.from_problem(turn, path, "items", problem)
        return
    values = _chunk(turn, found[first:], node.counts[TOTAL] - first)
    if not values:
        defer_items(turn, path)
        return
    free = window(body) - (node.counts[OPENED] - node.counts[SUCCEEDED] - node.counts[FAILED])
    nodes = _new_items(turn, path, body.branch, first, values, free)
    turn.items_created += len(nodes)
    turn.apply(ItemsOpened(turn.now_us, path, first, nodes))
    if len(nodes) < min(free, node.counts[TOTAL] - first):
        defer_items(turn, path)


def spawned_enough(turn: Turn) -> bool:
    """Whether the inputs of the children that were started in this turn are as much as one transaction should hold."""
    return turn.spawned_bytes > MAP_CHUNK_BYTES


def _chunk(turn: Turn, found: list[msgspec.Raw], wanted: int) -> list[bytes]:
    """As many of the next items as one decision may create; null where an edited context now has fewer."""
    values: list[bytes] = []
    room, size = MAP_CHUNK - turn.items_created, 0
    while len(values) < min(room, wanted) and size < MAP_CHUNK_BYTES:
        values.append(bytes(found[len(values)]) if len(values) < len(found) else b"null")
        size += len(values[-1])
    return values


def _new_items(turn: Turn, path: str, branch: Branch, first: int, values: list[bytes], free: int) -> tuple[Node, ...]:
    nodes: list[Node] = []
    for number, value in enumerate(values, first):
        nodes.append(_new_item(turn, child_path(path, f"#{number}"), branch, number, value, number - first < free))
        if spawned_enough(turn):
            break
    return tuple(nodes)


def _new_item(turn: Turn, path: str, branch: Branch, number: int, value: bytes, start: bool) -> Node:
    if not start:
        return Node("ready", kind_of(branch), item=value)
    return open_item(turn, path, branch, number, value)


def open_item(turn: Turn, path: str, branch: Branch, number: int, value: bytes) -> Node:
    node = open_branch(turn, path, branch, item_extra(number, value))
    return msgspec.structs.replace(node, item=value)


def defer_items(turn: Turn, path: str) -> None:
    """Leave the next items of this map to a decision of its own."""
    defer(turn, f"map:{turn.state.visit}:{path}")


def defer(turn: Turn, token: str) -> None:
    """Leave the rest to a decision of its own."""
    if token not in turn.state.deferred:
        turn.apply(Deferred(turn.now_us, token))
        turn.owe(Defer(token=token))
