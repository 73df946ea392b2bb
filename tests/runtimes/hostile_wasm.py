"""Modules that mean harm, and how each must end. Numbers are those of the design's hostile list."""

from __future__ import annotations

from tests.runtimes.guests import (
    ALLOC,
    ECHO,
    assemble,
    command,
    constant,
    packed,
    pointer_module,
    saying,
)
from tests.runtimes.hostile_module import HEADER, NO_TYPES, OK, Hostile, number, section
from windlass.runtimes.failures import (
    BAD_CODE,
    BAD_OUTPUT,
    OUT_OF_MEMORY,
    OUTPUT_TOO_LARGE,
    STACK_OVERFLOW,
    TIMEOUT,
    TRAP,
    USER_ERROR,
)

_MANY_EXPORTS = HEADER + section(
    7, number(100_000) + b"".join(number(6) + b"%06d" % n + b"\0\0" for n in range(100_000))
)
_MANY_IMPORTS = HEADER + NO_TYPES + section(2, number(100_000) + b"\x01a\x01b\0\0" * 100_000)
_MANY_GLOBALS = HEADER + section(6, number(900_000) + b"\x7f\0\x41\0\x0b" * 900_000)
_BR_TABLE = pointer_module("(block (br_table " + "0 " * 30_000 + "(i32.const 1))) (i64.const 0)")
_FUNCTIONS = "".join(f"(func (param i32) (result i32) (i32.add (local.get 0) (i32.const {n})))" for n in range(3_000))
_BLOCKS = "(block " * 2_000 + ")" * 2_000

