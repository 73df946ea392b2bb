"""What authors of modules can rely on: both interfaces, `task.read`, fuel, determinism, the cache of compiled code."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.runtimes.guests import (
    ALLOC,
    COMMAND_ECHO,
    ECHO,
    PATIENT,
    assemble,
    calling,
    command,
    module,
    pointer_module,
    saying,
    task,
)
from windlass.runtimes import failures
from windlass.runtimes.asks import BadAsk, decode_asks
from windlass.runtimes.durations import parse_duration_us
from windlass.runtimes.jail_pool import SlotPool
from windlass.runtimes.port import BadCode
from windlass.runtimes.prepared_cache import PreparedCache
from windlass.runtimes.wasm_sections import module_facts

_READ = """
  (import "task" "read" (func $read (param i32 i32 i32) (result i32)))
"""


def reading(what: int) -> str:
    """Return a module that answers with what `task.read` gives."""
    return pointer_module(
        f"""(local $n2 i32) (local.set $n2 (call $read (i32.const {what}) (i32.const 8192) (i32.const 4096)))
        (i64.or (i64.shl (i64.const 8192) (i64.const 32)) (i64.extend_i32_u (local.get $n2)))""",
        imports=_READ,
    )


async def output_of(pool: SlotPool, text: str, **fields: object) -> bytes:
    """Return what a module gives."""
    completion = await pool.run(module(text, **{"limits": PATIENT, **fields}))
    assert completion.failure is None, completion
    return completion.output


async def test_module_reads_everything_about_its_task(pool: SlotPool) -> None:
    me = task(state="charge", attempt=3)
    fields = {
        "task": me,
        "input": b"[1]",
        "config": b'{"c":2}',
        "context": b'{"k":3}',
        "checkpoint": b"4",
        "resume": b'"5"',
    }
    told = [await output_of(pool, reading(what), **fields) for what in (0, 1, 2, 4, 5)]
    assert told == [b"[1]", b'{"c":2}', b'{"k":3}', b"4", b'"5"']
    about = msgspec.json.decode(await output_of(pool, reading(3), **fields))
    assert (about["state"], about["attempt"], about["idempotency_key"]) == ("charge", 3, me.idempotency_key)


async def test_fuel_is_counted_and_ends_a_module(pool: SlotPool) -> None:
    limits = msgspec.structs.replace(PATIENT, fuel=1_000_000)
    first = await pool.run(module(ECHO, limits=limits, input=b"1"))
    second = await pool.run(module(ECHO, limits=limits, input=b"1"))
    assert first.failure is None
    assert 0 < first.usage.fuel == second.usage.fuel < 100
    endless = await pool.run(module(pointer_module("(loop (br 0)) (i64.const 0)"), limits=limits))
    assert endless.failure is not None
    assert endless.failure.code == failures.OUT_OF_FUEL
    assert endless.usage.fuel == 1_000_000


async def test_cpu_limit_ends_a_module_before_its_wall_limit(pool: SlotPool) -> None:
    limits = msgspec.structs.replace(PATIENT, wall_us=60_000_000, cpu_us=100_000)
    completion = await pool.run(module(pointer_module("(loop (br 0)) (i64.const 0)"), limits=limits))
    assert completion.failure is not None
    assert completion.failure.code == failures.TIMEOUT


_CHANCE = command(
    """(drop (call $random_get (i32.const 64) (i32.const 8)))
    (drop (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 72)))
    (call $write (i32.const 2) (i32.const 64) (i32.const 16))
    (call $write (i32.const 1) (i32.const 1024) (i32.const 1))""",
    imports=("random_get", "clock_time_get"),
    data='(data (i32.const 1024) "1")',
)


async def test_deterministic_modules_see_the_same_chance_and_time(pool: SlotPool) -> None:
    async def seen(**fields: object) -> str:
        completion = await pool.run(module(_CHANCE, limits=PATIENT, start_us=1_000_000, **fields))
        return completion.logs[0].message

    one, other = task(idempotency_key="k"), task(idempotency_key="k", attempt=2)
    assert await seen(task=one, deterministic=True) == await seen(task=other, deterministic=True)
    assert await seen(task=one) != await seen(task=other)


@pytest.mark.parametrize(
    "log",
    [
        "step\n" * 1_500 + "the reason\n",
        "the reason\n\n \n",
        "x" * 70_000 + "\nthe reason",
        "y" * 65_536 + "\nthe reason\n",
    ],
    ids=["more_lines_than_are_kept", "blank_lines_behind_it", "no_room_is_left", "far_into_one_write"],
)
async def test_a_command_that_fails_says_why_in_its_last_line(pool: SlotPool, log: str) -> None:
    completion = await pool.run(module(saying("1", log=log, exit_code=1), limits=PATIENT))
    assert completion.failure is not None
    assert completion.failure.message == "the reason"


async def test_lines_of_one_large_write_are_counted_like_others(pool: SlotPool) -> None:
    completion = await pool.run(module(saying("1", log=("z" * 99 + "\n") * 900), limits=PATIENT))
    assert len(completion.logs) + completion.logs_lost in (900, 901)  # one may be cut: kept in part and counted


async def test_a_key_that_is_too_long_is_refused_and_not_another_key(pool: SlotPool) -> None:
    call = "(call $call (i32.const 3000) (i32.const 1025) (i32.const 1024) (i32.const 4))"
    text = calling("set", "i32 i32 i32 i32", call, {3000: "k" * 1025})
    completion = await pool.run(module(text, limits=PATIENT))
    assert completion.failure is not None
    assert (completion.failure.code, completion.patch) == (failures.USER_ERROR, {})


async def test_an_overflow_of_the_stack_names_no_place_that_is_none(pool: SlotPool) -> None:
    text = pointer_module("(call $deep) unreachable", rest=f"{ALLOC} (func $deep (call $deep))")
    completion = await pool.run(module(text, limits=PATIENT))
    assert completion.failure is not None
    assert completion.failure.code == failures.STACK_OVERFLOW
    assert completion.failure.stack.startswith("at deep\nat deep (+0x")


async def test_traps_tell_where(pool: SlotPool) -> None:
    text = pointer_module(
        "(call $inner) (i64.const 0)",
        rest='(func $inner unreachable) (func (export "alloc") (param i32) (result i32) (i32.const 64))',
    )
    completion = await pool.run(module(text, limits=PATIENT))
    assert completion.failure is not None
    assert completion.failure.code == failures.TRAP
    assert "unreachable" in completion.failure.message
    assert completion.failure.details == b'{"trap":"UNREACHABLE"}'
    assert "inner" in completion.failure.stack


async def test_entry_may_be_named(pool: SlotPool) -> None:
    both = (
        saying('"command"').rstrip()[:-1]
        + """
      (data (i32.const 2000) "7")
      (func (export "alloc") (param i32) (result i32) (i32.const 4096))
      (func (export "run") (param i32 i32) (result i64) (i64.const 0x7d000000001)))"""
    )
    assert await output_of(pool, both) == b'"command"'
    assert await output_of(pool, both, entry="ptr") == b"7"
    refused = await pool.run(module(both, limits=PATIENT, entry="component"))
    assert refused.failure is not None
    assert refused.failure.code == failures.BAD_CODE


async def test_large_values_pass_through_both_interfaces(pool: SlotPool) -> None:
    large = msgspec.json.encode(["x" * 90] * 600)
    for text in (ECHO.replace('(memory (export "memory") 2)', '(memory (export "memory") 4)'), COMMAND_ECHO):
        assert await output_of(pool, text, input=large) == large


async def test_output_may_have_blanks_around_it(pool: SlotPool) -> None:
    assert await output_of(pool, saying(" {} \n")) == b"{}"


def test_cache_believes_only_what_it_wrote(tmp_path: Path) -> None:
    directory = tmp_path / "prepared"
    cache = PreparedCache(directory, memory_bytes_max=10)
    for name in ("a", "b", "c"):
        cache.put(name, name.encode() * 8)
    assert cache.get("a") == b"a" * 8
    assert cache.get("z") is None
    for file in directory.iterdir():
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    assert [cache.get(name) for name in ("b", "c")] == [None, None]
    assert PreparedCache(directory).get("a") is None
    directory.chmod(0o755)
    with pytest.raises(PermissionError, match="0700"):
        PreparedCache(directory)


def test_facts_of_a_module() -> None:
    assert module_facts(assemble(ECHO)).abi == "ptr"
    assert module_facts(assemble(COMMAND_ECHO)).abi == "wasi"
    with pytest.raises(BadCode, match="it exports memory"):
        module_facts(assemble('(module (memory (export "memory") 1))'))


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("250ms", 250_000),
        ("5s", 5_000_000),
        ("1m30s", 90_000_000),
        ("1.5h", 5_400_000_000),
        ("7d", 604_800_000_000),
        ("PT5S", 5_000_000),
        ("P1DT2H", 93_600_000_000),
        (1500, 1_500_000),
        (0.5, 500),
        (0, 0),
    ],
)
def test_durations(text: str | float, microseconds: int) -> None:
    assert parse_duration_us(text) == microseconds


@pytest.mark.parametrize(
    "text", ["", "5", "five", "5 s", "-5s", "P", "PT", "5s5", "s", "1e9s", -1, 1e30, float("inf"), "9" * 30 + "s"]
)
def test_durations_that_are_none(text: str | float) -> None:
    with pytest.raises(ValueError):
        parse_duration_us(text)


@pytest.mark.parametrize(
    "text",
    [
        b"[1]",
        b'[{"kind":"wait_for","signals":["a"],"timeout":NaN}]',
        b'[{"kind":"spawn"}]',
        b'[{"kind":"route","name":1}]',
        b"[",
        b'[{"name":"x"}]',
        b"[" * 5000,
    ],
)
def test_asks_that_are_none(text: bytes) -> None:
    with pytest.raises(BadAsk):
        decode_asks(text)


@pytest.mark.parametrize(
    "call",
    [
        "(call $log (i32.const 1) (i32.const 0) (i32.const 1))",
        "(drop (call $read (i32.const 0) (i32.const 0) (i32.const 1)))",
    ],
)
async def test_start_function_that_calls_the_host_is_told_why_it_cannot(pool: SlotPool, call: str) -> None:
    imports = '(import "task" "log" (func $log (param i32 i32 i32)))' + _READ
    text = pointer_module("(i64.const 0)", imports=imports, rest=ALLOC + f"(func $start {call}) (start $start)")
    completion = await pool.run(module(text, limits=PATIENT))
    assert completion.failure is not None
    assert completion.failure.code == failures.BAD_CODE
    assert "before its start function is through; call it from run" in completion.failure.message
