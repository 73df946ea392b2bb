"""The load: closed loops over the batch stream or over unary calls, and one workflow at a time."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field

import grpc

from benchmarks.workflows import input_of
from windlass.v1 import common_pb2, workflow_service_pb2_grpc
from windlass.v1 import workflow_service_pb2 as pb


@dataclass
class Load:
    """What one measurement found."""

    seconds: float = 0.0
    finished: int = 0
    failed: int = 0
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Workflows per second."""
        return self.finished / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """Latency in ms."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0

    @property
    def median(self) -> float:
        """Median latency in ms."""
        return statistics.median(self.latencies_ms) if self.latencies_ms else 0.0


class Batch:
    """Keeps `in_flight` workflows open over one StreamRuns call, new ones sent in batches as others end."""

    def __init__(self, channel: grpc.aio.Channel, workflow: str, in_flight: int) -> None:
        self._stub = workflow_service_pb2_grpc.WorkflowServiceStub(channel)
        self._workflow, self._in_flight = workflow, in_flight
        payload = common_pb2.Payload(data=input_of(workflow))
        self._request = pb.StartRunRequest(workflow=workflow, input=payload)
        self._tag = 0
        self._began: dict[int, float] = {}

    async def run(self, seconds: float) -> Load:
        """Load for `seconds`; what ended in that time counts."""
        load = Load()
        stream = self._stub.StreamRuns()
        begin = time.perf_counter()
        end = begin + seconds
        await stream.write(self._batch(self._in_flight))
        while self._began:
            message = await stream.read()
            if not isinstance(message, pb.StreamRunsResponse):
                raise ConnectionError(f"the engine closed the stream with {len(self._began)} runs open")
            ended = self._take(message, load)
            if ended and time.perf_counter() < end:
                await stream.write(self._batch(ended))
        load.seconds = time.perf_counter() - begin
        await stream.done_writing()
        return load

    def _batch(self, number: int) -> pb.StreamRunsRequest:
        message = pb.StreamRunsRequest()
        now = time.perf_counter()
        for _ in range(number):
            self._tag += 1
            self._began[self._tag] = now
            message.starts.add(tag=self._tag, wait=True, request=self._request)
        return message

    def _take(self, message: pb.StreamRunsResponse, load: Load) -> int:
        ended = 0
        now = time.perf_counter()
        for outcome in message.outcomes:
            kind = outcome.WhichOneof("outcome")
            if kind == "started":
                continue
            ended += 1
            load.latencies_ms.append((now - self._began.pop(outcome.tag)) * 1000)
            if kind == "closed" and outcome.closed.state == common_pb2.RUN_STATE_COMPLETED:
                load.finished += 1
            else:
                load.failed += 1
        return ended


async def unary(channel: grpc.aio.Channel, workflow: str, in_flight: int, seconds: float) -> Load:
    """`in_flight` callers, each starting a workflow and waiting for its end, again and again."""
    stub = workflow_service_pb2_grpc.WorkflowServiceStub(channel)
    start = pb.StartRunRequest(workflow=workflow, input=common_pb2.Payload(data=input_of(workflow)))
    request = pb.StartAndWaitRunRequest(start=start)
    load = Load()
    begin = time.perf_counter()

    async def caller() -> None:
        while time.perf_counter() - begin < seconds:
            at = time.perf_counter()
            reply = await stub.StartAndWaitRun(request)
            load.latencies_ms.append((time.perf_counter() - at) * 1000)
            if reply.result.state == common_pb2.RUN_STATE_COMPLETED:
                load.finished += 1
            else:
                load.failed += 1

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    load.seconds = time.perf_counter() - begin
    return load
