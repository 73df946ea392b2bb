"""The load: a closed loop that keeps a number of workflows open, by unary calls or over the batch stream.

A loop runs from `started` to the end of its block without a break; windows are cut out of it by changing the record
that takes its results. So no window holds the ramp at the beginning or the drain at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from benchmarks.workflows import input_of
from windlass.v1 import common_pb2, workflow_service_pb2_grpc
from windlass.v1 import workflow_service_pb2 as pb


@dataclass
class Load:
    """What one window found."""

    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    finished: int = 0
    failed: int = 0
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Workflows per second."""
        return self.finished / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """Latency in ms; 0 when nothing ended."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0

    @property
    def median(self) -> float:
        """Median latency in ms; 0 when nothing ended."""
        return statistics.median(self.latencies_ms) if self.latencies_ms else 0.0

    def took(self, began: float, completed: bool) -> None:
        """Record a workflow that ended."""
        self.latencies_ms.append((time.perf_counter() - began) * 1000)
        if completed:
            self.finished += 1
        else:
            self.failed += 1


class Loop:
    """A closed loop under way. Subclasses make the calls."""

    def __init__(self, in_flight: int) -> None:
        self.in_flight = in_flight
        self.load = Load()
        self.going = True
        #: A workflow ended.
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Until `going` is false and everything has ended. Raises ConnectionError when the engine goes away."""
        raise NotImplementedError

    async def window(self, seconds: float) -> Load:
        """A window of `seconds`, in which at least one workflow ends unless nothing ends within ten times that."""
        self.cut()
        self.ended.clear()
        await asyncio.sleep(seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), 9 * seconds)
        return self.cut()

    async def warm(self, seconds: float) -> float:
        """Run until as many workflows have ended as are in flight, but not for ever; how long windows should be.

        That is `seconds`, or three times what a workflow takes: a shorter window would see waves, not a rate.
        """
        ended: list[float] = []
        until = time.perf_counter() + 10 * max(seconds, 1.0)
        while not ended or (len(ended) < self.in_flight and time.perf_counter() < until):
            ended += (await self.window(max(seconds / 3, 0.2))).latencies_ms
            if not ended and time.perf_counter() > until:
                return seconds
        return max(seconds, 3 * statistics.median(ended) / 1000)

    async def stop(self) -> None:
        """Send no more; `run` ends when what is open has ended."""
        self.going = False

    def cut(self) -> Load:
        """End the window under way, begin the next one, and give the ended one."""
        ended, self.load = self.load, Load()
        ended.seconds = self.load.began - ended.began
        return ended

    def took(self, began: float, completed: bool) -> None:
        """Record a workflow that ended."""
        self.load.took(began, completed)
        self.ended.set()


class Runs(Loop):
    """A loop that starts runs of an engine."""

    def __init__(self, channel: grpc.aio.Channel, workflow: str, in_flight: int) -> None:
        super().__init__(in_flight)
        self.stub = workflow_service_pb2_grpc.WorkflowServiceStub(channel)
        payload = common_pb2.Payload(data=input_of(workflow))
        self.request = pb.StartRunRequest(workflow=workflow, input=payload)


class Batch(Runs):
    """One StreamRuns call; new runs are sent in batches as others end."""

    _tag = 0

    async def run(self) -> None:
        began: dict[int, float] = {}
        stream = self.stub.StreamRuns()
        await stream.write(self._batch(self.in_flight, began))
        while began:
            message = await stream.read()
            if not isinstance(message, pb.StreamRunsResponse):
                raise ConnectionError(f"the engine closed the stream with {len(began)} runs open")
            ended = 0
            for outcome in message.outcomes:
                kind = outcome.WhichOneof("outcome")
                if kind == "started":
                    continue
                ended += 1
                completed = kind == "closed" and outcome.closed.state == common_pb2.RUN_STATE_COMPLETED
                self.took(began.pop(outcome.tag), completed)
            if ended and self.going:
                await stream.write(self._batch(ended, began))
        await stream.done_writing()

    def _batch(self, number: int, began: dict[int, float]) -> pb.StreamRunsRequest:
        message = pb.StreamRunsRequest()
        now = time.perf_counter()
        for _ in range(number):
            self._tag += 1
            began[self._tag] = now
            message.starts.add(tag=self._tag, wait=True, request=self.request)
        return message


class Unary(Runs):
    """Callers that each start a workflow and wait for its end, again and again."""

    async def run(self) -> None:
        await asyncio.gather(*(self._caller() for _ in range(self.in_flight)))

    async def _caller(self) -> None:
        request = pb.StartAndWaitRunRequest(start=self.request)
        while self.going:
            began = time.perf_counter()
            reply = await self.stub.StartAndWaitRun(request)
            self.took(began, reply.result.state == common_pb2.RUN_STATE_COMPLETED)


@asynccontextmanager
async def started(loop: Loop) -> AsyncIterator[Loop]:
    """The loop at work; at the end of the block it stops sending and waits for what is open."""
    work = asyncio.create_task(loop.run())
    try:
        yield loop
    finally:
        await loop.stop()
        await asyncio.wait_for(work, 120)