LISTED: list[Hostile] = [
    Hostile("25_empty", b"", (BAD_CODE,), "empty"),
    Hostile("25_not_wasm", b"#!/bin/sh\nls", (BAD_CODE,), "not a WebAssembly module"),
    Hostile("25_truncated", assemble(ECHO)[:-7], (BAD_CODE,), "ends in the middle"),
    Hostile("25_text", b"(module)", (BAD_CODE,), "text"),
    Hostile("25_component", b"\0asm\x0d\0\1\0", (BAD_CODE,), "component"),
    Hostile("25_future", b"\0asm\x02\0\0\0", (BAD_CODE,), "version"),
    Hostile(
        "26_unknown_import", '(module (import "env" "system" (func)) (memory (export "memory") 1))', (BAD_CODE,), "env"
    ),
    Hostile(
        "26_wrong_type",
        '(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32))) (memory (export "memory") 1))',
        (BAD_CODE,),
        "wrong type",
    ),
    Hostile("26_imported_memory", '(module (import "env" "memory" (memory 65536)))', (BAD_CODE,), "no function"),
    Hostile("27_loop", pointer_module("(loop (br 0)) (i64.const 0)"), (TIMEOUT,)),
    Hostile("27_start", pointer_module("(i64.const 0)", rest=ALLOC + "(func $s (loop (br 0))) (start $s)"), (TIMEOUT,)),
    Hostile(
        "27_tail_call", pointer_module("(call $f) (i64.const 0)", rest=ALLOC + "(func $f (return_call $f))"), (TIMEOUT,)
    ),
    Hostile(
        "27_fill",
        pointer_module("(loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 100000)) (br 0)) (i64.const 0)"),
        (TIMEOUT,),
    ),
    Hostile(
        "28_recursion",
        pointer_module("(call $f) (i64.const 0)", rest=ALLOC + "(func $f (call $f) (call $f))"),
        (STACK_OVERFLOW,),
    ),
    Hostile("28_unreachable", pointer_module("(unreachable)"), (TRAP,), "unreachable"),
    Hostile("28_division", pointer_module("(i64.div_u (i64.const 1) (i64.const 0))"), (TRAP,), "divide by zero"),
    Hostile("28_load", pointer_module("(i64.load (i32.const -8))"), (TRAP,), "out of bounds"),
    Hostile(
        "28_segment",
        pointer_module("(i64.const 0)", data='(data (i32.const 131070) "abcdef")'),
        (TRAP,),
        "out of bounds",
    ),
    Hostile(
        "29_grow",
        pointer_module("(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)"),
        (TRAP, OUT_OF_MEMORY),
    ),
    Hostile("29_all_pages", pointer_module("(i64.const 0)", memory="65536"), (OUT_OF_MEMORY,)),
    Hostile("29_memory64", HEADER + section(5, b"\x01\x04\x01"), (BAD_CODE,), "64-bit"),
    Hostile("29_shared", HEADER + section(5, b"\x01\x03\x01\x02"), (BAD_CODE,), "shared"),
    Hostile("29_memories", HEADER + section(5, number(100) + b"\0\1" * 100), (BAD_CODE,), "100 memories"),
    Hostile("30_table", pointer_module("(i64.const 0)", data="(table 100000000 funcref)"), (OUT_OF_MEMORY, BAD_CODE)),
    Hostile(
        "30_table_grow",
        pointer_module(
            "(loop (br_if 0 (i32.ne (table.grow (ref.null func) (i32.const 10000)) (i32.const -1)))) (unreachable)",
            data="(table 1 funcref)",
        ),
        (TRAP,),
    ),
    Hostile("30_tables", pointer_module("(i64.const 0)", data="(table 1 funcref)" * 99), (BAD_CODE,), "99 tables"),
    Hostile("31_functions", constant("1", rest=ALLOC + _FUNCTIONS), (OK, TIMEOUT, BAD_CODE), "1"),
    Hostile("31_too_many_functions", HEADER + section(3, number(60_000) + b"\0" * 60_000), (BAD_CODE,), "functions"),
    Hostile("31_globals", _MANY_GLOBALS, (BAD_CODE,), "globals"),
    Hostile("31_br_table", _BR_TABLE, (OK, BAD_OUTPUT, BAD_CODE)),
    Hostile("31_blocks", pointer_module(_BLOCKS + "(i64.const 0)"), (BAD_OUTPUT, BAD_CODE)),
    Hostile(
        "31_locals", constant("1", rest=ALLOC + "(func (local" + " i64" * 40_000 + "))"), (OK, BAD_CODE, TIMEOUT), "1"
    ),
    Hostile("32_exports", _MANY_EXPORTS, (BAD_CODE,), "100000 exports"),
    Hostile("32_imports", _MANY_IMPORTS, (BAD_CODE,), "100000 imports"),
    Hostile("33_bad_pointer", command("(call $write (i32.const 1) (i32.const -1) (i32.const 10))"), (BAD_OUTPUT,)),
    Hostile(
        "33_bad_iovec",
        command("(drop (call $fd_write (i32.const 1) (i32.const -4) (i32.const 9) (i32.const 8)))"),
        (BAD_OUTPUT,),
    ),
    Hostile(
        "33_iovecs",
        command("(drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1000000) (i32.const 8)))"),
        (BAD_OUTPUT,),
    ),
    Hostile(
        "33_flood",
        command("(loop (call $write (i32.const 1) (i32.const 0) (i32.const 65536)) (br 0))"),
        (OUTPUT_TOO_LARGE,),
    ),
    Hostile(
        "33_log_flood", command("(loop (call $write (i32.const 2) (i32.const 0) (i32.const 65536)) (br 0))"), (TIMEOUT,)
    ),
    Hostile("33_no_memory", saying("1").replace('(memory (export "memory") 2)', "(memory 2)"), (BAD_CODE,), "memory"),
    Hostile(
        "34_sleep",
        command(
            """(i32.store (i32.const 56) (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 8)))
            (if (i32.ne (i32.load (i32.const 56)) (i32.const 58)) (then (unreachable)))
            (call $write (i32.const 1) (i32.const 1024) (i32.const 1))""",
            imports=("poll_oneoff",),
            data='(data (i32.const 1024) "1")',
        ),
        (OK,),
        "1",
    ),
    Hostile(
        "35_random",
        command(
            """(if (i32.ne (call $random_get (i32.const 0) (i32.const 60000000)) (i32.const 28)) (then (unreachable)))
            (call $write (i32.const 1) (i32.const 1024) (i32.const 1))""",
            imports=("random_get",),
            data='(data (i32.const 1024) "1")',
        ),
        (OK,),
        "1",
    ),
    Hostile("36_exit", saying("1", exit_code=3), (USER_ERROR,), "3"),
    Hostile("36_exit_large", saying("1", log="bad luck", exit_code=300), (USER_ERROR,), "bad luck"),
    Hostile("36_exit_zero", saying("1", exit_code=0), (OK,), "1"),
    Hostile("36_abort", command("(unreachable)"), (TRAP,)),
    Hostile(
        "37_nothing",
        '(module (memory (export "memory") 1) (func (export "main")))',
        (BAD_CODE,),
        "it exports memory, main",
    ),
    Hostile(
        "37_not_a_function",
        '(module (memory (export "memory") 1) (global (export "_start") i32 (i32.const 1)))',
        (BAD_CODE,),
    ),
    Hostile(
        "37_parameters",
        '(module (memory (export "memory") 1) (func (export "_start") (param i32)))',
        (BAD_CODE,),
        "(i32)",
    ),
    Hostile(
        "37_wrong_run",
        f'(module (memory (export "memory") 1) {ALLOC} (func (export "run") (result i32) (i32.const 0)))',
        (BAD_CODE,),
    ),
    *[
        Hostile(f"38_{name}", pointer_module(f"(i64.const {value})"), (BAD_OUTPUT, OUTPUT_TOO_LARGE))
        for name, value in {
            "outside": packed(0x7FFFFFFF, 10),
            "at_the_end": packed(131071, 2),
            "longest": packed(0, 0xFFFFFFFF),
            "negative": -1,
            "nothing": 0,
            "zeros": packed(0, 16),
        }.items()
    ],
    *[
        Hostile(
            f"38_alloc_{name}",
            pointer_module("(i64.const 0)", rest=f'(func (export "alloc") (param i32) (result i32) {body})'),
            ends,
        )
        for name, body, ends in (
            ("zero", "(i32.const 0)", (BAD_OUTPUT,)),
            ("outside", "(i32.const -16)", (BAD_OUTPUT,)),
            ("last", "(i32.const 131071)", (BAD_OUTPUT,)),
            ("loops", "(loop (br 0)) (i32.const 0)", (TIMEOUT,)),
            ("traps", "(unreachable)", (TRAP,)),
        )
    ],
    *[
        Hostile(f"38_output_{place}", constant(output), (BAD_OUTPUT,))
        for place, output in enumerate(
            (
                b"\xff\xfe",
                b'"\xff"',
                b"1 2",
                b"1,",
                b"NaN",
                b"-Infinity",
                b"{",
                b"'a'",
                b"\0",
                b"{'a':1}",
                b"[1,]",
                b"tru",
            )
        )
    ],
    Hostile("38_deep", constant("[" * 100_000 + "]" * 100_000, memory="8"), (BAD_OUTPUT,), "deep"),
    Hostile(
        "39_environment",
        command(
            """(drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
            (drop (call $args_sizes_get (i32.const 24) (i32.const 28)))
            (if (i64.ne (i64.or (i64.load (i32.const 16)) (i64.load (i32.const 24))) (i64.const 0))
              (then (unreachable)))
            (if (i32.ne (call $fd_prestat_get (i32.const 3) (i32.const 32)) (i32.const 8)) (then (unreachable)))
            (call $write (i32.const 1) (i32.const 1024) (i32.const 1))""",
            imports=("environ_sizes_get", "args_sizes_get", "fd_prestat_get"),
            data='(data (i32.const 16) "garbagegarbagega") (data (i32.const 1024) "1")',
        ),
        (OK,),
        "1",
    ),
    Hostile(
        "39_open",
        command(
            """(if (i32.ne (call $path_open (i32.const 3) (i32.const 0) (i32.const 512) (i32.const 11) (i32.const 0)
                (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 8)) (i32.const 76)) (then (unreachable)))
            (call $write (i32.const 1) (i32.const 1024) (i32.const 1))""",
            imports=("path_open",),
            data='(data (i32.const 512) "/etc/passwd") (data (i32.const 1024) "1")',
        ),
        (OK,),
        "1",
    ),
    Hostile("40_gc", HEADER + section(1, number(1) + b"\x5f\x00"), (BAD_CODE,), "garbage collection"),
    Hostile("40_exception", HEADER + section(13, b"\x01\x00\x00"), (BAD_CODE,), "exceptions"),
]
