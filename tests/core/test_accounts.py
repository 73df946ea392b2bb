"""What an attempt used and was refused is in the event that ends it, however it ends, and decides nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.core.build import ONCE, QUICK, branch, number_schema, state, task, workflow
from tests.core.world import World
from windlass.engine.core import commands as c
from windlass.engine.core import events as e

USED = {"wall_us": 5, "cpu_us": 3, "memory_bytes": 65536}
REFUSED = (c.Denial("file", "path_open", "/etc/passwd", 3),)
HERE: dict[str, Any] = {"path": "", "visit": 1, "epoch": 1, "usage": USED, "denials": REFUSED}
BROKEN = c.Failure("BROKEN", "no")


def started(**given: Any) -> World:
    world = World(workflow(state("s", branch(task(), **given)))).start()
    world.lease()
    return world


def accounts(world: World) -> list[tuple[str, Any, Any]]:
    found = (
        (type(each).__name__, getattr(each, "usage", None), getattr(each, "denials", None)) for each in world.events
    )
    return [(name, usage, denials) for name, usage, denials in found if usage or denials]


@pytest.mark.parametrize(
    ("given", "command", "event"),
    [
        ({}, c.TaskSucceeded(**HERE, output=b"1"), "TaskCompleted"),
        ({"retry": QUICK}, c.TaskFailed(**HERE, failure=BROKEN), "AttemptEnded"),
        ({"retry": ONCE}, c.TaskFailed(**HERE, failure=BROKEN), "NodeClosed"),
        ({"output_schema": number_schema(), "retry": ONCE}, c.TaskSucceeded(**HERE, output=b'"x"'), "NodeClosed"),
        ({}, c.TaskSucceeded(**HERE, output=b"1", asks=c.Asks(wait_for=("go",))), "TaskAsked"),
    ],
)
def test_account_is_in_the_event_that_ends_the_attempt(given: dict[str, Any], command: c.Command, event: str) -> None:
    world = started(**given)
    world.do(command)
    assert accounts(world) == [(event, USED, REFUSED)]


def test_account_belongs_to_its_own_attempt_only() -> None:
    world = started(retry=QUICK)
    world.do(c.TaskFailed(**HERE, failure=BROKEN))
    world.pass_time(1)
    world.succeed()
    assert [name for name, _, _ in accounts(world)] == ["AttemptEnded"]


def test_events_of_before_are_read_and_those_of_now_are_read_by_before() -> None:
    now = e.TaskCompleted(1, "", b"1", usage=USED, denials=REFUSED)
    whole = msgspec.msgpack.decode(e.encode_events([now]))
    (before,) = e.decode_events(msgspec.msgpack.encode([whole[0][:4]]))
    assert isinstance(before, e.TaskCompleted)
    assert (before.usage, before.denials) == ({}, ())
    (after,) = e.decode_events(msgspec.msgpack.encode([[*whole[0], "a field of a later version"]]))
    assert after == now
