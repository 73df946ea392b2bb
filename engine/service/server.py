"""The gRPC server of an engine: all services, health, reflection."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from windlass.engine.engine import Engine
from windlass.engine.service.admin import AdminServicer
from windlass.engine.service.definitions import DefinitionServicer
from windlass.engine.service.operators import EventServicer, QueueServicer
from windlass.engine.service.people import HumanTaskServicer
from windlass.engine.service.reception import Reception
from windlass.engine.service.worker import WorkerServicer
from windlass.engine.service.workflow import WorkflowServicer
from windlass.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    definition_service_pb2,
    definition_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    human_task_service_pb2,
    human_task_service_pb2_grpc,
    queue_service_pb2,
    queue_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)

log = logging.getLogger(__name__)

#: Largest message taken, in bytes (gRPC's default, stated). What the engine sends stays below it too, unless one single
#: thing in it is larger, such as a run's output: then the larger limit holds, which our clients and workers also have.
MESSAGE_BYTES_MAX: Final = 4 << 20
SENT_BYTES_MAX: Final = 64 << 20
#: Open calls get this long to be answered when the server stops, in seconds.
GRACE_SECONDS: Final = 5.0

SERVICES: Final = (
    workflow_service_pb2.DESCRIPTOR.services_by_name["WorkflowService"].full_name,
    definition_service_pb2.DESCRIPTOR.services_by_name["DefinitionService"].full_name,
    worker_service_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name,
    human_task_service_pb2.DESCRIPTOR.services_by_name["HumanTaskService"].full_name,
    queue_service_pb2.DESCRIPTOR.services_by_name["QueueService"].full_name,
    event_service_pb2.DESCRIPTOR.services_by_name["EventService"].full_name,
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name,
)


class PortInUse(Exception):
    """The address cannot be listened on."""


def _try_address(address: str) -> None:
    """Raises OSError if HOST:PORT cannot be listened on now."""
    host, _, port = address.rpartition(":")
    for family, kind, protocol, _, where in socket.getaddrinfo(
        host.strip("[]") or None, int(port), type=socket.SOCK_STREAM
    ):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)


class Server:
    """An engine's gRPC server on one address."""

    def __init__(self, engine: Engine, address: str) -> None:
        self.engine, self.address = engine, address
        options = [
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", SENT_BYTES_MAX),
            ("grpc.so_reuseport", 0),  # a second engine on the same port must fail, not share it
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ]
        self._server = grpc.aio.server(options=options)
        self._health = health.aio.HealthServicer()
        self.port = 0

    async def start(self) -> None:
        """Listen and serve. Raises PortInUse."""
        engine = self.engine
        server: Any = Reception(self._server)  # the generated code wants a server, and only adds to it
        workflow_service_pb2_grpc.add_WorkflowServiceServicer_to_server(WorkflowServicer(engine), server)
        definition_service_pb2_grpc.add_DefinitionServiceServicer_to_server(DefinitionServicer(engine), server)
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(
            WorkerServicer(engine.workers, engine.modules), server
        )
        human_task_service_pb2_grpc.add_HumanTaskServiceServicer_to_server(HumanTaskServicer(engine), server)
        queue_service_pb2_grpc.add_QueueServiceServicer_to_server(QueueServicer(engine), server)
        event_service_pb2_grpc.add_EventServiceServicer_to_server(EventServicer(engine), server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(AdminServicer(engine), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        try:
            _try_address(self.address)  # gRPC would say it too, but on stderr, in words for its own authors
            self.port = self._server.add_insecure_port(self.address)
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is refused"
            taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            guess = ": is another engine running there?" if taken else "."
            raise PortInUse(
                f"cannot listen on {self.address} ({reason.lower()}){guess} "
                "Choose another address with --listen HOST:PORT"
            ) from error
        await self._server.start()
        await self._say(health_pb2.HealthCheckResponse.SERVING)

    @property
    def bound(self) -> str:
        """HOST:PORT it listens on; for port 0 the one that the system chose."""
        return f"{self.address.rpartition(':')[0]}:{self.port}"

    async def stop(self) -> None:
        """Gracefully: NOT_SERVING, workers drained, open calls answered, then closed; in bounded time, store or not."""
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        self.engine.drain()
        await asyncio.gather(*(link.settle_within(GRACE_SECONDS) for link in list(self.engine.workers.links)))
        await self._server.stop(GRACE_SECONDS)

    async def _say(self, status: int) -> None:
        await asyncio.gather(*(self._health.set(name, status) for name in ("", *SERVICES)))
