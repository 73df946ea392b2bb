"""What authors of JavaScript can rely on: entry points, `ctx`, errors with lines, modern language, determinism."""

from __future__ import annotations

import msgspec
import pytest

from tests.runtimes.guests import MIB, PATIENT, script, task
from tests.runtimes.test_jail import slots
from windlass.runtimes import failures
from windlass.runtimes.jail_pool import SlotPool
from windlass.runtimes.javascript_outcome import syntax_problem
from windlass.runtimes.javascript_source import _RUN_TRAILER, script_of
from windlass.runtimes.port import BadCode, Failure, Limits


async def value_of(pool: SlotPool, source: str, **fields: object) -> object:
    """Return what a script gives."""
    completion = await pool.run(script(source, **{"limits": PATIENT, "input": b'{"a":1,"b":2}', **fields}))
    assert completion.failure is None, completion
    return msgspec.json.decode(completion.output)


async def failure_of(pool: SlotPool, source: str, **fields: object) -> Failure:
    """Return how a script fails."""
    completion = await pool.run(script(source, **{"limits": PATIENT, **fields}))
    assert completion.failure is not None, completion
    return completion.failure


@pytest.mark.parametrize(
    "source",
    [
        "input.a + input.b",
        "const s = input.a + input.b; s;",
        "function run(input) { return input.a + input.b }",
        "async function run({a, b}) { await null; return a + b }",
        "const run = ({a, b}) => a + b",
        "let run = async (input, ctx) => input.a + input.b",
        "var run = function (input) { return input.a + input.b }",
        "export default function run(input) { return helper(input) }\nfunction helper(i) { return i.a + i.b }",
        "export default function (input) { return input.a + input.b }",
        "export default async function named(input) { return named === undefined ? 0 : input.a + input.b }",
        "export default (input) => input.a + input.b",
        "export default async ({a, b}) => a + b;\n// end",
        "const plus = (i) => i.a + i.b;\nexport { plus as default }",
        "const plus = (i) => i.a + i.b;\nexport default plus",
        "export const rate = 1;\nexport function run(i) { return (i.a + i.b) * rate }",
        "export default 3",
        "'use strict';\nexport default (i) => i.a + i.b",
        "const text = 'export default 5'; /* export default 6 */ // export default 7\nexport default 3",
        "const t = `export default ${1 + `${2}`}`; const re = /export default [/]/; export default t.length - 14",
        "'use strict';\nfunction run(i) { return i.a + i.b }",
        "'use strict';\nvar run = async (i) => i.a + i.b",
        "const one = 1, run = (i) => i.a + i.b; // const run = 2",
        "const { run } = { run: (i) => i.a + i.b }",
        "const odd = (s) => { if (s) /\\(/.test(s) };\nconst run = (i) => i.a + i.b",
        "const plus = (i) => i.a + i.b;\nexport{plus as run}",
        "export default function (i) { return i.a + i.b }\n[1].map((x) => x)",
        "'use strict';\nexport default async function(i) { return i.a + i.b } const rest = 1",
        "export default\nfunction\n(i) { return i.a + i.b }\n(() => 1)()",
        "const o = { run: () => 3 };\no.run() // no other run",
        "Promise.resolve(3)",
        "({then(done) { done(3) }})",
        "(async () => { let last; for await (const x of [1, 2, 3]) last = x; return last })()",
    ],
)
async def test_every_way_to_give_a_result(pool: SlotPool, source: str) -> None:
    assert await value_of(pool, source) == 3


