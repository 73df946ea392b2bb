"""The wire between simulated hosts: streams in order, calls, and everything that goes wrong with them.

A stream keeps its order and breaks as a whole, as a TCP connection does: a lost message is a broken stream. The two
ends learn of a break each in its own time (or, of a partition, only by silence: the worker's lease, the engine's
keep-alive). Streams are not ordered among each other. Messages cross as bytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import grpc
from google.rpc import status_pb2

from tests.simulation.virtual_loop import Host
from windlass.v1 import worker_service_pb2 as pb
from windlass.worker.answers import Refusal, refusal_of
from windlass.worker.transport import WireError

#: An engine gives up a silent connection after this: gRPC's keep-alive.
KEEPALIVE_S: Final = 20.0
#: A call without an answer is given up by its caller after this.
CALL_S: Final = 12.0


@dataclass
class Weather:
    """What the network does at the moment; probabilities from 0 to 1 for each message."""

    delay_s: tuple[float, float] = (0.0002, 0.002)
    slow: float = 0.0  #: an extra delay of up to `slow_s`
    slow_s: float = 2.0
    lost: float = 0.0
    ghost: float = 0.0  #: a result arrives once more, later, by another way


class CallFailed(Exception):
    """A call's refusal as the caller sees it. `known` False: it may have been carried out."""

    def __init__(self, reason: str, message: str = "", *, known: bool = True) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.known = reason, known


