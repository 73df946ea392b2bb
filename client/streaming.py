"""The fast path of producers: thousands of starts over one stream.

Starts go up in batches and outcomes come down in any order, matched by tag. A start counts as done when its last
outcome is here: the refusal, or `started`, or with `wait` the run's end. When the stream breaks, everything that is
not done goes up again over a new one; its request_id, made once, keeps the engine from starting anything twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass

import grpc

from windlass.client.connection import Patience
from windlass.client.errors import WindlassError, error_of_call, error_of_status, stream_ended
from windlass.client.runs import RunCalls
from windlass.client.values import RunResult, Started, result_of
from windlass.v1 import workflow_service_pb2 as wire

BATCH_MAX = 500  #: starts in one message; the engine takes at most 1000
OPEN_MAX = 5000  #: starts without their last outcome; bounds the memory of both sides


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one start. With `wait` a start that was accepted gives two: `started`, later `result`."""

    tag: int  #: place of the start in what was given to `stream`, from 0
    started: Started | None = None
    error: WindlassError | None = None
    result: RunResult | None = None


class Streaming(RunCalls):
    """Part of `Client`: producing at speed."""

    async def stream(
        self,
        starts: Iterable[wire.StartRunRequest] | AsyncIterable[wire.StartRunRequest],
        *,
        wait: bool = False,
        open_max: int = OPEN_MAX,
    ) -> AsyncIterator[Outcome]:
        """Starts every run of `starts` (made by `start_request`) and yields outcomes as they come, in any order.

        With `wait` also each run's end. `open_max`: how many are up at a time. Raises WindlassError when the engine
        stays unreachable; what it had accepted goes on.
        """
        if open_max < 1:
            raise ValueError(f"open_max is {open_max}; it must be 1 or more")
        producer = _Producer(wait, open_max)
        patience = Patience(self.connection.backoff, self.connection.retry_for)
        feeding = asyncio.create_task(producer.feed(starts))
        try:
            while not producer.done:
                call = self._workflows.StreamRuns(producer.batches())
                try:
                    async for message in call:
                        patience.restart()
                        for outcome in producer.take(message):
                            yield outcome
                    if not producer.done:
                        await patience.after(stream_ended())
                except grpc.aio.AioRpcError as error:
                    await patience.after(error_of_call(error))
                finally:
                    call.cancel()
                    producer.broken()
            await feeding
        finally:
            feeding.cancel()


class _Producer:
    """The book of one `stream` call: what is to go up, what is up, what is done."""

    def __init__(self, wait: bool, open_max: int) -> None:
        self._wait, self._open_max = wait, open_max
        self._open: dict[int, wire.StreamedStart] = {}
        self._ready: list[wire.StreamedStart] = []  #: not sent on the present stream
        self._known: set[int] = set()  #: tags whose `started` the caller has
        self._moved = asyncio.Event()
        self._fed = False
        self._streams = 0  #: how many have broken

    @property
    def done(self) -> bool:
        return self._fed and not self._open

    async def feed(self, starts: Iterable[wire.StartRunRequest] | AsyncIterable[wire.StartRunRequest]) -> None:
        """Takes starts from the caller as fast as outcomes come back."""
        try:
            async with aclosing(_each(starts)) as source:
                tag = 0
                async for request in source:
                    while len(self._open) >= self._open_max:
                        await self._wait_for_move()
                    start = wire.StreamedStart(tag=tag, request=request, wait=self._wait)
                    self._open[tag] = start
                    self._ready.append(start)
                    self._moved.set()
                    tag += 1
        finally:  # also when the caller's own iterable fails: what it gave is finished first, then its error is raised
            self._fed = True
            self._moved.set()

    async def batches(self) -> AsyncIterator[wire.StreamRunsRequest]:
        """What goes up; ends (half-closes) when everything is up and no more comes, or another stream has taken over:
        gRPC goes on asking for the messages of a call that has failed, and those would go nowhere.
        """
        stream = self._streams
        while stream == self._streams:
            if self._ready:
                batch, self._ready = self._ready[:BATCH_MAX], self._ready[BATCH_MAX:]
                yield wire.StreamRunsRequest(starts=batch)
            elif self._fed:
                return
            else:
                await self._wait_for_move()

    def take(self, message: wire.StreamRunsResponse) -> list[Outcome]:
        """Outcomes that are news to the caller."""
        news = [made for made in map(self._outcome, message.outcomes) if made is not None]
        self._moved.set()
        return news

    def broken(self) -> None:
        """The stream is gone: what is not done goes up again."""
        self._streams += 1
        self._ready = list(self._open.values())
        self._moved.set()

    def _outcome(self, wired: wire.StreamedOutcome) -> Outcome | None:
        tag = wired.tag
        if tag not in self._open:
            return None
        if wired.HasField("error"):
            del self._open[tag]
            return Outcome(tag, error=error_of_status(wired.error))
        if wired.HasField("closed"):
            del self._open[tag]
            return Outcome(tag, result=result_of(wired.closed))
        if not self._wait:
            del self._open[tag]
        elif tag in self._known:
            return None
        else:
            self._known.add(tag)
        return Outcome(tag, started=Started(wired.started.run, wired.started.created))

    async def _wait_for_move(self) -> None:
        self._moved.clear()
        await self._moved.wait()


async def _each(
    starts: Iterable[wire.StartRunRequest] | AsyncIterable[wire.StartRunRequest],
) -> AsyncGenerator[wire.StartRunRequest]:
    if isinstance(starts, AsyncIterable):
        async for request in starts:
            yield request
        return
    for count, request in enumerate(starts):
        if count % BATCH_MAX == 0:
            await asyncio.sleep(0)  # a long list must not keep the loop from sending
        yield request
