"""What the sandbox refuses is written down with the attempt, through a real jail, and never grows."""

from __future__ import annotations

from tests.runtimes.guests import PATIENT, command, constant, module, script
from tests.runtimes.test_jail import probe, slots
from windlass.engine.core.limits import RESUME_BYTES_MAX
from windlass.engine.service import convert
from windlass.runtimes import denials
from windlass.runtimes.denials import Denials
from windlass.runtimes.jail_pool import SlotPool
from windlass.runtimes.port import CHECKPOINT_BYTES_MAX, Denial

_OPEN = """(drop (call $path_open (i32.const 3) (i32.const 0) (i32.const {at}) (i32.const {length}) (i32.const 0)
    (i64.const -1) (i64.const -1) (i32.const 0) (i32.const 8)))"""
_ANSWER = '(data (i32.const 1024) "1")'
_SAY = "(call $write (i32.const 1) (i32.const 1024) (i32.const 1))"
#: Opens paths of one letter or more, each longer than the last, for as many as there are.
_MANY = """(local $n i32) (loop $again
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 2048)
      (i32.rem_u (local.get $n) (i32.const 5000)) (i32.const 0) (i64.const -1) (i64.const -1) (i32.const 0)
      (i32.const 8)))
    (br_if $again (i32.lt_u (local.get $n) (i32.const 20000))))"""


async def test_refused_calls_are_counted_with_their_first_argument(pool: SlotPool) -> None:
    code = command(
        _OPEN.format(at=512, length=11) * 3
        + """(drop (call $path_unlink_file (i32.const 3) (i32.const 600) (i32.const 4)))
             (drop (call $path_symlink (i32.const 512) (i32.const 11) (i32.const 3) (i32.const 600) (i32.const 4)))
             (drop (call $sock_send (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 8)))
             (drop (call $poll_oneoff (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 8)))
             (drop (call $proc_raise (i32.const 9)))"""
        + _SAY,
        imports=("path_open", "path_unlink_file", "path_symlink", "sock_send", "poll_oneoff", "proc_raise"),
        data=f'{_ANSWER} (data (i32.const 512) "/etc/passwd") (data (i32.const 600) "/a\\ff\\0a")',
    )
    completion = await pool.run(module(code, limits=PATIENT))
    assert (completion.failure, completion.output) == (None, b"1")
    assert completion.denials == (
        Denial("file", "path_open", "/etc/passwd", 3),
        Denial("file", "path_unlink_file", "/a�\n"),
        Denial("file", "path_symlink", "/etc/passwd"),
        Denial("network", "sock_send", "5"),
        Denial("sleep", "poll_oneoff"),
        Denial("process", "proc_raise", "9"),
    )


async def test_failed_attempt_keeps_its_denials(pool: SlotPool) -> None:
    code = command(
        _OPEN.format(at=512, length=4) + "(unreachable)", imports=("path_open",), data='(data (i32.const 512) "/etc")'
    )
    completion = await pool.run(module(code, limits=PATIENT))
    assert completion.failure is not None
    assert completion.denials == (Denial("file", "path_open", "/etc"),)


async def test_path_out_of_bounds_is_refused_like_any(pool: SlotPool) -> None:
    code = command(_OPEN.format(at=-16, length=-1) + _SAY, imports=("path_open",), data=_ANSWER)
    completion = await pool.run(module(code, limits=PATIENT))
    assert completion.denials == (Denial("file", "path_open"),)


async def test_code_that_asks_for_nothing_has_no_account(pool: SlotPool) -> None:
    for activation in (module(constant("1"), limits=PATIENT), script("1", limits=PATIENT)):
        assert (await pool.run(activation)).denials == ()


async def test_thousands_of_paths_are_cut_and_still_counted(pool: SlotPool) -> None:
    code = command(_MANY + _SAY, imports=("path_open",), data=_ANSWER)
    kept = (await pool.run(module(code, limits=PATIENT))).denials
    assert len(kept) == denials.ENTRIES_MAX + 1
    assert sum(one.count for one in kept) == 20_000
    assert kept[-1].argument == ""
    assert max(len(one.argument) for one in kept) <= denials.ARGUMENT_CHARACTERS


async def test_child_that_was_taken_over_sends_many_and_is_cut() -> None:
    async with slots() as pool:
        completion = await pool.run(probe("many_denials"))
        assert (completion.failure, completion.output) == (None, b"1")
        assert len(completion.denials) == denials.TOTAL_MAX
        first = completion.denials[0]
        assert (first.kind, len(first.call), len(first.argument), first.count) == ("other", 64, 200, 1)


def test_an_account_of_many_calls_stays_small() -> None:
    account = Denials()
    for number in range(10_000):
        account.add("address", f"call-{number}", "x" * number)
    assert len(account.all()) <= denials.TOTAL_MAX
    assert sum(one.count for one in account.all()) == 10_000


def test_the_engine_keeps_as_much_as_a_runtime_tells() -> None:
    """The two may not know each other, so the figures stand twice."""
    assert denials.KINDS == convert.DENIAL_KINDS
    assert CHECKPOINT_BYTES_MAX == RESUME_BYTES_MAX
    told = denials.TOTAL_MAX, denials.CALL_CHARACTERS, denials.ARGUMENT_CHARACTERS, denials.COUNT_MAX
    kept = (
        convert.DENIALS,
        convert.DENIAL_CALL_CHARACTERS,
        convert.DENIAL_ARGUMENT_CHARACTERS,
        convert.FIGURE_MAX,
    )
    assert told == kept