@pytest.mark.parametrize(
    ("source", "line", "text"),
    [
        ("let a = 1;\n\nnull.x", 3, "TypeError"),
        ("function f() {\n  throw new RangeError('no');\n}\n\nf()", 2, "RangeError: no"),
        ("export default function (i) {\n  return i.x.y;\n}", 2, "TypeError"),
        ("async function run() {\n  await null;\n  missing();\n}", 3, "ReferenceError"),
        ("const run = () => {\n\n  JSON.parse('{');\n}", 3, "SyntaxError"),
        ("let x = 1;\nlet y = = 2;", 2, "SyntaxError"),
        ("// a comment\nif (true) {\n", 3, "SyntaxError"),
        ("function run() {\n  if (true) {\n}", 3, "SyntaxError"),
        ("let a;\nctx.set('a', 5n)", 2, "BigInt"),
        ("function f() {\n  ctx.spawn('');\n}\nf()", 2, "not empty"),
        ("let a;\n\n(0, eval)('null.x')", 3, "TypeError"),
        ("async function run() {\n  await 1;\n  JSON.parse('{');\n}", 3, "SyntaxError"),
        ("ctx.set('a', {\n  toJSON() { null.x }})", 2, "TypeError"),
        ("queueMicrotask(() => {\n  null.x });\nnew Promise(() => {})", 2, "TypeError"),
    ],
)
async def test_errors_name_the_author_s_line(pool: SlotPool, source: str, line: int, text: str) -> None:
    failure = await failure_of(pool, source)
    assert f"task.js:{line}:" in failure.stack, failure
    assert text in failure.message
    assert "$host" not in failure.stack
    assert "<input>" not in failure.stack


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("const x: string = 'a'", "TypeScript"),
        ("interface Order { id: string }\n1", "TypeScript"),
        ("import type { A } from './a'", "TypeScript"),
        ("type A = {a: 1};\nlet b: A", "TypeScript"),
        ("import fs from 'fs'", "import"),
        ("export * from './other'", "import"),
        ("export { a } from './other'", "import"),
        ("await fetch('x')", "async function run"),
        ("const x = 1;\nreturn x", "last expression"),
        ("const run = 5", "`run` must be a function"),
    ],
)
async def test_mistakes_are_explained(pool: SlotPool, source: str, words: str) -> None:
    failure = await failure_of(pool, source)
    assert failure.code == failures.BAD_CODE
    assert words in failure.message


@pytest.mark.parametrize(
    "source",
    [
        "JSON.parse('{')",
        "(0, eval)('let = = 1')",
        "new Function('(')",
        "new RegExp('(')",
        "new Array(-1)",
        "[].length = 0.5",
        "throw new Error('stack overflow in the printer')",
    ],
)
async def test_what_goes_wrong_while_code_runs_is_no_defect_of_code_or_size(pool: SlotPool, source: str) -> None:
    failure = await failure_of(pool, f"\n{source}")
    assert (failure.code, failure.retryable) == (failures.USER_ERROR, None)
    assert "task.js:1:" not in failure.stack, failure


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("1 +", 1),
        ("let a;\nlet a;", 2),
        ("\n\nfunction {", 3),
        ("let x: number = 1", 1),
        ("import 'x'", 1),
        ("// a\n'use strict'\nwith (input) a", 3),
    ],
)
async def test_problems_are_found_before_anything_runs(pool: SlotPool, source: str, line: int) -> None:
    problems = await pool.check("javascript", source.encode())
    assert [problem.line for problem in problems] == [line], problems


async def test_checking_runs_nothing(pool: SlotPool) -> None:
    assert await pool.check("javascript", b"for(;;);") == ()
    assert await pool.check("javascript", b"throw new Error('never')") == ()
    assert await pool.check("javascript", b"\xef\xbb\xbf#!/usr/bin/env node\n1") == ()
    assert await pool.check("javascript", b"export default async (input) => input") == ()


async def test_ctx_knows_where_it_is(pool: SlotPool) -> None:
    me = task(
        namespace="shop", run_id="r-7", definition="orders", state="charge", path="a/#3", attempt=2, max_attempts=5
    )
    seen = await value_of(
        pool,
        "[ctx.namespace, ctx.runId, ctx.run_id, ctx.definition, ctx.state, ctx.path, ctx.attempt, ctx.maxAttempts,"
        " ctx.idempotencyKey === ctx.idempotency_key, ctx.visit === config.visit, ctx.checkpoint, ctx.resumeState()]",
        task=me,
        config=b'{"visit":%d}' % me.visit,
        checkpoint=b'{"page":4}',
        resume=b'"job-1"',
    )
    assert seen == ["shop", "r-7", "r-7", "orders", "charge", "a/#3", 2, 5, True, True, {"page": 4}, "job-1"]


