"""Taking back open work, when a node ends without its own result.

What is owed then to queues, workers, children, people and timers."""

from __future__ import annotations

from windlass.engine.core import spawns, waits
from windlass.engine.core.branches import branch_at, task_of
from windlass.engine.core.effects import CloseEscalation, ReleaseLease, StopTask
from windlass.engine.core.escalations import escalation_id
from windlass.engine.core.scheduling import withdraw
from windlass.engine.core.state import Node
from windlass.engine.core.tree import FAILED, OPENED, SUCCEEDED, child_path
from windlass.engine.core.turn import Turn


def drop(turn: Turn, path: str, node: Node, reason: str) -> None:
    """Owe all that ends this node and everything below it."""
    turn.disarm(node.timers)
    match node.phase:
        case "queued":
            withdraw(turn, path, task_of(branch_at(turn.definition, turn.state, path)), node)
        case "leased":
            stop_task(turn, path, node, reason)
            release(turn, path, node)
        case "incident":
            _end_incidents(turn, path)
        case "waiting":
            _drop_wait(turn, path, node, reason)
        case "joining":
            _end_incidents(turn, path)
            for name, child in node.children.items():
                drop(turn, child_path(path, name), child, reason)
            if has_open_items(node):
                for item_path, item in turn.items.under(path):
                    drop(turn, item_path, item, reason)


def _end_incidents(turn: Turn, path: str) -> None:
    for incident in turn.state.incidents:
        if incident.path == path and incident.kind in ("open", "lease", "items"):
            turn.end_incident(incident.incident_id)


def has_open_items(node: Node) -> bool:
    return (
        node.phase == "joining"
        and bool(node.counts)
        and node.counts[OPENED] > node.counts[SUCCEEDED] + node.counts[FAILED]
    )


def stop_task(turn: Turn, path: str, node: Node, reason: str) -> None:
    turn.owe(StopTask(path=path, visit=turn.state.visit, epoch=node.epoch, session=node.session, reason=reason))


def release(turn: Turn, path: str, node: Node) -> None:
    turn.owe(ReleaseLease(path=path, visit=turn.state.visit, epoch=node.epoch, session=node.session))


def _drop_wait(turn: Turn, path: str, node: Node, reason: str) -> None:
    if node.kind in ("wait", "ask:wait"):
        waits.unsubscribe(turn, path, node)
    elif node.kind in ("escalate", "ask:escalate"):
        turn.owe(CloseEscalation(escalation_id=escalation_id(turn, path), status="cancelled"))
    elif node.kind == "spawn":
        spawns.let_go(turn, node, reason)
