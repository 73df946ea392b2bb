"""Ids, paths and values from outside that nobody honest would send: refused by name, nothing changed."""

from __future__ import annotations

import pytest

from tests.core.build import branch, expression, on, state, task, template, workflow
from tests.core.test_waits import wait
from tests.core.world import World
from windlass.definition.expressions import compile_expression
from windlass.engine.core import commands as c
from windlass.engine.core.definition import Action, EmitAction, LogAction, MapBody, SetAction, State
from windlass.engine.core.limits import RESUME_BYTES_MAX
from windlass.engine.core.selectors import Key, Keys, Selector, TemplateSelector

PATHS = [
    "#",
    "a/#",
    "#/#",
    "#1x",
    "#0/",
    "/",
    "//",
    "#0/#",
    "x" * 10_000,
    "a/" * 1000,
    "\x00",
    "#9999999999999999999",
    "undo!0",
    "#0\n",
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_are_none(path: str) -> None:
    each = MapBody(items=Key(key="list"), branch=wait("a"))
    world = World(workflow(state("m", each))).start({"list": [1, 2]})
    assert world.refused(c.ResolveWait(wait_id=f"1:{path}", payload=b"1")) == "WAIT_NOT_OPEN"
    assert world.refused(c.Signal(name="a", payload=b"1", wait_id=f"1:{path}")) == "WAIT_NOT_OPEN"
    reply = c.ReplyEscalation(escalation_id=f"r1:1:{path}", approved=True, values=b"{}")
    assert world.refused(reply) == "ESCALATION_CLOSED"
    assert world.refused(c.TaskSucceeded(path=path, visit=1, epoch=1, output=b"1")) == "LEASE_LOST"
    assert world.refused(c.TaskLeased(path=path, visit=1, session="s", worker="w")) == "TASK_NOT_QUEUED"


@pytest.mark.parametrize("visit", ["", "-1", "9" * 5000, "x", "1.0", "²"])
def test_visits_that_are_none(visit: str) -> None:
    world = World(workflow(state("w", wait("a")))).start()
    assert world.refused(c.ResolveWait(wait_id=f"{visit}:", payload=b"1")) == "WAIT_NOT_OPEN"
    reply = c.ReplyEscalation(escalation_id=f"r1:{visit}:", approved=True, values=b"{}")
    assert world.refused(reply) == "ESCALATION_CLOSED"


NOT_JSON = [b"{", b"NaN", b'"\xff"', b"[" * 5000 + b"]" * 5000, b"1 2", b"\x00"]


@pytest.mark.parametrize("text", NOT_JSON)
def test_values_that_are_no_json(text: bytes) -> None:
    world = World(workflow(state("s", task(), on("event:e", "s", when=expression("event.payload")))))
    assert world.refused(c.Start(run_id="r", namespace="d", workflow_id="w", input=text)) == "INVALID_JSON"
    start = c.Start(run_id="r", namespace="d", workflow_id="w", input=b"{}", config=text)
    assert world.refused(start) == "INVALID_JSON"
    world.start()
    assert world.refused(c.Signal(name="e", payload=text)) == "INVALID_JSON"
    assert world.refused(c.SetVariables(values={"a": text})) == "INVALID_JSON"
    world.lease()
    assert world.refused(c.TaskHeartbeat(path="", visit=1, epoch=1, checkpoint=text)) == "INVALID_JSON"
    world.do(
        c.TaskFailed(path="", visit=1, epoch=1, failure=c.Failure("X", details=text), asks=c.Asks(set={"a": text}))
    )
    assert world.context() == {}
    assert world.state.failure is not None
    assert world.state.failure.details == b""


def test_a_checkpoint_has_a_limit() -> None:
    world = World(workflow(state("s", task()))).start()
    world.lease()
    large = b'"' + b"x" * RESUME_BYTES_MAX + b'"'
    assert world.refused(c.TaskHeartbeat(path="", visit=1, epoch=1, checkpoint=large)) == "PAYLOAD_TOO_LARGE"


def test_a_number_beyond_every_range_is_an_incident_where_it_is_read() -> None:
    world = World(workflow(state("s", task(), on("success", "t", when=expression("result > 1"))), state("t"))).start()
    world.lease()
    world.report(output=b"1e999")
    assert world.state.incidents[0].code == "EXPRESSION_ERROR"


LARGE = {"big": "x" * 500_000}


@pytest.mark.parametrize(
    "selector",
    [
        TemplateSelector(template=template("${big}" * 100_000)),
        TemplateSelector(template=template(["${list}"] * 100_000), default=b"1"),
        Keys(keys=("big",) * 100_000),
    ],
)
def test_what_names_a_value_a_hundred_thousand_times_is_an_incident(selector: Selector) -> None:
    world = World(workflow(state("m", branch(task(), selector)))).start({**LARGE, "list": [1] * 100_000})
    assert world.state.incidents[0].code == "EXPRESSION_ERROR"
    assert "makes a value of more than 4000000 bytes" in world.state.incidents[0].message


@pytest.mark.parametrize(
    ("actions", "code"),
    [
        ((SetAction(values=tuple((f"k{n}", template("${big}")) for n in range(10_000))),), "CONTEXT_TOO_LARGE"),
        ((LogAction(message=template("${big}")),) * 10_000, "ENDLESS_LOOP"),
        ((EmitAction(name="e", payload=template("${big}")),) * 10_000, "ENDLESS_LOOP"),
    ],
)
def test_actions_of_one_state_that_write_too_much_are_an_incident(actions: tuple[Action, ...], code: str) -> None:
    world = World(workflow(state("a", None, enter=actions)), checked=False).start(LARGE)
    assert world.state.incidents[0].code == code


BIG = template("${big}")
BIG_SET = (("other", BIG),)


@pytest.mark.parametrize(
    "around",
    [
        state("a", None, on("", "a"), enter=(LogAction(message=BIG),)),
        state("a", None, on("", "a"), exit=(EmitAction(name="e", payload=BIG),)),
        state("a", None, on("", "a"), enter=(SetAction(values=BIG_SET),)),
        state("a", None, on("", "a", set=BIG_SET)),
        state("a", None, on("", "a"), enter=(LogAction(message=template("")),) * 1_000),
    ],
)
def test_a_loop_that_never_waits_cannot_fill_the_store(around: State) -> None:
    """It could write as much as it liked a hundred thousand times over."""
    world = World(workflow(around), checked=False).start({"big": "x" * 400_000})
    world.catch_up()
    assert world.state.incidents[0].code == "ENDLESS_LOOP"
    assert world.state.visit < 200


def test_what_transitions_set_fits_the_context() -> None:
    values = tuple((f"k{n}", BIG) for n in range(3))
    world = World(workflow(state("a", None, on("", "b", set=values)), state("b")), checked=False)
    world.start({"big": "x" * 400_000})
    assert world.state.incidents[0].code == "CONTEXT_TOO_LARGE"


def test_work_that_expressions_make_is_not_all_done_at_once() -> None:
    """A thousand states could be entered by one decision, and each guard may take a third of a second."""
    slow = compile_expression("list.all(x, list.all(y, x <= 1.0 && y <= 1.0))", condition=True)
    around = workflow(state("a", None, on("", "b", when=slow)), state("b", None, on("", "a", when=slow)))
    world = World(around, checked=False).start({"list": [1.0] * 60})
    assert world.deferred
    assert world.state.visit < 50
    never = compile_expression("list.all(x, list.all(y, x > y))", condition=True)
    many = [on("", "b", when=never)] * 1_000
    world = World(workflow(state("a", None, *many), state("b")), checked=False).start({"list": [1.0] * 60})
    assert world.state.incidents[0].code == "EXPRESSION_ERROR"
    assert "too much together" in world.state.incidents[0].message