async def test_context_values(pool: SlotPool) -> None:
    source = """
        const before = ctx.get('count');
        ctx.set('count', before + 1);
        ctx.set('list', [1]); ctx.set('list', [1, 2]);
        ctx.set('nothing', undefined);
        [before, ctx.get('count'), ctx.get('list'), ctx.get('missing') === undefined]
    """
    completion = await pool.run(script(source, context=b'{"count":41}', limits=PATIENT))
    assert completion.output == b"[41,42,[1,2],true]"
    assert completion.patch == {"count": b"42", "list": b"[1,2]", "nothing": b"null"}


async def test_ctx_is_given_to_run_under_any_name(pool: SlotPool) -> None:
    assert await value_of(pool, "function run(input, c = {}) { return c.runId }") == "run-1"
    assert await value_of(pool, "function run() { return arguments[1].runId + arguments.length }") == "run-12"


async def test_console_and_log(pool: SlotPool) -> None:
    source = """
        console.log('a', 1, {b: [2]}, null, undefined, true);
        console.error(new Error('bad'));
        console.debug(() => 1); console.warn(Symbol('s'));
        ctx.log('plain'); ctx.log('error', 'worse', {code: 7}); ctx.log({any: 'thing'}, {meta: 1});
    """
    logs = (await pool.run(script(source, limits=PATIENT))).logs
    told = [(line.level, line.message.split("\n")[0], line.metadata) for line in logs]
    assert told == [
        ("info", 'a 1 {"b":[2]} null undefined true', b""),
        ("error", "Error: bad", b""),
        ("debug", "() => 1", b""),
        ("warn", "Symbol(s)", b""),
        ("info", "plain", b""),
        ("error", "worse", b'{"code":7}'),
        ("info", '{"any":"thing"}', b'{"meta":1}'),
    ]


async def test_what_a_microtask_throws_is_told_as_it_is(pool: SlotPool) -> None:
    failure = await failure_of(pool, "queueMicrotask(() => { throw 'too late' }); new Promise(() => {})")
    assert (failure.message, failure.stack) == ("too late", "")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("NaN, -Infinity, undefined, -0, 5n", "NaN -Infinity undefined 0 5"),
        ("Object.assign(new Error('e'), {toString: null})", "[unprintable]"),
        ("(() => { const {proxy, revoke} = Proxy.revocable({}, {}); revoke(); return proxy })()", "[unprintable]"),
        ("new Proxy([], {getPrototypeOf() { throw 1 }, get() { throw 2 }})", "[unprintable]"),
    ],
)
async def test_console_shows_what_it_is_given_and_never_throws(pool: SlotPool, source: str, message: str) -> None:
    completion = await pool.run(script(f"console.log({source})", limits=PATIENT))
    assert completion.failure is None, completion
    assert [line.message for line in completion.logs] == [message]


@pytest.mark.parametrize(
    ("place", "line", "column"), [("2:5", 2, 5), ("1:15", 1, 6), ("2", 2, 0), ("1", 1, 0)], ids=str
)
def test_a_place_is_read_with_and_without_a_column(place: str, line: int, column: int) -> None:
    """`quickjs-ng` gives both, `quickjs` the line alone; nine columns were put before the author's first line."""
    problem = syntax_problem(f"SyntaxError: no\n    at <input>:{place}", "let x", 9)
    assert (problem.message, problem.line, problem.column) == ("no", line, column)


