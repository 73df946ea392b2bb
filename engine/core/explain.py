"""Why a run does not move: every open reason, in words, from the record alone.

What the record cannot know (no worker with this runtime, the place in the queue) is for the engine to add; for that a
queued task's reason carries its queue and the kind of worker it needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from windlass.engine.core.branches import branch_at, task_of
from windlass.engine.core.definition import Definition
from windlass.engine.core.routing import event_names
from windlass.engine.core.state import CLOSED, Node, RunState
from windlass.engine.core.tree import ACTIVE, FAILED, OPENED, SUCCEEDED, TOTAL, child_path
from windlass.engine.core.units import kind_of
from windlass.engine.core.waits import received

ITEMS_SHOWN = 20  #: open items of one map that are explained one by one

_TIMEOUTS = ("body", "s2c", "s2s", "pollmax", "asked")


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why the run stands where it stands.

    kind: closed, delayed_start, paused, stepping, cancelling, incident, deferred, queued, held, leased, backoff,
    signal, timer, poll, child, escalation, event, items.
    """

    kind: str
    what: str  #: one sentence for people
    path: str = ""
    since_us: int = 0
    due_us: int = 0  #: when something happens by itself; 0 = never
    limit_us: int = 0  #: when a timeout ends it; 0 = none
    queue: str = ""  #: queued: where
    task_kind: str = ""  #: queued: what a worker must be able to run and have: the kind of its queue (units.py)
    names: tuple[str, ...] = ()  #: signal, event: what is missing
    child: str = ""  #: child: its run
    incident_id: str = ""
    session: str = ""  #: leased: whose lease holds it
    unable: tuple[str, ...] = ()  #: queued: sessions of workers that gave it back and are not asked again now


def explain(
    state: RunState, items: Mapping[str, Node], now_us: int, definition: Definition | None = None
) -> list[Reason]:
    """All reasons, what stops everything first. Without the definition, queue and task_kind stay empty."""
    if state.status in CLOSED:
        return [Reason(kind="closed", what=f"the run is {state.status}", since_us=state.closed_us)]
    return [*_run_reasons(state), *_node_reasons(state, items, now_us, definition)]


def _run_reasons(state: RunState) -> Iterator[Reason]:
    limit = next((due for timer, due in state.timers if timer == "run:timeout"), 0)
    due = next((due for timer, due in state.timers if timer == "run:start"), 0)
    if state.stage == "start" and (due or not state.paused_us):  # one that was started paused does not wait for a time
        yield Reason(
            kind="delayed_start", what="it starts later", since_us=state.created_us, due_us=due, limit_us=limit
        )
    if state.paused_us:
        why = f": {state.pause_reason}" if state.pause_reason else ""
        where = f", before state {state.state!r} begins" if _not_begun(state) else ""
        yield Reason(kind="paused", what=f"it is paused{where}{why}", since_us=state.paused_us)
    if state.step_until:
        what = "it does one step, and is paused again when it enters its next state"
        yield Reason(kind="stepping", what=what, since_us=state.entered_us)
    if state.cancel is not None:
        due = next((due for timer, due in state.timers if timer in ("run:grace", "run:shield")), 0)
        what = "it is being cancelled: running tasks stop, then exit actions and compensation run"
        yield Reason(kind="cancelling", what=what, since_us=state.cancel.at_us, due_us=due)
    for incident in state.incidents:
        where = f" at {incident.path!r}" if incident.path else ""
        yield Reason(
            kind="incident", what=f"{incident.code}{where}: {incident.message}", path=incident.path,
            since_us=incident.opened_us, incident_id=incident.incident_id,
        )  # fmt: skip
    if state.deferred:
        yield Reason(kind="deferred", what="the engine goes on with it in a moment", since_us=state.updated_us)


def _not_begun(state: RunState) -> bool:
    """The state is entered, and nothing of it is done: where a step ends."""
    return state.stage == "enter" and state.cursor == 0 and state.node is None


def _node_reasons(
    state: RunState, items: Mapping[str, Node], now_us: int, definition: Definition | None
) -> Iterator[Reason]:
    if state.node is not None:
        for path, node in _open(state.node_path, state.node, items):
            if node.counts and node.phase == "joining":
                yield _map_reason(path, node)
            elif node.phase != "incident":
                yield _reason(state, path, node, now_us, definition)


