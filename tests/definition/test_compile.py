"""From a document to the core's records, and the canonical form that is registered."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from windlass.definition.code import digest_of
from windlass.definition.compile import compile_canonical, compile_document, read_canonical
from windlass.definition.problems import DefinitionError
from windlass.definition.source import from_value, load, loads
from windlass.engine.core import definition as core
from windlass.engine.core.selectors import Full, Key, Keys, NoInput, Static, parse_path

EVERYTHING = Path(__file__).with_name("everything.yaml")
WASM = b"\0asm\1\0\0\0"


@pytest.fixture(scope="module")
def everything() -> core.Definition:
    compiled = compile_document(load(EVERYTHING))
    assert compiled.warnings == ()
    return compiled.definition


def branch(definition: core.Definition, name: str) -> core.Branch:
    step = definition.states[name].step
    assert step is not None
    return step


def test_settings_of_the_definition(everything: core.Definition) -> None:
    assert (everything.name, everything.display_name, everything.version) == ("everything", "Everything at once", "1.2")
    assert (everything.initial, everything.timeout_route, everything.on_unhandled) == ("choose", "late", "incident")
    assert (everything.queue, everything.priority, everything.unread_signals) == ("orders", 7, "refuse")
    assert everything.timeout_us == 30 * 86_400_000_000
    assert everything.cancel_grace_us == 5_000_000
    assert everything.compensate_on == ("failure",)
    assert everything.retry == core.RetryPolicy(
        max_attempts=5, initial_delay_us=500_000, max_delay_us=90_000_000, multiplier=1.5, jitter=0.2
    )
    assert everything.output == Keys(keys=("order", "payment"), default=b"null")
    assert msgspec.json.decode(everything.config) == {"currency": "EUR", "level": 3}
    assert everything.catches == (core.Catch(codes=("OUT_OF_STOCK",), to="failed", compensate=False),)
    assert everything.scopes["inner"].parent == "outer"
    assert everything.scopes["outer"].catches == (core.Catch(codes=("CARD_DECLINED",), to="failed"),)
    assert everything.input_schema is not None
    assert everything.input_schema.check({}) == ['"order" is a required property']


def test_actions(everything: core.Definition) -> None:
    enter = everything.states["gather"].enter
    kinds = [type(action) for action in enter]
    assert kinds == [core.SetAction, core.LogAction, core.LogAction, core.EmitAction, core.EmitAction, core.TaskAction]
    assert isinstance(enter[2], core.LogAction)
    assert enter[2].level == "debug"
    assert isinstance(enter[5], core.TaskAction)
    assert enter[5].branch.timeouts.start_to_close_us == 3_000_000
    assert enter[5].branch.input == Key(key="order")
    assert isinstance(everything.states["gather"].exit[0], core.SetAction)


def test_parallel_with_branches_inside_branches(everything: core.Definition) -> None:
    state = everything.states["gather"]
    body = branch(everything, "gather").body
    assert isinstance(body, core.ParallelBody)
    assert (body.join, body.quorum, state.timeout_us) == (core.Join.QUORUM, 2, 7_200_000_000)
    branches = dict(body.branches)
    assert list(branches) == ["both", "price", "stock"]
    wait = branches["price"].body
    assert isinstance(wait, core.WaitBody)
    assert (wait.names, wait.any, [name for name, _ in wait.schemas]) == (("quoted", "sold_out"), True, ["quoted"])
    assert wait.correlate is not None
    assert wait.correlate.evaluate({"order": {"id": "o-1"}}) == "o-1"
    assert branches["price"].timeouts.schedule_to_close_us == 3_600_000_000
    inner = branches["both"].body
    assert isinstance(inner, core.ParallelBody)
    assert dict(inner.branches)["one"].body == core.DelayBody(duration_us=5_000_000)


def test_map(everything: core.Definition) -> None:
    body = branch(everything, "each").body
    assert isinstance(body, core.MapBody)
    assert (body.concurrency, body.tolerated_failures, body.tolerated_percent) == (10, 2, 5.0)
    assert body.branch.input == Key(key="item")
    assert body.branch.retry == core.RetryPolicy(max_attempts=1)
    assert body.branch.body == core.TaskBody(runtime="python", handler="price_item", queue="slow", context=("order",))
    assert everything.states["each"].transitions[1].codes == ("NO_ITEMS", "TOO_MANY")


def test_task(everything: core.Definition) -> None:
    state, step = everything.states["pay"], branch(everything, "pay")
    assert isinstance(step.body, core.TaskBody)
    assert step.body.digest.startswith("sha256:0123")
    assert step.body.at_most_once
    assert step.body.needs == "gpu=1,memory=4096"
    assert step.body.limits == core.Limits(
        memory_bytes=2**26,
        fuel=1_000_000,
        output_bytes=1_000_000,
        log_lines=100,
        deterministic=True,
        stack_bytes=2**19,
        cpu_us=5_000_000,
        log_bytes=4096,
    )
    assert step.timeouts == core.Timeouts(
        schedule_to_start_us=600_000_000,
        start_to_close_us=30_000_000,
        schedule_to_close_us=3_600_000_000,
        heartbeat_us=10_000_000,
    )
    assert msgspec.json.decode(step.config) == {"mode": "live", "tries": 2}
    assert state.routes == (("review", "A person must look at the payment."),)
    assert [transition.on for transition in state.transitions] == [
        "route:review",
        "event:cancelled",
        "timeout",
        "success",
    ]
    assert state.compensate is not None
    assert state.scope == "inner"


def test_bodies_that_wait(everything: core.Definition) -> None:
    poll = branch(everything, "ship").body
    assert isinstance(poll, core.PollBody)
    assert (poll.interval_us, poll.max_wait_us, poll.max_checks) == (30_000_000, 172_800_000_000, 1000)
    assert isinstance(branch(everything, "ship").input, NoInput)
    spawn = branch(everything, "child").body
    assert isinstance(spawn, core.SpawnBody)
    assert (spawn.workflow, spawn.revision, spawn.close_policy) == ("invoice", "latest", core.ClosePolicy.CANCEL)
    assert isinstance(branch(everything, "child").input, Full)
    assert branch(everything, "forget").input == Static(value=b'{"hello":"world"}')
    ask = branch(everything, "ask").body
    assert isinstance(ask, core.EscalateBody)
    assert ask.channel == "slack"
    assert ask.fields[0].options == (("vip", "VIP"), ("other", "Other"))
    assert everything.states["ask"].timeout_us == 7 * 86_400_000_000
    assert everything.states["ask"].transitions[1].to is None
    assert everything.states["late"].error_code == "TOO_LATE"
    assert everything.states["ship"].transitions == (core.Transition(on="success", to="child"),)


def test_the_canonical_document_is_a_fixed_point() -> None:
    first = compile_document(load(EVERYTHING))
    second = compile_document(from_value(msgspec.json.decode(first.document)))
    assert second.document == first.document
    assert second.revision == first.revision == compile_canonical(first.document).revision
    assert second.modules == ()
    assert second.digests == first.digests
    assert read_canonical(first.document).workflow == "everything"


def test_spelling_does_not_change_the_revision_and_meaning_does() -> None:
    yaml = "workflow: w\ninitial: a\nstates:\n  a: {delay: 90s, next: b}\n  b: {}\n"
    json = '{"initial":"a","states":{"b":{},"a":{"next":"b","delay":{"for":"PT1M30S"}}},"workflow":"w"}'
    revision = compile_document(loads(yaml)).revision
    assert compile_document(loads(json)).revision == revision
    assert compile_document(loads(yaml.replace("90s", "91s"))).revision != revision


def test_code_is_replaced_by_its_digest() -> None:
    text = "workflow: w\ninitial: a\nstates:\n  a: {task: {runtime: javascript, code: '%s'}}\n"
    compiled = compile_document(loads(text % "1 + 1"))
    assert [(module.digest, module.content) for module in compiled.modules] == [(digest_of(b"1 + 1"), b"1 + 1")]
    assert b"1 + 1" not in compiled.document
    assert digest_of(b"1 + 1").encode() in compiled.document
    assert compile_document(loads(text % "1 + 2")).revision != compiled.revision


def test_code_from_files_beside_the_definition(tmp_path: Path) -> None:
    (tmp_path / "x.js").write_text("input.a")
    (tmp_path / "x.wasm").write_bytes(WASM)
    (tmp_path / "text.wasm").write_text("(module)")
    file = tmp_path / "w.yaml"
    frame = "workflow: w\ninitial: a\nstates:\n  a: {task: {runtime: %s}}\n"
    file.write_text(frame % "javascript, code_file: ./x.js")
    assert compile_document(load(file)).modules[0].content == b"input.a"
    file.write_text(frame % "wasm, module: x.wasm")
    assert compile_document(load(file)).modules[0].runtime == "wasm"
    for source, told in [
        ("missing.wasm", "there is no file"),
        ("text.wasm", "not a WebAssembly module"),
        ("../x.wasm", "no file"),
    ]:
        file.write_text(frame % f"wasm, module: {source}")
        with pytest.raises(DefinitionError, match=told):
            compile_document(load(file))


def test_code_is_checked_by_whoever_can() -> None:
    asked: list[tuple[str, bytes]] = []

    def check(runtime: str, code: bytes) -> list[str]:
        asked.append((runtime, code))
        return ["SyntaxError: unexpected token at 1:3"]

    text = "workflow: w\ninitial: a\nstates:\n  a: {task: {runtime: javascript, code: '1 +'}}\n"
    with pytest.raises(DefinitionError) as refused:
        compile_document(loads(text, "w.yaml"), check_code=check)
    assert asked == [("javascript", b"1 +")]
    assert str(refused.value) == "w.yaml:4:41: states.a.task.code: SyntaxError: unexpected token at 1:3"


def test_another_runtime_can_be_named() -> None:
    text = "workflow: w\ninitial: a\nstates:\n  a: {task: {runtime: lua, code: 'return 1'}}\n"
    with pytest.raises(DefinitionError, match="unknown runtime 'lua'"):
        compile_document(loads(text))
    compiled = compile_document(loads(text), runtimes=("lua",))
    assert compiled.digests == ((digest_of(b"return 1"), "lua"),)


def test_one_digest_with_two_runtimes_is_told_for_both() -> None:
    digest = "sha256:" + "0" * 64
    text = f"workflow: w\ninitial: a\nstates:\n  a: {{task: {{runtime: wasm, module: '{digest}'}}}}\n"
    assert compile_document(loads(text)).digests == ((digest, "wasm"),)


def test_warnings_do_not_stop_and_are_given() -> None:
    text = "workflow: w\ninitial: a\nstates:\n  a: {wait: go, next: b}\n  b: {delay: 1s, next: a}\n"
    warnings = compile_document(loads(text)).warnings
    assert [warning.path for warning in warnings] == ["states.a", "states.b"]
    assert all(warning.warning for warning in warnings)


@pytest.mark.parametrize(
    "document", [b"", b"nonsense", b"[]", b'{"workflow":"w"}', b'{"workflow":"w","initial":"a","states":{"a":7}}']
)
def test_what_is_no_canonical_document(document: bytes) -> None:
    with pytest.raises(DefinitionError):
        compile_canonical(document)


def test_conditions_and_templates_work_as_compiled(everything: core.Definition) -> None:
    first = everything.states["choose"].transitions[0]
    assert first.when is not None
    assert first.when.evaluate({"order": {"total": 1001}}) is True
    with pytest.raises(core.ExpressionError):
        first.when.evaluate({"order": {}})
    assert parse_path("order.items") == ("order", "items")


def test_what_a_later_version_refuses_is_loaded_and_says_so_where_it_is_used() -> None:
    """The runs of such a revision can be looked at, cancelled and led past it."""
    schema = {"properties": {"a": {"$id": "urn:a"}}}
    document = {
        "workflow": "old",
        "initial": "a",
        "input_schema": schema,
        "config_schema": schema,
        "states": {
            "a": {"delay": "1s", "transitions": [{"on": "success", "when": "a.matches(b)", "to": "b"}]},
            "b": {},
        },
    }
    with pytest.raises(DefinitionError):
        compile_document(from_value(document))
    loaded = compile_canonical(msgspec.json.encode(document))
    assert loaded.input_schema is not None
    (found,) = loaded.input_schema.check({})
    assert "refused now: not a JSON Schema: a part of a schema cannot have an $id" in found
    when = loaded.states["a"].transitions[0].when
    assert when is not None
    with pytest.raises(
        core.ExpressionError, match=r"`a.matches\(b\)` was registered with .* refused now: matches needs"
    ):
        when.evaluate({"a": "1", "b": "1"})


def test_the_items_of_a_map_are_not_taken_for_a_misspelled_item() -> None:
    text = """
    workflow: fan
    initial: go
    states: {go: {map: {items: items, task: {runtime: python, handler: work}, input: {path: itemz}}}}
    """
    (only,) = compile_document(loads(text)).warnings
    assert "did you mean 'item'" in str(only)
    assert "itemz" in str(only)
