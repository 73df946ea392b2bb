"""Signals: to a wait that wants one, to an event transition of the state, else into the inbox."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import msgspec

from windlass.engine.core import flow, incidents, joining, jsontext, tree, waits
from windlass.engine.core.branches import branch_at
from windlass.engine.core.commands import ResolveWait, Signal
from windlass.engine.core.definition import MapBody, ParallelBody, Transition
from windlass.engine.core.effects import BufferSignal, ConsumeSignal
from windlass.engine.core.events import SignalBuffered, SignalTaken
from windlass.engine.core.jsontext import BAD_JSON
from windlass.engine.core.limits import INBOX_MAX
from windlass.engine.core.refusal import Rejection
from windlass.engine.core.routing import event_names, follow, mapped, moment, passes
from windlass.engine.core.state import Node
from windlass.engine.core.turn import Extra, Problem, Turn, evaluating, visit_of


def signal(turn: Turn, command: Signal) -> None:
    """Raises Rejection SIGNAL_SCHEMA_MISMATCH if the wait that wants it does not accept the payload, and
    INBOX_FULL if nothing wants it and the run keeps too many already.
    """
    name, payload = command.name, command.payload or b"null"
    if flaw := jsontext.flaw(payload):
        raise Rejection("INVALID_JSON", f"the payload of signal {name!r} is {flaw}")
    if command.wait_id:
        path: str | None = _directed(turn, command.wait_id, name)
    else:
        path = None if joining.winding_down(turn.state) else _wanting(turn, name)
    if path is not None:
        why = waits.misfit(turn, path, name, payload)
        if why:
            raise Rejection("SIGNAL_SCHEMA_MISMATCH", f"signal {name!r} does not fit its schema: {why}", signal=name)
        waits.receive(turn, path, name, payload)
        return
    try:
        taking = _event_transition(turn, name, payload)
    except Problem as problem:
        incidents.from_problem(turn, "", "flow", problem)
        taking = None
    if taking is not None:
        turn.apply(SignalTaken(turn.now_us, name, payload, ""))
        _go(turn, *taking, name)
    else:
        if turn.state.inbox >= INBOX_MAX:
            message = f"the run keeps {turn.state.inbox} signals unread, {INBOX_MAX} are allowed; let it take some"
            raise Rejection("INBOX_FULL", message, run_id=turn.state.run_id, limit=str(INBOX_MAX))
        turn.apply(SignalBuffered(turn.now_us, name, payload))
        turn.owe(BufferSignal(name=name, payload=payload))


def _directed(turn: Turn, wait_id: str, name: str) -> str:
    """Path of this very wait, if it still lacks the signal: a published message must not reach another wait of the
    run.
    """
    visit, _, path = wait_id.partition(":")
    node = turn.live(visit_of(visit), path) if not joining.winding_down(turn.state) else None
    if node is not None and node.phase == "waiting" and node.kind in ("wait", "ask:wait"):
        has = waits.received(node)
        if name in has.names and name not in has.got:
            return path
    raise Rejection("WAIT_NOT_OPEN", f"wait {wait_id!r} does not wait for signal {name!r}", wait_id=wait_id)


def _wanting(turn: Turn, name: str) -> str | None:
    """Path of the first open wait that lacks this signal, in the order written."""
    if turn.state.node is None:
        return None
    for path, node in open_leaves(turn, turn.state.node_path, turn.state.node):
        if node.phase == "waiting" and node.kind in ("wait", "ask:wait"):
            has = waits.received(node)
            if name in has.names and name not in has.got:
                return path
    return None


def open_leaves(turn: Turn, path: str, node: Node) -> Iterator[tuple[str, Node]]:
    """Every open leaf, maps' items included; items are only loaded where some of them wait."""
    for leaf_path, leaf in tree.leaves(path, node):
        if leaf.phase != "joining":
            if leaf.phase != "done":
                yield leaf_path, leaf
        elif leaf.counts and _some_wait(turn, leaf_path, leaf.counts):
            for item_path, item in turn.items.under(leaf_path):
                yield from open_leaves(turn, item_path, item)


