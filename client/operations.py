"""The engine itself: workers, queues, namespaces, what it can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from windlass.client.part import Part
from windlass.client.values import instant, new_id, span
from windlass.v1 import admin_service_pb2 as wire
from windlass.v1 import admin_service_pb2_grpc as stubs
from windlass.v1 import queue_service_pb2 as queue_wire
from windlass.v1 import queue_service_pb2_grpc as queue_stubs


class Operations(Part):
    """Part of `Client`: what operators ask."""

    @property
    def _admin(self) -> stubs.AdminServiceAsyncStub:
        return stubs.AdminServiceStub(self.connection.channel)

    @property
    def _queues(self) -> queue_stubs.QueueServiceAsyncStub:
        return queue_stubs.QueueServiceStub(self.connection.channel)

    async def info(self) -> wire.GetSystemInfoResponse:
        """Version, features and limits of the engine that answers."""
        return await self.connection.call(self._admin.GetSystemInfo, wire.GetSystemInfoRequest())

    async def workers(self, *, queue: str = "") -> AsyncIterator[queue_wire.Worker]:
        """Workers with a live session, by worker id."""
        request = queue_wire.ListWorkersRequest(namespace=self.namespace, queue=queue)
        while True:
            reply = await self.connection.call(self._queues.ListWorkers, request)
            for worker in reply.workers:
                yield worker
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def queue(self, name: str = "default") -> queue_wire.DescribeQueueResponse:
        """How a queue stands: what waits, what is held, who could work."""
        request = queue_wire.DescribeQueueRequest(namespace=self.namespace, queue=name)
        return await self.connection.call(self._queues.DescribeQueue, request)

    async def create_namespace(
        self,
        name: str,
        *,
        display_name: str = "",
        description: str = "",
        retention: timedelta | float | None = None,
        virtual_time: bool = False,
    ) -> wire.Namespace:
        """Makes a namespace. `retention`: how long closed runs are kept. Raises WindlassError (NAMESPACE_EXISTS)."""
        namespace = wire.Namespace(
            name=name,
            display_name=display_name,
            description=description,
            retention=span(retention),
            virtual_time=virtual_time,
        )
        request = wire.CreateNamespaceRequest(namespace=namespace, request_id=new_id())
        return (await self.connection.call(self._admin.CreateNamespace, request)).namespace

    async def get_namespace(self, name: str) -> wire.Namespace:
        """A namespace. Raises WindlassError (NAMESPACE_NOT_FOUND)."""
        return (await self.connection.call(self._admin.GetNamespace, wire.GetNamespaceRequest(name=name))).namespace

    async def namespaces(self) -> AsyncIterator[wire.Namespace]:
        """Namespaces, by name."""
        request = wire.ListNamespacesRequest()
        while True:
            reply = await self.connection.call(self._admin.ListNamespaces, request)
            for namespace in reply.namespaces:
                yield namespace
            if not reply.next_page_token:
                return
            request.page_token = reply.next_page_token

    async def advance_time(
        self, by: timedelta | float | None = None, *, to: datetime | None = None
    ) -> wire.AdvanceTimeResponse:
        """Moves the clock of a namespace with virtual time and fires what is due, in order.

        By a span (a number is seconds), to an instant, or with neither to the next timer that is due.
        """
        request = wire.AdvanceTimeRequest(namespace=self.namespace, by=span(by), to=instant(to), request_id=new_id())
        if by is None and to is None:
            request.next_timer = True
        return await self.connection.call(self._admin.AdvanceTime, request)

    async def maintain(self) -> wire.RunMaintenanceResponse:
        """Has the engine that answers do at once what its loops do when it is due, and gives what was done."""
        return await self.connection.call(self._admin.RunMaintenance, wire.RunMaintenanceRequest())