async def test_a_logged_error_shows_the_authors_lines_and_nothing_of_the_host(pool: SlotPool) -> None:
    source = """
        function inner() { return new Error('bad') }
        function run() { console.error('first', inner(), 'last'); ctx.log('warn', inner().stack) }
    """
    logs = (await pool.run(script(source, limits=PATIENT))).logs
    frames = "    at inner (task.js:2:39)\n    at run (task.js:3:{})"
    assert [line.message for line in logs] == [
        "first Error: bad\n" + frames.format(49) + "\n last",
        frames.format(83),
    ]


async def test_logs_and_checkpoint_survive_a_timeout() -> None:
    """If the engine ends the task. Where the worker has to, nothing can be saved: hence the long grace."""
    async with slots(grace_us=20_000_000) as pool:
        completion = await pool.run(script("console.log('so far'); ctx.heartbeat({page: 3}); for(;;);"))
    assert completion.failure is not None
    assert completion.failure.code == failures.TIMEOUT
    assert [line.message for line in completion.logs] == ["so far"]
    assert completion.checkpoint == b'{"page":3}'


@pytest.mark.parametrize(
    "source",
    [
        "[1, 2, 3].at(-1) === 3",
        "Object.hasOwn({a: 1}, 'a')",
        "(class { static #x = 1; static { this.y = this.#x } }).y === 1",
        "new Error('a', {cause: 1}).cause === 1",
        "[1, 2].findLast(x => x) === 2",
        "[2, 1].toSorted()[0] === 1",
        "Object.groupBy([1, 2], x => x % 2 ? 'odd' : 'even').odd[0] === 1",
        "new Set([1]).union(new Set([2])).size === 2",
        "[...Iterator.from([1, 2]).map(x => x * 2)][1] === 4",
        "/(?<y>\\d)/d.exec('a1').indices.groups.y[0] === 1",
        "let a = null; a ??= 1; a === 1",
        "1_000n ** 2n === 1_000_000n",
        "'a-b'.replaceAll('-', '+') === 'a+b'",
        "Promise.withResolvers !== undefined",
        "atob(btoa('x')) === 'x'",
    ],
)
async def test_language_is_modern(pool: SlotPool, source: str) -> None:
    assert await value_of(pool, source) is True


async def test_clock_stands_still_unless_granted(pool: SlotPool) -> None:
    source = "[Date.now(), new Date().toISOString(), ctx.startTime, +new Date(0), Date.UTC(2020, 0), Date().length > 9]"
    start = 1_700_000_000_123_456
    assert await value_of(pool, source, start_us=start) == [
        1_700_000_000_123,
        "2023-11-14T22:13:20.123Z",
        1_700_000_000_123,
        0,
        1_577_836_800_000,
        True,
    ]
    moving = "const t = Date.now(); while (Date.now() === t); Date.now() > 1.7e12"
    assert await value_of(pool, moving, grants=("clock",)) is True


async def test_deterministic_attempts_see_the_same_chance(pool: SlotPool) -> None:
    source = "[Math.random(), Math.random(), typeof WeakRef, typeof FinalizationRegistry]"
    first, second = task(idempotency_key="k", attempt=1), task(idempotency_key="k", attempt=2)
    once = await value_of(pool, source, deterministic=True, task=first)
    assert once == await value_of(pool, source, deterministic=True, task=second)
    assert once != await value_of(pool, source, deterministic=True, task=task(idempotency_key="other"))
    assert once != await value_of(pool, source, deterministic=True, task=first, seed=7)
    assert isinstance(once, list)
    assert once[2:] == ["undefined", "undefined"]
    assert await value_of(pool, "Math.random()") != await value_of(pool, "Math.random()")


async def test_chance_cannot_be_had_by_a_back_door(pool: SlotPool) -> None:
    source = """
        const realDate = new Function('return Date')();
        const indirect = (0, eval)('Date.now()');
        [realDate.now() === indirect, new realDate.prototype.constructor().getTime() === indirect,
         typeof globalThis.__date_clock, typeof performance, new (class extends Date {})().getTime() === indirect,
         Reflect.construct(Date, []).getTime() === indirect]
    """
    assert await value_of(pool, source, deterministic=True, start_us=5_000) == [
        True,
        True,
        "undefined",
        "undefined",
        True,
        True,
    ]


