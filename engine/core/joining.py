"""Joins: what a parallel, a map, or a task waiting for its children makes of the outcomes below it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from windlass.engine.core import stopping, tree
from windlass.engine.core.branches import Extra, branch_at, extra_at
from windlass.engine.core.closing import close
from windlass.engine.core.commands import Failure
from windlass.engine.core.definition import Join, MapBody, ParallelBody
from windlass.engine.core.events import NodeOpened, NodesStopped
from windlass.engine.core.opening import create_items, defer_items, held_back, open_item, spawned_enough, window
from windlass.engine.core.state import Node, RunState
from windlass.engine.core.tree import child_path, good
from windlass.engine.core.turn import Turn

Named = tuple[tuple[str, Node], ...]
Verdict = tuple[str, Failure | None]


def winding_down(state: RunState) -> bool:
    """The run is being cancelled and has not yet come to its exit actions: nothing new may begin."""
    return state.cancel is not None and (state.move is None or state.move.kind != "cancel")


def settle(turn: Turn, path: str) -> None:
    """The node at this path has its outcome: let the node above look."""
    if path == turn.state.node_path or winding_down(turn.state):
        return
    above = tree.parent_path(path)
    node = turn.live(turn.state.visit, above)  # a join further up may have ended all of it just now
    if node is not None and node.phase == "joining":
        join(turn, above, node, path)


def join(turn: Turn, path: str, node: Node, last: str = "") -> None:
    """Close the node if its children decide it; else let a map go on. `last` is the child that ended just now."""
    if node.kind == "ask:spawn":
        _join_spawned(turn, path, node)
        return
    body = branch_at(turn.definition, turn.state, path).body
    if isinstance(body, ParallelBody):
        _join_parallel(turn, path, node, body)
    elif isinstance(body, MapBody):
        _join_map(turn, path, node, body, last)


def _join_parallel(turn: Turn, path: str, node: Node, body: ParallelBody) -> None:
    children = tuple((name, node.children[name]) for name, _ in body.branches)
    verdict = judge(body, children)
    if verdict is None:
        return
    stop(turn, [(child_path(path, name), child) for name, child in children if child.phase != "done"], "joined")
    outputs = {name: msgspec.Raw(child.output) for name, child in children if _succeeded(child)}
    patch: dict[str, bytes] = {}
    for name, branch in body.branches:
        child = node.children[name]
        patch.update(child.patch)
        if branch.output and _succeeded(child):
            patch[branch.output] = child.output
    close(turn, path, verdict[0], msgspec.json.encode(outputs), verdict[1], patch=patch, joined=True)


def judge(body: ParallelBody, children: Named) -> Verdict | None:
    """The parallel's outcome, or None while it is open."""
    ended = [child for _, child in children if child.phase == "done"]
    bad = [child for child in ended if not good(child.outcome)]
    won = len(ended) - len(bad)
    complete = len(ended) == len(children)
    match body.join:
        case Join.ALL:
            if bad:
                return _failed(bad[0])
            return ("success", None) if complete else None
        case Join.ANY:
            return None if not ended else ("success", None) if won else _failed(bad[0])
        case Join.FIRST_SUCCESS:
            return ("success", None) if won else _failed(bad[-1]) if complete else None
        case Join.QUORUM:
            if won >= body.quorum:
                return ("success", None)
            return _failed(bad[-1]) if len(children) - len(bad) < body.quorum else None


def _failed(child: Node) -> Verdict:
    return "failure", child.failure or Failure(child.outcome.upper(), f"a branch ended as {child.outcome}")


def _succeeded(child: Node) -> bool:
    return child.phase == "done" and good(child.outcome)


def stop(turn: Turn, nodes: Iterable[tuple[str, Node]], reason: str) -> None:
    """End open work without its result."""
    paths = []
    for path, node in nodes:
        stopping.drop(turn, path, node, reason)
        paths.append(path)
    if paths:
        turn.apply(NodesStopped(turn.now_us, tuple(paths), reason))


def _join_spawned(turn: Turn, path: str, node: Node) -> None:
    children = [child for _, child in sorted(node.children.items(), key=lambda named: int(named[0]))]
    bad = [child for child in children if child.phase == "done" and not good(child.outcome)]
    if bad:
        open_ones = [(child_path(path, name), child) for name, child in node.children.items() if child.phase != "done"]
        stop(turn, open_ones, "another child failed")
        close(turn, path, *_failed(bad[0])[:1], b"null", _failed(bad[0])[1], joined=True)
    elif all(child.phase == "done" for child in children):
        outputs = [msgspec.Raw(child.output) for child in children]
        close(
            turn, path, "success", bytes(outputs[0]) if len(outputs) == 1 else msgspec.json.encode(outputs), joined=True
        )


def _join_map(turn: Turn, path: str, node: Node, body: MapBody, last: str) -> None:
    total, _, _, succeeded, failed, _ = node.counts
    share = int(total * body.tolerated_percent / 100 + 1e-9)  # 18.4 % of 375 are 69, and not 68.99999999999999
    if failed > max(body.tolerated_failures, share):
        _fail_map(turn, path, node, last)
    elif succeeded + failed == total:
        _complete_map(turn, path)
    else:
        _go_on(turn, path, node, body, extra_at(turn.state, turn.items.get, path))


def _fail_map(turn: Turn, path: str, node: Node, last: str) -> None:
    ended = turn.node(last) if last else None
    if ended is None or ended.phase != "done" or good(ended.outcome):
        bad = [(name, item) for name, item in turn.items.under(path) if item.phase == "done" and not good(item.outcome)]
        last, ended = bad[-1]
    cause = _failed(ended)[1]
    assert cause is not None
    total, *_, failed, _ = node.counts
    message = f"{failed} of {total} items failed; the last was {last.rpartition('/')[2]}: {cause.message}"
    stopping.drop(turn, path, node, "too many items failed")
    close(turn, path, "failure", b"null", msgspec.structs.replace(cause, message=message), dropped=True, joined=True)


def _complete_map(turn: Turn, path: str) -> None:
    outputs: list[msgspec.Raw] = []
    patch: dict[str, bytes] = {}
    for _, item in turn.items.under(path):
        outputs.append(msgspec.Raw(item.output if good(item.outcome) else b"null"))
        patch.update(item.patch)
    close(turn, path, "success", msgspec.json.encode(outputs), patch=patch, joined=True)


def _go_on(turn: Turn, path: str, node: Node, body: MapBody, extra: Extra) -> None:
    """Open the next items, as many as the window has room for."""
    limit = window(body)
    while True:
        total, created, opened, succeeded, failed, _ = node.counts
        if opened == total or opened - succeeded - failed >= limit:
            return
        if turn.state.paused_us:
            held_back(turn)
            return
        if spawned_enough(turn):
            defer_items(turn, path)
            return
        if opened < created:
            _open_ready(turn, child_path(path, f"#{opened}"), body, opened)
        else:
            create_items(turn, path, body, extra)
        after = turn.must(path)
        if after.counts == node.counts:  # the rest was deferred
            return
        node = after


def _open_ready(turn: Turn, path: str, body: MapBody, number: int) -> None:
    ready = turn.must(path)
    turn.apply(NodeOpened(turn.now_us, path, open_item(turn, path, body.branch, number, ready.item)))
