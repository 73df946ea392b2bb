"""What one worker may claim to serve has a bound."""

from __future__ import annotations

import pytest

from tests.engine.cluster import running_engine
from windlass.engine.errors import EngineError
from windlass.engine.link import Link
from windlass.v1 import worker_service_pb2 as pb


async def test_a_worker_cannot_serve_millions_of_pairs_of_queue_and_runtime() -> None:
    async with running_engine() as engine:
        request = pb.RegisterWorkerRequest(worker_id="w", queues=[f"q{number}" for number in range(1000)])
        for number in range(1000):
            request.runtimes.add(name=f"r{number}")
        with pytest.raises(EngineError, match="at most"):
            await Link(engine.workers).register(request)
        assert engine.dispatch.rings() == []
