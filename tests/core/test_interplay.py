"""Parts inside of parts while something else happens: found by random runs (`test_properties.py`)."""

from __future__ import annotations

from tests.core.build import branch, on, state, task, workflow
from tests.core.world import World
from windlass.engine.core import commands as c
from windlass.engine.core.definition import Body, Branch, Definition, Join, MapBody, ParallelBody, SpawnBody, WaitBody
from windlass.engine.core.selectors import Key


def over(name: str, inner: Body) -> Branch:
    return branch(MapBody(items=Key(key=name), branch=branch(inner)))


def both(**branches: Body) -> ParallelBody:
    return ParallelBody(branches=tuple((name, branch(body)) for name, body in branches.items()))


def failing(compensate: Branch, **given: object) -> Definition:
    """What the first state did is undone, for the second one fails."""
    return workflow(
        state("did", task(), on("success", "bad"), compensate=compensate), state("bad", outcome="failure"), **given
    )


def finish(world: World) -> list[str]:
    """Do what is in the queue; the paths of it."""
    done = []
    while world.queue:
        done.append(min(world.queue)[1])
        world.succeed(done[-1])
    return done


def test_a_compensation_of_many_items_goes_on_when_the_run_is_cancelled() -> None:
    world = World(failing(over("list", task("undo")))).start({"list": [1, 2, 3]})
    world.succeed()
    world.do(c.Cancel(source="user"))
    assert finish(world) == [f"undo!0.1/#{number}" for number in range(3)]
    assert world.state.status == "cancelled"


def test_a_compensation_that_a_pause_withheld_goes_on_when_the_run_is_cancelled() -> None:
    undo = branch(MapBody(items=Key(key="list"), branch=branch(WaitBody(names=("go",))), concurrency=1))
    world = World(failing(undo)).start({"list": [1, 2]})
    world.succeed()
    world.do(c.Pause())
    world.signal("go")
    world.signal("go")
    world.do(c.Cancel(source="user"))
    world.catch_up()
    assert world.state.status == "cancelled"


def test_a_cancel_that_undoes_nothing_lets_a_compensation_that_has_begun_finish() -> None:
    world = World(failing(branch(task("undo")), compensate_on=("failure",))).start()
    world.succeed()
    world.do(c.Cancel(source="user"))
    assert world.state.status == "cancelling"
    assert finish(world) == ["undo!0.1"]
    assert world.state.status == "cancelled"


def test_nothing_below_a_join_that_has_decided_goes_on() -> None:
    items = MapBody(items=Key(key="list"), branch=over("list", SpawnBody(workflow="child", detach=True)), concurrency=1)
    first = both(now=SpawnBody(workflow="child", detach=True), later=items)
    body = ParallelBody(branches=first.branches, join=Join.ANY)
    world = World(workflow(state("s", body))).start({"list": [1, 2, 3]})
    world.catch_up()
    assert world.state.status == "completed"
    last = next(number for number, event in enumerate(world.events) if getattr(event, "path", None) == "")
    assert not [event for event in world.events[last:] if getattr(event, "path", "").startswith("later")]


def test_a_signal_reaches_a_wait_beside_a_task_in_a_maps_item() -> None:
    world = World(workflow(state("s", over("list", both(work=task(), wait=WaitBody(names=("go",))))))).start(
        {"list": [1]}
    )
    world.signal("go")
    assert not world.inbox
    assert finish(world) == ["#0/work"]
    assert world.state.status == "completed"
