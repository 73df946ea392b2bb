"""Messages to whatever run waits for them: for programs that do not know run ids."""

from __future__ import annotations

from datetime import timedelta

from windlass.client.part import Part
from windlass.client.values import Json, new_id, payload, span
from windlass.v1 import event_service_pb2 as wire
from windlass.v1 import event_service_pb2_grpc as stubs


class Messages(Part):
    """Part of `Client`: publishing."""

    @property
    def _events(self) -> stubs.EventServiceAsyncStub:
        return stubs.EventServiceStub(self.connection.channel)

    async def publish(
        self,
        name: str,
        key: str,
        value: Json = None,
        *,
        message_id: str = "",
        ttl: timedelta | float | None = None,
        request_id: str = "",
    ) -> wire.PublishMessageResponse:
        """Sends a message to every wait for this signal whose `correlate` gives this key; the reply names the runs.

        `ttl`: how long it is kept for waits that open later (a number is seconds); not at all unless given.
        `message_id`: a second message with it is refused as long as the first one is kept. Raises WindlassError
        (MESSAGE_DUPLICATE).
        """
        request = wire.PublishMessageRequest(
            namespace=self.namespace,
            name=name,
            correlation_key=key,
            payload=payload(value),
            message_id=message_id,
            ttl=span(ttl),
            request_id=request_id or new_id(),
        )
        return await self.connection.call(self._events.PublishMessage, request)
