"""Counting much: no snapshot is asked for more than a cluster can give of one moment."""

from __future__ import annotations

import pytest

from tests.engine.cluster import register, running_engine, start
from tests.engine.documents import instant, one_task, waiting
from windlass.engine import survey
from windlass.engine.queues import depths
from windlass.storage.memory import MemoryWorld
from windlass.storage.port import Storage, Transaction


class Looks:
    """A store's snapshots, each with the rows that were read from it."""

    def __init__(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        read = storage.read

        async def counted(body):  # type: ignore[no-untyped-def]
            self.rows.append(0)
            return await read(lambda tr: body(self._counting(tr)))

        monkeypatch.setattr(storage, "read", counted)

    def _counting(self, tr: Transaction) -> Transaction:
        get_range = tr.get_range

        async def counted(*arguments, **more):  # type: ignore[no-untyped-def]
            rows = await get_range(*arguments, **more)
            self.rows[-1] += len(rows)
            return rows

        tr.get_range = counted  # type: ignore[method-assign]
        return tr


async def test_runs_and_tasks_are_counted_in_several_looks_where_one_would_take_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(survey, "PAGE", 2)
    monkeypatch.setattr(survey, "LOOK_ROWS", 4)
    async with running_engine(MemoryWorld().open()) as engine:
        for document in (instant(), waiting(), one_task()):
            await register(engine, document)
        began = engine.clock.now_us()
        for workflow, number in (("instant", 5), ("wait", 4), ("task", 7)):
            for _ in range(number):
                await start(engine, workflow, {})
        looks = Looks(engine.storage, monkeypatch)
        counts = await survey.count_runs(engine.storage, "default", ())
        (depth,) = await depths(engine.storage, "default")
        one_by_one = await survey.count_runs(engine.storage, "default", ["wait"])
    assert {state: number for state, number in counts.items() if number} == {"completed": 5, "waiting": 4, "running": 7}
    assert (depth.queue, depth.queued) == ("default", 7)
    assert began < depth.oldest_us <= engine.clock.now_us()
    assert sum(one_by_one.values()) == 4
    assert max(looks.rows) < 4 + 2
    assert len(looks.rows) > 6
