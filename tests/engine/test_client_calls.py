"""Random calls of clients, at one engine and at two: each does what the dumbest model says, and leaves the store whole.

A seed fixes the calls.
"""

from __future__ import annotations

import contextlib
import os
from random import Random

import pytest

from tests.engine.client_calls import DOCUMENTS, NAMESPACES, Client
from tests.engine.served import serving
from windlass.engine.checking import check_store
from windlass.storage.memory import MemoryWorld
from windlass.v1 import admin_service_pb2 as pb

#: Which seeds; for more of them than in every run of the tests, WINDLASS_CLIENT_CALLS=first:count.
FIRST, COUNT = (int(part) for part in os.environ.get("WINDLASS_CLIENT_CALLS", "0:6").split(":"))
CALLS = 60


@pytest.mark.parametrize("seed", range(FIRST, FIRST + COUNT))
async def test_every_call_does_what_the_model_says(seed: int) -> None:
    rnd, world = Random(seed), MemoryWorld()
    async with contextlib.AsyncExitStack() as stack:
        stores = [world.open(), world.open()] if rnd.random() < 0.5 else [None]
        engines = [await stack.enter_async_context(serving(store)) for store in stores]
        await engines[0].admin.CreateNamespace(pb.CreateNamespaceRequest(namespace=pb.Namespace(name="other")))
        for ns in NAMESPACES:
            for document in DOCUMENTS:
                await engines[0].register(document, ns)
        clients = [Client(engines, ns, rnd) for ns in NAMESPACES]
        for number in range(CALLS):
            await rnd.choice(clients).call()
            if number % 10 == 9:
                assert await check_store(engines[0].engine.storage) == []
