from __future__ import annotations

from tests.core.build import branch, delay, on, state, task, workflow
from tests.core.world import World


def test_one_step() -> None:
    world = World(workflow(state("only", branch(task(), "a", output="b")))).start({"a": 5})
    assert world.state.status == "running"
    assert world.succeed(result={"x": 1}).input == b"5"
    assert world.state.status == "completed"
    assert world.output() == {"x": 1}
    assert world.context() == {"a": 5, "b": {"x": 1}}
    assert world.kinds() == ["RunStarted", "StateEntered", "AttemptStarted", "TaskCompleted", "RunClosed"]


def test_delay() -> None:
    world = World(workflow(state("d", delay(5), on("success", "t")), state("t", task()))).start()
    assert world.state.status == "waiting"
    world.pass_time(6)
    assert world.state.status == "running"
    world.succeed()
    assert world.state.status == "completed"
