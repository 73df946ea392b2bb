"""Hostile JavaScript through the real jail: each program ends as it must, and a clean task succeeds right after it."""

from __future__ import annotations

import pytest

from tests.runtimes.guests import PATIENT, SHORT, script
from tests.runtimes.hostile_javascript import INVENTED, LISTED, OK, Hostile
from windlass.runtimes.failures import TIMEOUT
from windlass.runtimes.jail_pool import SlotPool


@pytest.mark.parametrize("program", [pytest.param(program, id=program.name) for program in LISTED + INVENTED])
async def test_hostile_program_ends_as_it_must(pool: SlotPool, program: Hostile) -> None:
    limits = SHORT if TIMEOUT in program.ends else PATIENT
    completion = await pool.run(script(program.source, limits=limits))
    end = completion.failure.code if completion.failure else OK
    assert end in program.ends, completion
    if program.output and completion.failure is None:
        assert completion.output.decode() == program.output
    if completion.failure is not None:
        assert completion.failure.message
    clean = await pool.run(script("[1, 2].map(x => x + input.a)", input=b'{"a": 1}', limits=PATIENT))
    assert clean.failure is None
    assert clean.output == b"[2,3]"


def test_at_least_as_many_were_invented_as_listed() -> None:
    listed = {program.name.split("_")[0] for program in LISTED}
    assert len(INVENTED) >= len(listed)
    assert len({program.name for program in LISTED + INVENTED}) == len(LISTED + INVENTED)
