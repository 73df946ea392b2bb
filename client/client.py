"""The client: one object for everything that can be asked of an engine."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

import grpc

from windlass.client.connection import CALL_TIMEOUT, DEFAULT_TARGET, RETRY_FOR, Connection
from windlass.client.definitions import DefinitionCalls
from windlass.client.messages import Messages
from windlass.client.operations import Operations
from windlass.client.people import People
from windlass.client.steering import Steering
from windlass.client.streaming import Streaming
from windlass.client.watching import Watching


class Client(Steering, Streaming, Watching, Messages, DefinitionCalls, People, Operations):
    """Calls an engine.

    ```python
    async with Client("127.0.0.1:7711") as client:
        await client.register("order.yaml")
        result = await client.start_and_wait("process-order", {"order": {"id": "A-17"}})
        print(result.value())
    ```

    Every call raises `WindlassError` when the engine refuses it, or stays unreachable or without room for `retry_for`
    seconds. Calls that change something carry a request_id made once per call, so repeating them does no harm.
    """

    def __init__(
        self,
        target: str = "",
        *,
        namespace: str = "default",
        credentials: grpc.ChannelCredentials | None = None,
        retry_for: float = RETRY_FOR,
        call_timeout: float = CALL_TIMEOUT,
    ) -> None:
        """`target`: HOST:PORT; empty = WINDLASS_ENGINE, else 127.0.0.1:7711. Times are in seconds. Connects lazily."""
        target = target or os.environ.get("WINDLASS_ENGINE", "") or DEFAULT_TARGET
        super().__init__(
            Connection(target, credentials=credentials, retry_for=retry_for, call_timeout=call_timeout), namespace
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        await self.connection.close()

    def in_namespace(self, namespace: str) -> Client:
        """The same connection, for calls to another namespace."""
        other = Client.__new__(Client)
        other.connection, other.namespace = self.connection, namespace
        return other


async def connect(target: str = "", **options: object) -> Client:
    """A client whose engine has answered. Raises WindlassError if none does within `retry_for` seconds."""
    client = Client(target, **options)  # type: ignore[arg-type]
    try:
        await client.info()
    except BaseException:
        await client.close()
        raise
    return client
