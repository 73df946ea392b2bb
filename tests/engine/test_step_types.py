"""What workers say of their handlers: stored with their sessions, listed, and gone with them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engine.served import Served, refused, serving
from windlass.engine.checking import check_store
from windlass.v1 import definition_service_pb2 as pb
from windlass.v1 import worker_service_pb2 as worker_pb


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as engine:
        yield engine


async def listed(served: Served) -> list[tuple[str, int]]:
    found = await served.definitions.ListStepTypes(pb.ListStepTypesRequest(page_size=500))
    return [(each.handler, each.workers) for each in found.step_types]


def offering(handlers: dict[str, bytes], session: str = "") -> worker_pb.RegisterWorkerRequest:
    """A registration with these handlers and the schemas of their input."""
    request = worker_pb.RegisterWorkerRequest(worker_id="w", slots=1, resume_session_id=session)
    request.runtimes.add(name="javascript")
    for name, schema in handlers.items():
        request.handlers.add(handler=name, input_schema=schema)
    return request


async def test_step_types_are_what_live_workers_offer(served: Served) -> None:
    worker = await served.worker(lambda task: 1)
    assert await listed(served) == [("echo", 1)]
    other = await served.worker(lambda task: 1, name="w2")
    assert await listed(served) == [("echo", 2)]
    await worker.vanish()
    await other.vanish()
    served.advance(2 * 1000 * 86_400)
    await served.engine.sessions.turn()
    assert not await listed(served)
    assert not await check_store(served.engine.storage)


async def test_a_worker_may_offer_hundreds_of_handlers_with_their_schemas(served: Served) -> None:
    schema = b'"%s"' % (b"x" * 2_000)
    names = [f"h{number:03}" for number in range(400)]
    await served.workers.RegisterWorker(offering(dict.fromkeys(names, schema)))
    found = (await served.definitions.ListStepTypes(pb.ListStepTypesRequest(page_size=500))).step_types
    assert [each.handler for each in found] == names
    assert {each.input_schema for each in found} == {schema}


async def test_a_worker_that_comes_back_offers_what_it_says_then(served: Served) -> None:
    session = (await served.workers.RegisterWorker(offering({"a": b"{}", "b": b"{}"}))).session_id
    again = await served.workers.RegisterWorker(offering({"b": b"{}", "c": b"{}"}, session))
    assert (again.resumed, again.session_id) == (True, session)
    assert await listed(served) == [("b", 1), ("c", 1)]


@pytest.mark.parametrize(
    ("handlers", "bytes_each", "told"), [(1, 90_000, "the handler 'h0' has 90"), (12, 85_000, "the handlers have 1020")]
)
async def test_what_is_too_large_to_be_offered_is_told_so(
    served: Served, handlers: int, bytes_each: int, told: str
) -> None:
    schema = b'"%s"' % (b"x" * (bytes_each - 2))
    request = offering({f"h{number}": schema for number in range(handlers)})
    error = await refused(served.workers.RegisterWorker(request), "PAYLOAD_TOO_LARGE")
    assert error.message.startswith(told)
