"""A worker beside a program that starts runs: a run's first task is done where it was started, in no roundabout way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.engine.documents import one_task
from tests.engine.served import Served, serving, value
from windlass.client import Client, WindlassError
from windlass.engine.connected import UNHEARD_US
from windlass.v1 import worker_service_pb2 as wire
from windlass.v1 import workflow_service_pb2 as run_wire
from windlass.worker.contact import Unreachable
from windlass.worker.driver import Worker
from windlass.worker.hosting import beside
from windlass.worker.settings import WorkerSettings

ENDLESS = {"runtime": "javascript", "code": "while (true);"}


class Postman:
    """Hands the tasks of answers to a worker, unless it loses them."""

    def __init__(self, worker: Worker, *, loses: bool = False) -> None:
        self.worker, self.loses = worker, loses
        self.tasks: list[wire.Task] = []

    def offer(self) -> str:
        return self.worker.offer()

    def take(self, task: wire.Task | None) -> None:
        self.tasks += [task] if task is not None else []
        self.worker.take(None if self.loses else task)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        await engine.register(one_task(task={"runtime": "javascript", "code": "input.n + 1"}))
        yield engine


def settings(address: str, **more: object) -> WorkerSettings:
    return WorkerSettings(engines=(address,), runtimes=("javascript",), slots=1, **more)  # type: ignore[arg-type]


async def phase(served: Served, run_id: str) -> str:
    (work,) = (await served.run(run_id)).open_work
    return str(work.phase)


DEPTH = "let depth = 0; const down = () => { depth++; down() }; try { down() } catch {} depth"
CLOCK = "const began = Date.now(); while (Date.now() < began + 5); true"


async def test_limits_and_grants_of_a_definition_reach_the_code(served: Served) -> None:
    """The clock moves in the one, which else would never end; the stack of the other is small."""
    tight = {"stack": 65_536, "log_bytes": 3, "cpu": "5s"}
    for name, code, limits in (("clock", CLOCK, {"grants": "clock"}), ("tight", DEPTH, tight), ("wide", DEPTH, {})):
        await served.register(one_task(name, task={"runtime": "javascript", "code": code, "limits": limits}))
    async with Client(served.address) as client, beside(settings(served.address)) as worker:
        postman = Postman(worker)
        runs = {name: (await client.start(name, eager=postman)).run_id for name in ("tight", "wide", "clock")}
        done = {name: value((await served.closed(run)).context["done"]) for name, run in runs.items()}
    assert done["clock"] is True
    assert done["tight"] < done["wide"] / 2
    told = postman.tasks[0].limits
    assert (told.stack_bytes, told.log_bytes, told.cpu.ToMicroseconds()) == (65_536, 3, 5_000_000)


async def test_a_program_does_the_first_task_of_what_it_starts(served: Served) -> None:
    async with Client(served.address) as client, beside(settings(served.address)) as worker:
        postman = Postman(worker)
        started = await client.start("task", {"n": 41}, eager=postman)
        assert value((await served.closed(started.run_id)).context["done"]) == 42
        assert [task.run_id for task in postman.tasks] == [started.run_id]
    assert not served.engine.dispatch.connected  # it has ended its session


async def test_an_answer_that_never_arrives_costs_some_time_and_nothing_else(served: Served) -> None:
    async with Client(served.address) as client, beside(settings(served.address)) as worker:
        postman = Postman(worker, loses=True)
        started = await client.start("task", {"n": 1}, eager=postman)
        assert postman.tasks
        served.advance(UNHEARD_US / 1e6)
        assert value((await served.closed(started.run_id)).context["done"]) == 2


async def credits_are(served: Served, count: int) -> None:
    """Wait until the engine knows that the only worker would take so many tasks on its stream."""
    (session,) = served.engine.dispatch.connected.values()
    while session.credits != count:  # noqa: ASYNC110 - nobody is told
        await asyncio.sleep(0.001)


async def test_a_worker_without_room_leaves_the_task_to_others(served: Served) -> None:
    await served.register(one_task("long", task=ENDLESS))
    async with Client(served.address) as client, beside(settings(served.address, prefetch=1, drain_s=0.0)) as worker:
        await credits_are(served, 1)
        await client.start("long", eager=worker)
        await credits_are(served, 0)  # its credit was on the stream already: it is taken back
        assert not worker.offer()
        postman = Postman(worker)
        waiting = await client.start("task", {"n": 1}, eager=postman)
        assert not postman.tasks
        assert await phase(served, waiting.run_id) == "queued"


async def test_starts_at_the_same_time_bring_no_more_than_there_is_room_for(served: Served) -> None:
    """An answer without a task, and a start that fails, give the room back."""
    await served.register(one_task("long", task=ENDLESS))
    async with Client(served.address) as client, beside(settings(served.address, prefetch=1, drain_s=0.0)) as worker:
        postman = Postman(worker)
        await client.start("long", eager=postman, paused=True)
        with pytest.raises(WindlassError):
            await client.start("nowhere", eager=postman)
        assert not postman.tasks
        await asyncio.gather(*(client.start("long", eager=postman) for _ in range(4)))
        assert len(postman.tasks) == 1


async def test_a_block_that_is_cancelled_gives_back_what_runs(served: Served) -> None:
    await served.register(one_task("long", task=ENDLESS))
    begun: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def block() -> None:
        async with Client(served.address) as client, beside(settings(served.address)) as worker:
            begun.set_result((await client.start("long", eager=worker)).run_id)
            await asyncio.Event().wait()

    running = asyncio.create_task(block())
    run_id = await begun
    assert await phase(served, run_id) == "leased"
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not served.engine.dispatch.connected
    assert await phase(served, run_id) == "queued"


async def test_without_an_engine_the_block_does_not_begin() -> None:
    with pytest.raises(Unreachable):
        async with beside(settings("127.0.0.1:1", first_contact_s=0.01)):
            raise AssertionError("it began")


async def test_a_task_whose_answer_came_after_the_engine_had_taken_it_back_is_stopped(served: Served) -> None:
    """The connection broke meanwhile, and the worker came back without having named it."""
    await served.register(one_task(task=ENDLESS))
    async with Client(served.address) as client, beside(settings(served.address, drain_s=0)) as worker:
        offered = worker.offer()
        request = run_wire.StartRunRequest(workflow="task", eager_session_id=offered)
        started = await served.runs.StartRun(request)
        worker.contact.clear()
        worker._leave()
        await worker.contact.wait()
        worker.take(started.task)
        while not worker.execution.tally.dropped:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        await client.terminate(started.run.run_id)
