"""What `grpcurl list` and `describe` do: the engine describes itself through the reflection protocol, and says its
health.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.acceptance.programs import Engine, engine

SERVICES = {
    "grpc.health.v1.Health",
    "windlass.v1.AdminService",
    "windlass.v1.DefinitionService",
    "windlass.v1.EventService",
    "windlass.v1.HumanTaskService",
    "windlass.v1.QueueService",
    "windlass.v1.WorkerService",
    "windlass.v1.WorkflowService",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("reflection")) as started:
        yield started


async def ask(
    channel: grpc.aio.Channel, *questions: reflection_pb2.ServerReflectionRequest
) -> list[reflection_pb2.ServerReflectionResponse]:
    async def each() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        for question in questions:
            yield question

    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]  # its stubs know no aio
    return [answer async for answer in stub.ServerReflectionInfo(each())]


async def test_reflection_lists_every_service(running: Engine) -> None:
    async with grpc.aio.insecure_channel(running.address) as channel:
        (answer,) = await ask(channel, reflection_pb2.ServerReflectionRequest(list_services=""))
    assert {service.name for service in answer.list_services_response.service} >= SERVICES


async def test_reflection_describes_enough_to_make_a_call(running: Engine) -> None:
    """The whole way of grpcurl: nothing but the address and a name, then a real call with messages made on the spot."""
    question = reflection_pb2.ServerReflectionRequest(file_containing_symbol="windlass.v1.AdminService")
    async with grpc.aio.insecure_channel(running.address) as channel:
        (answer,) = await ask(channel, question)
        pool = await _pool(channel, list(answer.file_descriptor_response.file_descriptor_proto))
        method = pool.FindServiceByName("windlass.v1.AdminService").methods_by_name["GetSystemInfo"]
        request, reply = (message_factory.GetMessageClass(each) for each in (method.input_type, method.output_type))
        call: Any = channel.unary_unary(
            "/windlass.v1.AdminService/GetSystemInfo",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        info: Any = await call(request())
    assert info.version


async def _pool(channel: grpc.aio.Channel, files: list[bytes]) -> descriptor_pool.DescriptorPool:
    """A pool with these files and, asked for one by one, what they import."""
    known: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    while files:
        file = descriptor_pb2.FileDescriptorProto.FromString(files.pop())
        known[file.name] = file
        for name in set(file.dependency) - set(known):
            (answer,) = await ask(channel, reflection_pb2.ServerReflectionRequest(file_by_filename=name))
            files += answer.file_descriptor_response.file_descriptor_proto
    pool = descriptor_pool.DescriptorPool()

    def add(file: descriptor_pb2.FileDescriptorProto) -> None:
        for name in file.dependency:
            if name in known:
                add(known.pop(name))
        pool.Add(file)

    while known:
        add(known.pop(next(iter(known))))
    return pool


async def test_health_is_serving_as_a_whole_and_by_service(running: Engine) -> None:
    async with grpc.aio.insecure_channel(running.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "windlass.v1.WorkflowService", "windlass.v1.WorkerService"):
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING, service


async def test_health_turns_to_not_serving_on_sigterm_and_the_engine_stops_with_0(tmp_path: Path) -> None:
    started = Engine(tmp_path)
    try:
        async with grpc.aio.insecure_channel(started.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            seen = [(await watch.read()).status]
            started.process.send_signal(signal.SIGTERM)
            seen.append((await watch.read()).status)
    finally:
        code = started.stop()
    assert seen == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    assert code == 0