async def test_large_numbers_and_text_pass(pool: SlotPool) -> None:
    text = '{"é":"\\u0000\\ud83d\\ude00","n":[9007199254740991,-0.5,1e300]}'
    assert await value_of(pool, "input", input=text.encode()) == {"é": "\0😀", "n": [2**53 - 1, -0.5, 1e300]}
    large = msgspec.json.encode(["x" * 100] * 5_000)
    completion = await pool.run(script("input", input=large, limits=PATIENT))
    assert completion.output == large


@pytest.mark.parametrize(
    ("source", "script_text"),
    [
        ("1 + 1", "1 + 1"),
        ("export default 5", "$default=      5"),
        ("export const run = 1", f"       const run = 1{_RUN_TRAILER}"),
        ("export default function a() {}", "               function a() {};$default=a"),
        ("export default function (i) {}", "      function $default (i) {};globalThis.$default=$default"),
        ("export default async function*(i) {}", "      async function* $default(i) {};globalThis.$default=$default"),
        ("export default class extends A {}", "      class $default extends A {};globalThis.$default=$default"),
        ("async function run() {}", "async function run() {}"),
        ("'use strict';function run() {}", f"'use strict';function run() {{}}{_RUN_TRAILER}"),
        ("a = {export: 1}; b.export = 2", "a = {export: 1}; b.export = 2"),
        ("x = a / b; export default x / c", "x = a / b; $default=      x / c"),
        ("export {a, b as default}", "                        ;$default=b"),
        ("export {a as default, b as run}", f"{' ' * 31}{_RUN_TRAILER};$default=a;globalThis.run=b"),
        ("export {a as default} // a", "                      // a\n;$default=a"),
        ("export default function *a() {}", "               function *a() {};$default=a"),
        ("x = '\\''; /* run */ export default 1", f"x = '\\''; /* run */ $default=      1{_RUN_TRAILER}"),
        ("if (a) /'/.test(b); export default 1", "if (a) /'/.test(b); $default=      1"),
    ],
)
def test_exports_are_rewritten_in_place(source: str, script_text: str) -> None:
    assert script_of(source.encode()) == script_text


@pytest.mark.parametrize("source", [b"", b" \n", b"\xff", b"a\0", b"1" * (1 << 20) + b"1"])
def test_source_that_is_none(source: bytes) -> None:
    with pytest.raises(BadCode):
        script_of(source)


async def test_a_heartbeat_without_a_checkpoint_keeps_the_last_one(pool: SlotPool) -> None:
    completion = await pool.run(script("ctx.heartbeat(); null.x", limits=PATIENT, checkpoint=b'{"page":4}'))
    assert completion.checkpoint is None


async def test_a_promise_that_never_settles_is_told_also_where_no_memory_is_left(pool: SlotPool) -> None:
    fill = "try { for (;;) kept.push(new Uint8Array(10000)) } catch {}"
    source = f"ctx.log('x'.repeat(60000)); const kept = []; queueMicrotask(() => {{ {fill} }}); new Promise(() => {{}})"
    assert (await failure_of(pool, source)).code == failures.NEVER_SETTLED


@pytest.mark.parametrize("leave", ["ctx.heartbeat(v)", "ctx.log('deep', v)"])
async def test_what_lies_too_deep_in_what_is_left_behind_does_not_change_how_it_ended(
    pool: SlotPool, leave: str
) -> None:
    limits = Limits(wall_us=300_000, stack_bytes=MIB)
    code = f"let v = 0; for (let i = 0; i < 1000; i++) v = [v]; {leave}; for (;;);"
    completion = await pool.run(script(code, limits=limits))
    assert completion.failure is not None
    assert completion.failure.code == failures.TIMEOUT