def _open(path: str, node: Node, items: Mapping[str, Node]) -> Iterator[tuple[str, Node]]:
    """Open leaves, and maps before their first open items."""
    if node.phase in ("done", "ready"):
        return
    if node.phase != "joining":
        yield path, node
        return
    for name, child in node.children.items():
        yield from _open(child_path(path, name), child, items)
    if node.counts:
        yield path, node
        prefix, shown = child_path(path, "#"), 0
        for name in sorted((n for n in items if n.startswith(prefix) and "/" not in n[len(prefix) :]), key=_number):
            found = list(_open(name, items[name], items))
            yield from found
            shown += bool(found)
            if shown == ITEMS_SHOWN:
                return


def _number(name: str) -> int:
    return int(name.rpartition("#")[2])


def _map_reason(path: str, node: Node) -> Reason:
    counts = node.counts
    done = counts[SUCCEEDED] + counts[FAILED]
    what = (
        f"{done} of {counts[TOTAL]} items done ({counts[FAILED]} failed), {counts[OPENED] - done} open, "
        f"of these {counts[ACTIVE]} queued or running"
    )
    return Reason(kind="items", what=what, path=path, since_us=node.opened_us, limit_us=_limit(node))


def _reason(state: RunState, path: str, node: Node, now_us: int, definition: Definition | None) -> Reason:
    kind, what, since_us, names = _words(state, node, now_us, definition)
    queue = task_kind = ""
    if kind == "queued" and definition is not None:
        task = task_of(branch_at(definition, state, path))
        queue = task.queue or state.queue
        task_kind = kind_of(task.runtime, task.handler, task.needs)
    return Reason(
        kind=kind, what=what, path=path, since_us=since_us, due_us=_due(node), limit_us=_limit(node), queue=queue,
        task_kind=task_kind, names=names, child=node.child, session=node.session,
        unable=node.unable if kind == "queued" and node.unable_us > now_us else (),
    )  # fmt: skip


def _words(
    state: RunState, node: Node, now_us: int, definition: Definition | None
) -> tuple[str, str, int, tuple[str, ...]]:
    """kind, sentence, since, names."""
    match node.phase, node.kind:
        case "queued", _:
            what = f"its task waits for a worker (attempt {node.attempt})"
            return "queued", what + _refusals(node, now_us), node.queued_us, ()
        case "held", _:
            return "held", "its task is held back by the pause", state.paused_us, ()
        case "leased", _:
            what = f"its task runs on worker {node.worker} (attempt {node.attempt})"
            return "leased", what, node.queued_us, ()
        case "backoff", _:
            failed = f"{node.failure.code}: {node.failure.message}" if node.failure is not None else "a crash"
            return "backoff", f"its task waits to be tried again after {failed}", state.updated_us, ()
        case _, "wait" | "ask:wait":
            has = received(node)
            missing = tuple(name for name in has.names if name not in has.got)
            how = " or ".join(missing) if has.any else " and ".join(missing)
            return "signal", f"it waits for signal {how}" if how else "it waits for a time", node.opened_us, missing
        case _, "delay":
            return "timer", "it waits for a time", node.opened_us, ()
        case _, "spawn":
            return "child", f"it waits for child run {node.child}", node.opened_us, ()
        case _, "escalate" | "ask:escalate":
            return "escalation", "it waits for a person's or an outside system's reply", node.opened_us, ()
        case _, "events":
            names = event_names(definition.states[state.state]) if definition is not None else ()
            return (
                "event",
                f"it waits for signal {' or '.join(names)}" if names else "it waits for a signal",
                node.opened_us,
                names,
            )
        case _:
            checks = node.counts[0] if node.counts else 0
            return "poll", f"its task was not ready and is asked again (check {checks + 1})", node.opened_us, ()


def _refusals(node: Node, now_us: int) -> str:
    if not node.unable or node.unable_us <= now_us or node.failure is None:
        return ""
    many = f"{len(node.unable)} workers" if len(node.unable) > 1 else "a worker"
    return f"; {many} gave it back as not able to run it, the last: {node.failure.message}"


def _kind_of(timer: str) -> str:
    return timer.rpartition(":")[2]


def _due(node: Node) -> int:
    return min((due for timer, due in node.timers if _kind_of(timer) not in _TIMEOUTS), default=0)


def _limit(node: Node) -> int:
    return min((due for timer, due in node.timers if _kind_of(timer) in _TIMEOUTS), default=0)
