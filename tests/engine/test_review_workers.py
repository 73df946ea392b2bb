"""What one worker may claim to serve has a bound."""

from __future__ import annotations

import pytest

from tests.engine.cluster import running_engine
from windlass.engine.errors import EngineError
from windlass.engine.link import Link
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb


async def test_a_worker_cannot_serve_millions_of_pairs_of_queue_and_runtime() -> None:
    async with running_engine() as engine:
        request = pb.RegisterWorkerRequest(worker_id="w", queues=[f"q{number}" for number in range(1000)])
        for number in range(1000):
            request.runtimes.add(name=f"r{number}")
        with pytest.raises(EngineError, match="at most"):
            await Link(engine.workers).register(request)
        assert engine.dispatch.rings() == []


BAD = [
    (pb.RegisterWorkerRequest(slots=-1), "slots"),
    (pb.RegisterWorkerRequest(handlers=[common_pb2.StepType(runtime="python")]), "handlers is missing"),
    (pb.RegisterWorkerRequest(handlers=[common_pb2.StepType(handler="h", config_schema=b"{")]), "config schema of 'h'"),
    (
        pb.RegisterWorkerRequest(host="h" * 200_000),
        r"2\d+ bytes without its schemas, 90000 are allowed",
    ),
]


@pytest.mark.parametrize(("request_", "message"), BAD, ids=[message[:8] for _, message in BAD])
async def test_a_registration_that_nobody_could_use_is_refused(
    request_: pb.RegisterWorkerRequest, message: str
) -> None:
    async with running_engine() as engine:
        with pytest.raises(EngineError, match=message):
            await Link(engine.workers).register(request_)
