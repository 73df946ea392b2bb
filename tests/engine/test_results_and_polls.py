"""Results that are a poll, too: the next task comes with the answer to the result before it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engine.documents import one_task
from tests.engine.plain import chain, complete, phase, poll, register, start
from tests.engine.served import Served, refused, serving
from windlass.v1 import workflow_service_pb2 as run_pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        await engine.register(one_task())
        await engine.register(chain(3))
        yield engine


async def test_results_handed_in_again_under_their_number_bring_the_same_tasks(served: Served) -> None:
    session = await register(served)
    task = (await start(served, session, "chain")).task
    (lost,) = (await complete(served, session, task, max_tasks=1, number=1)).tasks
    repeated = await complete(served, session, task, max_tasks=1, number=1)
    assert list(repeated.accepted_task_tokens) == [task.task_token]
    assert [each.task_token for each in repeated.tasks] == [lost.task_token]
    assert not (await complete(served, session, task, max_tasks=1, number=2)).tasks


async def test_after_a_poll_that_emptied_the_queue_the_next_task_comes_with_the_answer(served: Served) -> None:
    session = await register(served)
    await served.start("chain")
    (task,) = await poll(served, session, 20, most=1)
    session_claims = served.engine.claims.done["tasks_claimed"]
    for state in ("s1", "s2"):
        (task,) = (await complete(served, session, task, max_tasks=1)).tasks
        assert task.state == state
    assert served.engine.claims.done["tasks_claimed"] == session_claims == 1  # none of them lay in the queue


async def test_what_lies_queued_comes_with_the_answer_too(served: Served) -> None:
    session = await register(served)
    waiting = [await served.start("task") for _ in range(3)]
    (task,) = await poll(served, session, 20, most=1)
    done = [task.run_id]
    for _ in range(2):
        (task,) = (await complete(served, session, task, max_tasks=1)).tasks
        done.append(task.run_id)
    assert done == waiting


async def test_without_a_poll_nothing_comes_with_the_answer(served: Served) -> None:
    session = await register(served)
    task = (await start(served, session, "chain")).task
    assert not (await complete(served, session, task)).tasks
    assert [each.state for each in await poll(served, session)] == ["s1"]


async def test_a_poll_that_cannot_be_records_no_result(served: Served) -> None:
    session = await register(served)
    started = await start(served, session)
    await refused(complete(served, session, started.task, max_tasks=-1), "INVALID_FIELD")
    await refused(complete(served, "nobody", started.task, max_tasks=1), "SESSION_NOT_FOUND")
    await refused(complete(served, "", started.task, max_tasks=1), "INVALID_FIELD")
    assert await phase(served, started.run.run_id) == "leased"


async def test_cancels_and_the_drain_come_too(served: Served) -> None:
    session = await register(served)
    first, second = await start(served, session), await start(served, session)
    await served.runs.CancelRun(run_pb.CancelRunRequest(run_id=second.run.run_id))
    reply = await complete(served, session, first.task, max_tasks=1)
    assert [cancel.task_token for cancel in reply.cancels] == [second.task.task_token]
    served.engine.dispatch.connected[session].outlet.send_drain()
    assert (await complete(served, session, second.task, max_tasks=1)).drain