class Aborted(Exception):
    """`context.abort_with_status` raises, like grpc's."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class CallContext:
    """What a unary handler sees of its call."""

    @staticmethod
    def time_remaining() -> float | None:
        """None: callers give up by themselves, the network tells nobody of it."""
        return None

    async def abort_with_status(self, status: Any) -> None:
        parsed = status_pb2.Status(code=status.code.value[0], message=status.details)
        for key, value in status.trailing_metadata or ():
            if key == "grpc-status-details-bin":
                parsed.MergeFromString(value)
        raise Aborted(parsed)


class End:
    """One end of a stream: what has arrived, and whether it is over."""

    def __init__(self) -> None:
        self._arrived: deque[bytes] = deque()
        self._over: Exception | None = None
        self._stir = asyncio.Event()

    def arrive(self, data: bytes) -> None:
        if self._over is None:
            self._arrived.append(data)
            self._stir.set()

    def finish(self, why: Exception) -> None:
        """Nothing comes any more; what has arrived can still be read."""
        if self._over is None:
            self._over = why
            self._stir.set()

    async def take(self) -> bytes:
        """The next message. Raises how the stream ended."""
        while not self._arrived:
            if self._over is not None:
                raise self._over
            self._stir.clear()
            await self._stir.wait()
        return self._arrived.popleft()

    @property
    def over(self) -> bool:
        return self._over is not None


class EndOfStream(Exception):
    """The other side has said all."""


class Network:
    """All wires. `cut` holds the pairs of hosts that cannot reach each other."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.weather = Weather()
        self.cut: set[frozenset[str]] = set()
        self.streams: list[Stream] = []
        self.crossed = 0

    def delay(self) -> float:
        extra = self.random.uniform(0, self.weather.slow_s) if self.random.random() < self.weather.slow else 0.0
        return self.random.uniform(*self.weather.delay_s) + extra

    def loses(self) -> bool:
        return self.weather.lost > 0 and self.random.random() < self.weather.lost

    def reaches(self, one: Host, other: Host) -> bool:
        return not one.dead and not other.dead and frozenset((one.name, other.name)) not in self.cut

    def died(self, host: Host) -> None:
        """Its connections are reset, or fall silent as with a power cut."""
        reset = self.random.random() < 0.7
        for stream in [stream for stream in self.streams if host in (stream.near, stream.far)]:
            if reset:
                stream.break_off()
            else:
                stream.silence()

    async def call(self, near: Host, far: Host, handler: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        """A unary call from one host to a handler of another. Raises CallFailed."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sent = request.SerializeToString()
        if not self.reaches(near, far):
            await asyncio.sleep(self.delay())
            raise CallFailed("UNREACHABLE", "connection refused", known=True)
        asyncio.get_running_loop().call_later(
            self.delay(), self._carry_out, far, near, handler, type(request), sent, answer
        )
        try:
            async with asyncio.timeout(CALL_S):
                outcome = await answer
        except TimeoutError:
            raise CallFailed("NO_ANSWER", "deadline exceeded", known=False) from None
        if isinstance(outcome, status_pb2.Status):
            refusal = refusal_of(outcome)
            raise CallFailed(
                refusal.reason, refusal.message, known=refusal.reason not in ("COMMIT_UNKNOWN", "INTERNAL")
            )
        return outcome

    def _carry_out(
        self, far: Host, near: Host, handler: Callable[[Any], Awaitable[Any]], kind: type, sent: bytes,
        answer: asyncio.Future[Any],
    ) -> None:  # fmt: skip
        if self.loses() or not self.reaches(near, far):
            return
        request = kind()
        request.ParseFromString(sent)
        served = far.spawn(self._serve(handler, request))
        served.add_done_callback(lambda done: self._reply(far, near, done, answer))

    @staticmethod
    async def _serve(handler: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
        try:
            return await handler(request)
        except Aborted as aborted:
            return aborted.status

    def _reply(self, far: Host, near: Host, done: asyncio.Task[Any], answer: asyncio.Future[Any]) -> None:
        if done.cancelled() or self.loses() or not self.reaches(near, far):
            return
        asyncio.get_running_loop().call_later(self.delay(), _settle, answer, done.result())


def _settle(answer: asyncio.Future[Any], outcome: Any) -> None:
    if not answer.done():
        answer.set_result(outcome)


class Stream:
    """One worker's stream to one engine."""

    def __init__(self, network: Network, near: Host, far: Host) -> None:
        self.network, self.near, self.far = network, near, far
        self.up, self.down = End(), End()
        self._silent = False
        self._last = {True: 0.0, False: 0.0}
        network.streams.append(self)

    def send(self, data: bytes, *, up: bool) -> None:
        network = self.network
        if self._silent:
            return
        if not network.reaches(self.near, self.far):
            self.silence()
            return
        if network.loses():
            self.break_off()
            return
        loop = asyncio.get_running_loop()
        when = self._last[up] = max(self._last[up] + 1e-6, loop.time() + network.delay())
        network.crossed += 1
        loop.call_at(when, self._land, data, up)

    def _land(self, data: bytes, up: bool) -> None:
        if not self._silent:
            (self.up if up else self.down).arrive(data)

    def silence(self) -> None:
        """Nothing passes any more, and nobody says so."""
        if not self._silent:
            self._silent = True
            self._later(KEEPALIVE_S, self.up)
            self._later(KEEPALIVE_S, self.down)

    def break_off(self) -> None:
        """The connection is reset: each end hears of it in its time."""
        self._silent = True
        random = self.network.random
        self._later(random.uniform(0, 0.05), self.down)
        self._later(random.choice([0.01, 0.5, KEEPALIVE_S]), self.up)

    def end(self, why: Exception, *, up: bool) -> None:
        """One side ends the stream in good order, after what it has said."""
        if self._silent:
            return
        loop = asyncio.get_running_loop()
        when = max(self._last[up] + 1e-6, loop.time() + self.network.delay())
        loop.call_at(when, (self.up if up else self.down).finish, why)

    def _later(self, seconds: float, end: End) -> None:
        gone = WireError(Refusal("BROKEN", "the connection is broken", passing=True), "UNAVAILABLE")
        asyncio.get_running_loop().call_later(seconds, end.finish, gone)
        if self in self.network.streams:
            self.network.streams.remove(self)


class StreamContext:
    """The engine's side of a stream, as its handler sees it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.handling: asyncio.Task[None] | None = None

    async def read(self) -> Any:
        try:
            data = await self._stream.up.take()
        except EndOfStream:
            return grpc.aio.EOF
        except WireError:
            assert self.handling is not None
            self.handling.cancel()  # what grpc does to a handler whose client is gone
            return await asyncio.get_running_loop().create_future()
        message = pb.StreamTasksRequest()
        message.ParseFromString(data)
        return message

    async def write(self, message: pb.StreamTasksResponse) -> None:
        self._stream.send(message.SerializeToString(), up=False)
        await asyncio.sleep(0)

    async def abort_with_status(self, status: Any) -> None:
        await CallContext().abort_with_status(status)
