"""Work that is open and that nothing will ever move: what the invariants cannot tell, for some other work may move."""

from __future__ import annotations

from tests.core.world import World
from windlass.engine.core.explain import explain
from windlass.engine.core.invariants import live
from windlass.engine.core.joining import winding_down
from windlass.engine.core.state import CLOSED, Node
from windlass.engine.core.tree import FAILED, OPENED, SUCCEEDED, TOTAL
from windlass.engine.core.waits import received


def check_standing(world: World) -> None:
    """Every open piece of work has something that moves it, and an open run a reason that can be told."""
    state = world.state
    if state.status in CLOSED:
        return
    assert explain(state, world.items, world.now, world.definition)
    stopped = state.paused_us or state.incidents or state.deferred
    if state.stage != "start":
        assert stopped or (state.node is not None and state.node.phase != "done")
    for path, node in live(state, world.items):
        _check(world, path, node)


def _check(world: World, path: str, node: Node) -> None:
    state = world.state
    kinds = {timer.rpartition(":")[2] for timer, _ in node.timers}
    match node.phase, node.kind:
        case "held", _:
            assert bool(state.paused_us) is state.held is True, f"{path} is held by no pause"
        case "backoff", _:
            assert kinds & {"retry", "again"}, f"{path} is never tried again"
        case "incident", _:
            assert any(incident.path == path for incident in state.incidents), f"{path} stands on no incident"
        case "waiting", "wait" | "ask:wait":
            lacks = [name for name in received(node).names if name not in received(node).got]
            kept = [name for _, name, _ in world.inbox if name in lacks]
            assert lacks, f"{path} has all that it waits for"
            assert not kept or state.deferred or winding_down(state), f"{path} waits for {kept}, which are there"
        case "waiting", "delay" | "task" | "poll":
            assert kinds & {"delay", "poll"}, f"{path} waits for no time"
        case "joining", _ if not winding_down(state):
            _check_join(world, path, node)


def _check_join(world: World, path: str, node: Node) -> None:
    state = world.state
    if not node.counts:
        assert any(child.phase != "done" for child in node.children.values()), f"{path} has nothing open"
        return
    total, opened, done = node.counts[TOTAL], node.counts[OPENED], node.counts[SUCCEEDED] + node.counts[FAILED]
    moved = state.deferred or state.held or any(i.kind == "items" and i.path == path for i in state.incidents)
    assert done < opened or moved, f"{path} has {total} items, {opened} were opened, {done} have ended"
