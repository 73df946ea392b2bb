"""More modules that mean harm: what the design's list does not have."""

from __future__ import annotations

from tests.runtimes.guests import (
    ALLOC,
    ECHO,
    assemble,
    calling,
    command,
    constant,
    pointer_module,
    saying,
    text_data,
)
from tests.runtimes.hostile_module import HEADER, NO_TYPES, OK, Hostile, number, section
from windlass.runtimes.failures import (
    BAD_CODE,
    BAD_OUTPUT,
    OUTPUT_TOO_LARGE,
    SANDBOX_CRASHED,
    STACK_OVERFLOW,
    TIMEOUT,
    TRAP,
    USER_ERROR,
)

_TASK = "i32 i32"
_TRAPS = '(module (memory (export "memory") 1) (func (export "_start") unreachable))'


def _named(name: bytes) -> bytes:
    """A section that calls function 0 by this name."""
    names = number(1) + number(0) + number(len(name)) + name
    return section(0, b"\x04name\x01" + number(len(names)) + names)


INVENTED: list[Hostile] = [
    Hostile("claims_to_be_long", HEADER + section(7, number(0xFFFFFFFF)), (BAD_CODE,), "exports"),
    Hostile("long_number", HEADER + b"\x01\xff\xff\xff\xff\xff\x7f", (BAD_CODE,), "32 bits"),
    Hostile("section_too_long", HEADER + b"\x01\x50\x00", (BAD_CODE,), "ends in the middle"),
    Hostile("section_twice", HEADER + NO_TYPES + NO_TYPES, (BAD_CODE,), "two sections"),
    Hostile(
        "name_too_long", HEADER + section(7, number(1) + number(5000) + b"a" * 5000 + b"\0\0"), (BAD_CODE,), "name"
    ),
    Hostile("name_not_utf8", HEADER + section(7, number(1) + b"\x02\xff\xfe\0\0"), (BAD_CODE,), "UTF-8"),
    Hostile(
        "export_beyond", HEADER + section(7, number(2) + b"\6memory\2\0" + b"\6_start\0\x63"), (BAD_CODE,), "_start"
    ),
    Hostile(
        "types_without_end", HEADER + section(1, number(9_999) + b"\x60\0\0" * 3), (BAD_CODE,), "ends in the middle"
    ),
    Hostile("body_is_garbage", assemble(ECHO).replace(b"\x0b", b"\xfb"), (BAD_CODE,)),
    Hostile("random_bytes", HEADER + bytes(range(256)) * 16, (BAD_CODE,)),
    Hostile("zeros", HEADER + bytes(1000), (BAD_CODE,)),
    Hostile("custom_sections", HEADER + section(0, b"\x04name" + b"\xff" * 1000) * 50, (BAD_CODE,)),
    Hostile("too_large", HEADER + section(0, b"\x01a" + bytes(11 << 20)), (BAD_CODE,), "limit"),
    Hostile(
        "both_interfaces",
        saying("1").rstrip()[:-1] + f'{ALLOC} (func (export "run") (param i32) (unreachable)))',
        (OK,),
        "1",
    ),
    Hostile("simd", pointer_module("(drop (i8x16.splat (i32.const 1))) (i64.const 0)"), (BAD_OUTPUT,)),
    Hostile(
        "relaxed_simd",
        pointer_module(
            "(drop (i8x16.relaxed_swizzle (i8x16.splat (i32.const 1)) (i8x16.splat (i32.const 1)))) (i64.const 0)"
        ),
        (BAD_CODE,),
    ),
    Hostile("atomics", pointer_module("(drop (i32.atomic.load (i32.const 0))) (i64.const 0)"), (BAD_CODE,)),
    Hostile(
        "indirect_null",
        pointer_module("(call_indirect (i32.const 0)) (i64.const 0)", data="(table 1 funcref)"),
        (TRAP,),
    ),
    Hostile(
        "indirect_type",
        pointer_module(
            "(call_indirect (param i32) (i32.const 1) (i32.const 0)) (i64.const 0)",
            data="(table funcref (elem $q)) (func $q)",
        ),
        (TRAP,),
    ),
    Hostile(
        "overflow", pointer_module("(drop (i32.div_s (i32.const -2147483648) (i32.const -1))) (i64.const 0)"), (TRAP,)
    ),
    Hostile("conversion", pointer_module("(i64.trunc_f64_s (f64.const nan))"), (TRAP,)),
    Hostile(
        "copy_outside",
        pointer_module("(memory.copy (i32.const 0) (i32.const 131000) (i32.const 200)) (i64.const 0)"),
        (TRAP,),
    ),
    Hostile(
        "table_outside",
        pointer_module("(drop (table.get (i32.const 5))) (i64.const 0)", data="(table 1 funcref)"),
        (TRAP,),
    ),
    Hostile("start_traps", pointer_module("(i64.const 0)", rest=ALLOC + "(func $s unreachable) (start $s)"), (TRAP,)),
    Hostile(
        "initialize_loops",
        pointer_module("(i64.const 0)", rest=ALLOC + '(func (export "_initialize") (loop (br 0)))'),
        (TIMEOUT,),
    ),
    Hostile(
        "initialize_wrong",
        pointer_module("(i64.const 0)", rest=ALLOC + '(func (export "_initialize") (param i32))'),
        (BAD_CODE,),
    ),
    Hostile("dealloc_wrong", pointer_module("(i64.const 0)", rest=ALLOC + '(func (export "dealloc"))'), (BAD_CODE,)),
    Hostile(
        "mutual",
        pointer_module("(call $a) (i64.const 0)", rest=ALLOC + "(func $a (call $b) nop) (func $b (call $a) nop)"),
        (STACK_OVERFLOW,),
    ),
    Hostile(
        "big_frames",
        pointer_module("(call $f) (i64.const 0)", rest=ALLOC + "(func $f (local " + "i64 " * 5000 + ") (call $f) nop)"),
        (STACK_OVERFLOW, BAD_CODE),
    ),
    Hostile(
        "slow_memory",
        pointer_module("(loop (memory.copy (i32.const 0) (i32.const 1) (i32.const 130000)) (br 0)) (i64.const 0)"),
        (TIMEOUT,),
    ),
    Hostile(
        "grow_and_touch",
        pointer_module(
            "(loop (drop (memory.grow (i32.const 1))) (memory.fill (i32.const 0) (i32.const 7)"
            " (i32.mul (memory.size) (i32.const 65536))) (br 0)) (i64.const 0)"
        ),
        (TIMEOUT,),
    ),
    Hostile(
        "log_outside",
        calling("log", "i32 i32 i32", "(call $call (i32.const 1) (i32.const -1) (i32.const 5))", {}),
        (BAD_OUTPUT,),
    ),
    Hostile(
        "log_level",
        calling("log", "i32 i32 i32", "(call $call (i32.const -1) (i32.const 0) (i32.const 5))", {}),
        (OK,),
        "null",
    ),
    Hostile(
        "log_huge",
        calling("log", "i32 i32 i32", "(call $call (i32.const 1) (i32.const 0) (i32.const 131072))", {}),
        (OK,),
        "null",
    ),
    Hostile(
        "log_loop",
        calling("log", "i32 i32 i32", "(loop (call $call (i32.const 1) (i32.const 0) (i32.const 50)) (br 0))", {}),
        (TIMEOUT,),
    ),
    Hostile(
        "progress_loop",
        calling(
            "progress", "f64 i32 i32", "(loop (call $call (f64.const 0.1) (i32.const 0) (i32.const 5)) (br 0))", {}
        ),
        (TIMEOUT,),
    ),
    Hostile(
        "progress_nan",
        calling("progress", "f64 i32 i32", "(call $call (f64.const nan) (i32.const 0) (i32.const 0))", {}),
        (USER_ERROR,),
    ),
    Hostile(
        "set_no_key",
        calling("set", "i32 i32 i32 i32", "(call $call (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))", {}),
        (USER_ERROR,),
    ),
    Hostile(
        "set_no_json",
        calling(
            "set",
            "i32 i32 i32 i32",
            "(call $call (i32.const 2048) (i32.const 1) (i32.const 2048) (i32.const 3))",
            {2048: "a b"},
        ),
        (BAD_OUTPUT,),
    ),
    Hostile(
        "set_too_much",
        calling(
            "set",
            "i32 i32 i32 i32",
            "(loop (call $call (i32.const 2048) (i32.const 1) (i32.const 2049) (i32.const 2)) (br 0))",
            {2048: 'k""'},
        ),
        (OUTPUT_TOO_LARGE, TIMEOUT),
    ),
    Hostile(
        "ask_unknown",
        calling("ask", _TASK, "(call $call (i32.const 2048) (i32.const 15))", {2048: '{"kind":"fork"}'}),
        (USER_ERROR,),
    ),
    Hostile(
        "ask_no_json",
        calling("ask", _TASK, "(call $call (i32.const 2048) (i32.const 3))", {2048: "{,}"}),
        (BAD_OUTPUT,),
    ),
    Hostile(
        "ask_loop",
        calling("ask", _TASK, "(loop (call $call (i32.const 2048) (i32.const 2)) (br 0))", {2048: "{}"}),
        (USER_ERROR,),
    ),
    Hostile(
        "heartbeat_no_json",
        calling("heartbeat", _TASK, "(call $call (i32.const 2048) (i32.const 1))", {2048: "?"}),
        (BAD_OUTPUT,),
    ),
    Hostile(
        "heartbeat_huge",
        calling("heartbeat", _TASK, "(call $call (i32.const 0) (i32.const 100001))", {}),
        (OUTPUT_TOO_LARGE,),
        "100001 bytes",
    ),
    Hostile("fail_outside", calling("fail", _TASK, "(call $call (i32.const -9) (i32.const 100))", {}), (BAD_OUTPUT,)),
    Hostile(
        "fail_plain",
        calling("fail", _TASK, "(call $call (i32.const 2048) (i32.const 2))", {2048: "no"}),
        (USER_ERROR,),
        "no",
    ),
    Hostile(
        "fail_bad_json",
        calling("fail", _TASK, "(call $call (i32.const 2048) (i32.const 3))", {2048: "{a}"}),
        (USER_ERROR,),
    ),
    Hostile(
        "read_outside",
        calling(
            "read", "i32 i32 i32) (result i32", "(drop (call $call (i32.const 0) (i32.const -1) (i32.const 100)))", {}
        ),
        (BAD_OUTPUT,),
    ),
    Hostile(
        "read_unknown",
        calling(
            "read", "i32 i32 i32) (result i32", "(drop (call $call (i32.const 99) (i32.const 0) (i32.const 100)))", {}
        ),
        (OK,),
        "null",
    ),
    Hostile(
        "exit_in_start",
        command("nop", data="(func $s (call $proc_exit (i32.const 0))) (start $s)"),
        (USER_ERROR, BAD_OUTPUT, OK),
    ),
    Hostile(
        "write_in_start",
        command("nop", data="(func $s (call $write (i32.const 1) (i32.const 0) (i32.const 5))) (start $s)"),
        (BAD_OUTPUT,),
    ),
    Hostile("endless_sections", assemble(ECHO) + section(0, b"\0") * 100_000, (BAD_CODE,), "sections"),
    Hostile("many_data_segments", HEADER + section(11, number(20_001) + b"\1\0" * 20_001), (BAD_CODE,), "20001 data"),
    Hostile("name_of_megabytes", assemble(_TRAPS) + _named(b"n" * 5_000_000), (TRAP,)),
    Hostile(
        "set_long_names",
        calling(
            "set",
            "i32 i32 i32 i32",
            """(loop (i32.store (i32.const 4096) (i32.or (local.get $p) (i32.const 0x10101010)))
              (call $call (i32.const 4096) (i32.const 1024) (i32.const 2048) (i32.const 1))
              (br_if 0 (i32.lt_u (local.tee $p (i32.add (local.get $p) (i32.const 1))) (i32.const 100000))))""",
            {2048: "1"},
        ),
        (OUTPUT_TOO_LARGE,),
        "task.set",
    ),
    Hostile("two_values", saying("1\n2"), (BAD_OUTPUT,)),
    Hostile("silence", command("nop"), (BAD_OUTPUT,)),
    Hostile(
        "log_is_binary",
        command(
            "(call $write (i32.const 2) (i32.const 64) (i32.const 256))"
            "(call $write (i32.const 1) (i32.const 1024) (i32.const 1))",
            data=f'(data (i32.const 64) {text_data(bytes(range(256)))}) (data (i32.const 1024) "1")',
        ),
        (OK,),
        "1",
    ),
    Hostile(
        "no_such_descriptor",
        command(
            "(call $write (i32.const 7) (i32.const 0) (i32.const 9))"
            "(call $write (i32.const 1) (i32.const 1024) (i32.const 1))",
            data='(data (i32.const 1024) "1")',
        ),
        (OK,),
        "1",
    ),
    Hostile(
        "compile_bomb",
        constant(
            "1",
            rest=ALLOC
            + "".join(
                f"(func (param i32) (result i32) {'(i32.mul (local.get 0) ' * 200}(i32.const 1){')' * 200})"
                for _ in range(150)
            ),
        ),
        (OK, BAD_CODE, TIMEOUT),
        "1",
    ),
    Hostile("crashes_the_process", b"\0asm", (BAD_CODE, SANDBOX_CRASHED)),
]
