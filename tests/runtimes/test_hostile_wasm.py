"""Hostile modules through the real jail: each ends as it must, and a clean task succeeds right after it."""

from __future__ import annotations

import pytest

from tests.runtimes.guests import ECHO, PATIENT, SHORT, module
from tests.runtimes.hostile_module import OK, Hostile
from tests.runtimes.hostile_wasm import LISTED
from tests.runtimes.hostile_wasm_invented import INVENTED
from windlass.runtimes.failures import TIMEOUT
from windlass.runtimes.jail_pool import SlotPool


@pytest.mark.parametrize("program", [pytest.param(program, id=program.name) for program in LISTED + INVENTED])
async def test_hostile_module_ends_as_it_must(pool: SlotPool, program: Hostile) -> None:
    limits = SHORT if TIMEOUT in program.ends else PATIENT
    completion = await pool.run(module(program.code, limits=limits))
    end = completion.failure.code if completion.failure else OK
    assert end in program.ends, completion
    if completion.failure is None:
        assert completion.output.decode() == program.says
    else:
        assert completion.failure.message
        assert len(completion.failure.stack) < 10_000
        assert program.says in completion.failure.message or OK in program.ends
    clean = await pool.run(module(ECHO, input=b'{"a": 1}', limits=PATIENT))
    assert clean.failure is None
    assert clean.output == b'{"a": 1}'


@pytest.mark.parametrize(
    "program",
    [pytest.param(program, id=program.name) for program in LISTED + INVENTED if program.ends == ("BAD_CODE",)],
)
async def test_bad_module_is_refused_when_it_is_uploaded(pool: SlotPool, program: Hostile) -> None:
    code = module(program.code).code
    if not code:
        return  # nothing to upload
    problems = await pool.check("wasm", code)
    assert problems
    assert program.says in problems[0].message


def test_at_least_as_many_were_invented_as_listed() -> None:
    assert len(INVENTED) >= len({program.name.split("_")[0] for program in LISTED})
    assert len({program.name for program in LISTED + INVENTED}) == len(LISTED + INVENTED)