def _some_wait(turn: Turn, path: str, counts: tuple[int, ...]) -> bool:
    """Whether items of the map may wait: those that run do not, unless they are made of parts."""
    _, _, opened, succeeded, failed, running = counts
    body = branch_at(turn.definition, turn.state, path).body
    parts = isinstance(body, MapBody) and isinstance(body.branch.body, ParallelBody | MapBody)
    return opened - succeeded - failed > (0 if parts else running)


def _event_transition(turn: Turn, name: str, payload: bytes) -> tuple[Transition, dict[str, bytes]] | None:
    """The transition that takes the signal, and what it puts into the context: worked out before the signal is taken,
    for one that cannot be put there must still lie in the inbox when the incident is resolved. Raises Problem.
    """
    state = turn.state
    if state.stage != "body" or state.paused_us or state.cancel is not None or state.node is None:
        return None
    for transition in turn.definition.states[state.state].transitions:
        if transition.on == f"event:{name}":
            event = _event(turn, name, payload)
            if passes(turn, transition, event):
                return transition, mapped(turn, transition, event)
    return None


def _event(turn: Turn, name: str, payload: bytes) -> Extra:
    return {
        **moment(turn.state, None),
        "event": {"name": name, "payload": evaluating(partial(jsontext.parse, payload))},
    }


def _go(turn: Turn, transition: Transition, values: dict[str, bytes], name: str) -> None:
    flow.abort(turn, follow(turn, transition, values), f"event:{name}", f"signal {name}")


def take_buffered_event(turn: Turn) -> None:
    """The state has event transitions, and something lies in the inbox."""
    if turn.state.node is None or not turn.state.inbox or turn.state.stage != "body":
        return
    names = event_names(turn.definition.states[turn.state.state])
    if not names:
        return
    for name, (key, payload) in turn.view.signals(names).items():
        if key in turn.taken:
            continue
        try:
            taking = _event_transition(turn, name, payload)
        except Problem as problem:
            incidents.from_problem(turn, "", "flow", problem)
            return
        if taking is not None:
            turn.taken.add(key)
            turn.owe(ConsumeSignal(key=key))
            turn.apply(SignalTaken(turn.now_us, name, payload, "", True))
            _go(turn, *taking, name)
            return


def resolve_wait(turn: Turn, command: ResolveWait) -> None:
    """The directed form: the payload stands for the signal that the wait lacks.

    If it lacks several, the payload is an object with their names."""
    visit, _, path = command.wait_id.partition(":")
    node = turn.live(visit_of(visit), path)
    if (
        node is None
        or node.phase != "waiting"
        or node.kind not in ("wait", "ask:wait")
        or joining.winding_down(turn.state)
    ):
        raise Rejection("WAIT_NOT_OPEN", f"no open wait {command.wait_id!r}", wait_id=command.wait_id)
    has = waits.received(node)
    missing = [name for name in has.names if name not in has.got]
    given = {missing[0]: command.payload or b"null"}
    if len(missing) > 1 and not has.any:
        given = _by_name(missing, command.payload)
    for name, payload in given.items():
        why = waits.misfit(turn, path, name, payload)
        if why:
            raise Rejection("SIGNAL_SCHEMA_MISMATCH", f"data for {name!r} does not fit its schema: {why}", signal=name)
    for name, payload in given.items():
        waits.receive(turn, path, name, payload)


def _by_name(missing: list[str], payload: bytes) -> dict[str, bytes]:
    try:
        found = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except BAD_JSON:
        found = {}
    if set(found) != set(missing):
        raise Rejection(
            "SIGNAL_SCHEMA_MISMATCH", f"the wait lacks {', '.join(missing)}: give an object with exactly these names"
        )
    return {name: bytes(found[name]) for name in missing}
