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
from windlass.v1.common_pb2 import RetryPolicy


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
        open_runs: int = 0,
        queued_tasks: int = 0,
        starts_per_second: float = 0.0,
        max_attempts: int | None = None,
    ) -> wire.Namespace:
        """Makes a namespace. `retention`: how long closed runs are kept. Raises WindlassError (NAMESPACE_EXISTS).

        Limits beyond which starts are refused (0 = none): `open_runs` at a time, `queued_tasks` of one queue,
        `starts_per_second`. `max_attempts` of tasks for which neither step nor definition say how often they are tried.
        """
        namespace = wire.Namespace(
            name=name,
            display_name=display_name,
            description=description,
            retention=span(retention),
            virtual_time=virtual_time,
            limits=wire.NamespaceLimits(
                open_runs=open_runs, queued_tasks=queued_tasks, starts_per_second=starts_per_second
            ),
            default_retry=None if max_attempts is None else RetryPolicy(max_attempts=max_attempts),
        )
        request = wire.CreateNamespaceRequest(namespace=namespace, request_id=new_id())
        return (await self.connection.call(self._admin.CreateNamespace, request)).namespace

    async def update_namespace(self, namespace: wire.Namespace, *fields: str) -> wire.Namespace:
        """Changes these fields of a namespace (display_name, description, retention, limits, default_retry) to what the
        message says. With its `etag` set only if nobody changed it since. Raises WindlassError (NAMESPACE_NOT_FOUND,
        ETAG_MISMATCH, INVALID_FIELD).
        """
        request = wire.UpdateNamespaceRequest(namespace=namespace, request_id=new_id())
        request.update_mask.paths.extend(fields)
        return (await self.connection.call(self._admin.UpdateNamespace, request)).namespace

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
        if by is not None and to is not None:
            raise ValueError("advance by a span or to an instant: give one of the two")
        request = wire.AdvanceTimeRequest(namespace=self.namespace, by=span(by), to=instant(to), request_id=new_id())
        if by is None and to is None:
            request.next_timer = True
        return await self.connection.call(self._admin.AdvanceTime, request)

    async def maintain(self) -> wire.RunMaintenanceResponse:
        """Has the engine that answers do at once what its loops do when it is due, and gives what was done."""
        return await self.connection.call(self._admin.RunMaintenance, wire.RunMaintenanceRequest())
