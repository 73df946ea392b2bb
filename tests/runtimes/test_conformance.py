"""What every runtime must do, told once: the same task written for each of them gives the same completion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tests.runtimes.guests import (
    ALLOC,
    COMMAND_ECHO,
    ECHO,
    SHORT,
    calling,
    constant,
    module,
    pointer_module,
    saying,
    script,
)
from windlass.runtimes import failures
from windlass.runtimes.jail_pool import SlotPool
from windlass.runtimes.port import Activation, Completion, Escalate, Progress, Route, Spawn, Suspend, WaitFor

_ASK = "(call $call (i32.const 2048) (i32.const {size}))"


def _asking(request: str) -> str:
    return calling("ask", "i32 i32", _ASK.format(size=len(request)), {2048: request})


_DECLINED = '{"code":"CARD_DECLINED","message":"no","details":{"bank":"x"},"retryable":false,"nextDelay":"5s"}'


@dataclass(frozen=True)
class Case:
    """One behaviour: how each runtime is asked for it, and what must come back."""

    name: str
    guests: dict[str, Callable[..., Activation]]
    expect: Callable[[Completion], object]
    fields: dict[str, Any]


def _case(
    name: str, expect: Callable[[Completion], object], *, js: str, ptr: str = "", wasi: str = "", **fields: Any
) -> Case:
    guests: dict[str, Callable[..., Activation]] = {"javascript": lambda **more: script(js, **more)}
    if ptr:
        guests["ptr"] = lambda **more: module(ptr, **more)
    if wasi:
        guests["wasi"] = lambda **more: module(wasi, **more)
    return Case(name, guests, expect, fields)


def _failure(completion: Completion) -> tuple[str, bool | None, bool]:
    assert completion.failure is not None
    return completion.failure.code, completion.failure.retryable, completion.failure.authored


_CASES = [
    _case(
        "gives_back_its_input",
        lambda done: done.output == b'{"a":[1,2.5,"\xc3\xa9"]}',
        js="input",
        ptr=ECHO,
        wasi=COMMAND_ECHO,
        input='{"a":[1,2.5,"é"]}'.encode(),
    ),
    _case("gives_null", lambda done: done.output == b"null", js="undefined", ptr=constant("null"), wasi=saying("null")),
    _case(
        "sets_a_context_value",
        lambda done: done.patch == {"key": b'{"x":1}'},
        js="ctx.set('key', {x: 1})",
        ptr=calling(
            "set",
            "i32 i32 i32 i32",
            "(call $call (i32.const 2048) (i32.const 3) (i32.const 2064) (i32.const 7))",
            {2048: "key", 2064: '{"x":1}'},
        ),
    ),
    _case(
        "spawns",
        lambda done: done.asks == (Spawn("child", b'{"n":1}', "c-1", True),),
        js="ctx.spawn('child', {n: 1}, {id: 'c-1', detached: true})",
        ptr=_asking('{"kind":"spawn","workflow":"child","input":{"n":1},"id":"c-1","detached":true}'),
    ),
    _case(
        "waits",
        lambda done: done.asks == (WaitFor(("paid", "cancelled"), "any", 90_000_000),),
        js="ctx.waitFor(['paid', 'cancelled'], {timeout: '1m30s'})",
        ptr=_asking('{"kind":"wait_for","signals":["paid","cancelled"],"timeout":"1m30s"}'),
    ),
    _case(
        "escalates",
        lambda done: done.asks == (Escalate("alice", "Really?", b'[{"id":"note"}]', 604_800_000_000),),
        js="ctx.escalate({to: 'alice', message: 'Really?', inputs: [{id: 'note'}], timeout: '7d'})",
        ptr=_asking('{"kind":"escalate","to":"alice","message":"Really?","inputs":[{"id":"note"}],"timeout":"7d"}'),
    ),
    _case(
        "suspends",
        lambda done: done.asks == (Suspend(b'{"job":7}', 2_500_000),),
        js="ctx.suspend({job: 7}, {after: 2500})",
        ptr=_asking('{"kind":"suspend","state":{"job":7},"after":2500}'),
    ),
    _case(
        "routes",
        lambda done: done.asks == (Route("vip"),),
        js="ctx.route('vip')",
        ptr=_asking('{"kind":"route","name":"vip"}'),
    ),
    _case(
        "refuses_a_duration_that_is_none",
        lambda done: (
            _failure(done)[0] == failures.USER_ERROR and "soon" in ((done.failure and done.failure.message) or "")
        ),
        js="ctx.waitFor('paid', {timeout: 'soon'})",
        ptr=_asking('{"kind":"wait_for","signals":["paid"],"timeout":"soon"}'),
    ),
    _case(
        "refuses_to_wait_for_very_many_signals",
        lambda done: (
            _failure(done)[0] == failures.USER_ERROR
            and "101 signals" in ((done.failure and done.failure.message) or "")
        ),
        js="ctx.waitFor(Array.from({length: 101}, (_, n) => 's' + n))",
        ptr=_asking('{"kind":"wait_for","signals":[' + '"s",' * 100 + '"s"]}'),
    ),
    _case(
        "refuses_a_code_of_the_engine",
        lambda done: (
            _failure(done)[0] == failures.USER_ERROR and "too late" in ((done.failure and done.failure.message) or "")
        ),
        js="throw ctx.fail('START_TO_CLOSE_TIMEOUT', 'too late')",
        ptr=calling(
            "fail",
            "i32 i32",
            "(call $call (i32.const 2048) (i32.const 54))",
            {2048: '{"code":"START_TO_CLOSE_TIMEOUT","message":"too late"}'},
        ),
    ),
    _case(
        "logs",
        lambda done: [(line.level, line.message) for line in done.logs] == [("warn", "careful")],
        js="ctx.log('warn', 'careful')",
        ptr=calling(
            "log", "i32 i32 i32", "(call $call (i32.const 2) (i32.const 2048) (i32.const 7))", {2048: "careful"}
        ),
    ),
    _case(
        "logs_to_the_standard_stream",
        lambda done: [(line.level, line.message) for line in done.logs] == [("info", "one"), ("info", "two")],
        js="console.log('one'); console.log('two')",
        wasi=saying("null", log="one\ntwo"),
    ),
    _case(
        "reports_progress",
        lambda done: done.progress == (Progress(0.5, "half"),),
        js="ctx.progress(0.5, 'half')",
        ptr=calling(
            "progress", "f64 i32 i32", "(call $call (f64.const 0.5) (i32.const 2048) (i32.const 4))", {2048: "half"}
        ),
    ),
    _case(
        "leaves_a_checkpoint",
        lambda done: done.checkpoint == b'{"done":3}',
        js="ctx.heartbeat({done: 3})",
        ptr=calling("heartbeat", "i32 i32", "(call $call (i32.const 2048) (i32.const 10))", {2048: '{"done":3}'}),
    ),
    _case(
        "fails_with_a_code_of_its_own",
        lambda done: (
            _failure(done) == ("CARD_DECLINED", False, True)
            and done.failure is not None
            and done.failure.details == b'{"bank":"x"}'
            and done.failure.next_delay_us == 5_000_000
            and done.failure.message == "no"
        ),
        js="throw ctx.fail('CARD_DECLINED', 'no', {details: {bank: 'x'}, retryable: false, nextDelay: '5s'})",
        ptr=calling(
            "fail",
            "i32 i32",
            f"(call $call (i32.const 2048) (i32.const {len(_DECLINED)}))",
            {2048: _DECLINED},
        ),
    ),
    _case(
        "fails_with_any_code_that_a_definition_can_name",
        lambda done: _failure(done) == ("card.declined", None, True),
        js="throw ctx.fail('card.declined', 'no')",
        ptr=calling(
            "fail",
            "i32 i32",
            "(call $call (i32.const 2048) (i32.const 24))",
            {2048: '{"code":"card.declined"}'},
        ),
    ),
    _case(
        "fails_with_no_code_beyond_the_alphabet",
        lambda done: _failure(done) == (failures.USER_ERROR, None, False),
        js="throw ctx.fail('card declined', 'no')",
        ptr=calling(
            "fail",
            "i32 i32",
            "(call $call (i32.const 2048) (i32.const 24))",
            {2048: '{"code":"card declined"}'},
        ),
    ),
    _case(
        "may_not_pass_for_the_engine",
        lambda done: _failure(done) == (failures.USER_ERROR, None, False),
        js="throw ctx.fail('SANDBOX_CRASHED', 'boo')",
        ptr=calling(
            "fail",
            "i32 i32",
            "(call $call (i32.const 2048) (i32.const 26))",
            {2048: '{"code":"SANDBOX_CRASHED"}'},
        ),
    ),
    _case(
        "a_failure_changes_nothing_in_the_run",
        lambda done: done.failure is not None and done.patch == {} and done.asks == () and len(done.logs) == 1,
        js="ctx.set('a', 1); ctx.route('b'); console.log('before'); throw new Error('after')",
        wasi=saying("1", log="before", exit_code=1),
    ),
    _case(
        "an_endless_loop_is_a_timeout",
        lambda done: _failure(done)[0] == failures.TIMEOUT,
        js="for(;;);",
        ptr=pointer_module("(loop (br 0)) (i64.const 0)"),
        wasi=saying("1").replace('(func (export "_start")', '(func (export "_start") (loop (br 0))'),
    ),
    _case(
        "an_endless_recursion_is_a_stack_overflow",
        lambda done: _failure(done) == (failures.STACK_OVERFLOW, False, False),
        js="(function deep() { return 1 + deep(); })()",
        ptr=pointer_module("(call $f) (i64.const 0)", rest=ALLOC + "(func $f (call $f) (call $f))"),
    ),
    _case(
        "too_much_output",
        lambda done: _failure(done) == (failures.OUTPUT_TOO_LARGE, False, False),
        js="'x'.repeat(2000)",
        ptr=constant('"' + "x" * 2000 + '"'),
        wasi=saying('"' + "x" * 2000 + '"'),
        limits=msgspec.structs.replace(SHORT, output_bytes=1000),
    ),
    _case(
        "too_many_log_lines_are_counted",
        lambda done: done.failure is None and len(done.logs) == 3 and done.logs_lost == 7,
        js="for (let i = 0; i < 10; i++) console.log(i)",
        wasi=saying("1", log="\n".join("0123456789")),
        limits=msgspec.structs.replace(SHORT, log_lines=3),
    ),
    _case(
        "a_long_log_line_is_cut",
        lambda done: done.failure is None and len(done.logs[0].message) == 100 and done.logs_lost == 1,
        js="console.log('x'.repeat(5000))",
        wasi=saying("1", log="x" * 5000),
        limits=msgspec.structs.replace(SHORT, log_bytes=100),
    ),
    _case(
        "usage_is_told",
        lambda done: done.usage.wall_us > 0 and done.usage.peak_memory_bytes > 0 and done.runtime,
        js="1",
        ptr=ECHO,
        wasi=COMMAND_ECHO,
    ),
]
_PAIRS = [pytest.param(case, guest, id=f"{guest}-{case.name}") for case in _CASES for guest in case.guests]


@pytest.mark.parametrize(("case", "guest"), _PAIRS)
async def test_conforms(pool: SlotPool, case: Case, guest: str) -> None:
    activation = case.guests[guest](**case.fields)
    completion = await pool.run(activation)
    assert case.expect(completion), completion
