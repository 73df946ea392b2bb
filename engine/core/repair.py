"""Resolving incidents: retry at the same point, skip with another result, or fail; after editing the context."""

from __future__ import annotations

from msgspec.structs import replace

from windlass.engine.core import attempts, ending, incidents, joining, jsontext, opening, stopping, tree, updates
from windlass.engine.core.branches import branch_at, extra_at, map_paths
from windlass.engine.core.closing import close
from windlass.engine.core.commands import Failure, RaiseIncident, ResolveIncident
from windlass.engine.core.definition import Branch, PollBody
from windlass.engine.core.events import ContextSet, IncidentResolved, ItemsDropped, NodeChanged
from windlass.engine.core.refusal import Rejection
from windlass.engine.core.state import Incident, Node
from windlass.engine.core.tree import good
from windlass.engine.core.turn import Timers, Turn


def raise_incident(turn: Turn, command: RaiseIncident) -> None:
    """Once per code: the shell may find the same trouble again and again."""
    if not any(i.kind == "shell" and i.code == command.code for i in turn.state.incidents):
        incidents.open_incident(turn, "", "shell", Failure(command.code, command.message, retryable=False))


def resolve(turn: Turn, command: ResolveIncident) -> None:
    """Raises Rejection INCIDENT_RESOLVED, INVALID_FIELD, or for a context edit that cannot be."""
    found = [i for i in turn.state.incidents if i.incident_id == command.incident_id]
    if not found:
        raise Rejection(
            "INCIDENT_RESOLVED", f"no open incident {command.incident_id!r}", incident_id=command.incident_id
        )
    if command.action not in ("retry", "skip", "fail"):
        raise Rejection("INVALID_FIELD", f"action must be retry, skip or fail, not {command.action!r}")
    if command.action == "skip" and (flaw := jsontext.flaw(command.output or b"null")):
        raise Rejection("INVALID_JSON", f"the output is {flaw}")
    incident = found[0]
    if command.action == "skip" and incident.kind == "flow" and turn.state.stage == "route":
        raise Rejection("INVALID_FIELD", "a transition cannot be skipped: edit the context and retry, or fail the run")
    if command.set:
        updates.edit_context(turn, dict(command.set), "incident", command.by)
    turn.apply(IncidentResolved(turn.now_us, incident.incident_id, command.action, command.by))
    turn.end_incident(incident.incident_id)
    match command.action:
        case "retry":
            _retry(turn, incident)
        case "skip":
            _skip(turn, incident, command.output or b"null")
        case _:
            _give_up(turn, incident)


def _retry(turn: Turn, incident: Incident) -> None:
    """Kinds flow, loop and shell need nothing: the run stands where it was and goes on from there."""
    turn.look_for_event = True
    node = turn.node(incident.path)
    if incident.kind == "items" and node is not None:
        joining.join(turn, incident.path, node)
    elif incident.kind in ("open", "lease", "unhandled", "undo") and node is not None:
        revive(turn, incident.path, node)


def revive(turn: Turn, path: str, node: Node) -> None:
    """Make everything here that did not succeed try again."""
    if node.phase == "done" and good(node.outcome):
        return
    if node.kind in ("parallel", "map") and (node.children or node.counts):
        _revive_joined(turn, path, node)
    elif node.kind in ("task", "poll") and node.attempt:
        branch = branch_at(turn.definition, turn.state, path)
        timers = _timers(turn, path, branch, to_start=not turn.state.paused_us)
        fresh = replace(
            node, attempt=1, crashes=0, since_us=0, outcome="", output=b"", timers=timers, session="", lease_us=0
        )
        turn.apply(NodeChanged(turn.now_us, path, attempts.queued_again(turn, path, fresh, branch), "revived"))
    elif node.kind == "events":
        again = Node("waiting", "events", opened_us=turn.now_us, timers=_body_timer(turn, path))
        turn.apply(NodeChanged(turn.now_us, path, again, "revived"))
    else:
        _reopen(turn, path, node)


def _timers(turn: Turn, path: str, branch: Branch, to_start: bool = False) -> Timers:
    """The limits of a step, from now on."""
    timers = _body_timer(turn, path)
    if branch.timeouts.schedule_to_close_us is not None:
        timers += (turn.arm(path, "s2c", turn.now_us + branch.timeouts.schedule_to_close_us),)
    if to_start and branch.timeouts.schedule_to_start_us is not None:
        timers += (turn.arm(path, "s2s", turn.now_us + branch.timeouts.schedule_to_start_us),)
    if isinstance(branch.body, PollBody) and branch.body.max_wait_us is not None:
        timers += (turn.arm(path, "pollmax", turn.now_us + branch.body.max_wait_us),)
    return timers


def _body_timer(turn: Turn, path: str) -> Timers:
    timeout_us = turn.definition.states[turn.state.state].timeout_us
    return (turn.arm("", "body", turn.now_us + timeout_us),) if path == "" and timeout_us is not None else ()


def _reopen(turn: Turn, path: str, node: Node) -> None:
    """Open it anew. Leases begin above any epoch that was ever given in this run (each took at least one event)."""
    branch = branch_at(turn.definition, turn.state, path)
    turn.epoch = turn.state.seq
    maps = map_paths(branch, path)
    if maps:
        turn.apply(ItemsDropped(turn.now_us, tuple(maps)))
    opened = opening.open_branch(turn, path, branch, extra_at(turn.state, turn.items.get, path))
    if opened.phase not in ("done", "incident"):
        opened = replace(opened, timers=(*opened.timers, *_body_timer(turn, path)))
    turn.apply(NodeChanged(turn.now_us, path, replace(opened, item=node.item), "revived"))


def _revive_joined(turn: Turn, path: str, node: Node) -> None:
    items = list(turn.items.under(path)) if node.counts else []
    timers = _timers(turn, path, branch_at(turn.definition, turn.state, path))
    again = replace(node, phase="joining", outcome="", output=b"", failure=None, patch={}, timers=timers)
    turn.apply(NodeChanged(turn.now_us, path, again, "revived"))
    for name, child in node.children.items():
        revive(turn, tree.child_path(path, name), child)
    for item_path, item in items:
        if item.phase != "ready":
            revive(turn, item_path, item)
    found = turn.node(path)
    if found is not None and found.phase == "joining":
        turn.later.append(lambda: _look(turn, path))


def _look(turn: Turn, path: str) -> None:
    node = turn.node(path)
    if node is not None and node.phase == "joining":
        joining.join(turn, path, node)


def _skip(turn: Turn, incident: Incident, output: bytes) -> None:
    """Take `output` as the result of what stands there."""
    state = turn.state
    if incident.kind in ("open", "lease", "unhandled", "undo"):
        close(turn, incident.path, "success", output)
    elif incident.kind == "items":
        stopping.drop(turn, incident.path, turn.must(incident.path), "skipped")
        close(turn, incident.path, "success", output, dropped=True)
    elif incident.kind == "flow" and state.stage in ("enter", "exit"):
        turn.apply(ContextSet(turn.now_us, {}, "action"))


def _give_up(turn: Turn, incident: Incident) -> None:
    failure = Failure(incident.code, incident.message, retryable=False)
    if incident.path.startswith("undo!"):  # give up on this compensation only
        ending.drop_open(turn, "an operator gave up on a compensation", undo=True)
        turn.apply(ending.undone(turn, failure))
        return
    ending.fail_run(turn, failure, "incident")
