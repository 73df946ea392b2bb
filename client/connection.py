"""One channel to an engine, and the rule by which calls over it are repeated.

Repeated are UNAVAILABLE (the engine was not there, is going away, or does not know whether its commit went through) and
RESOURCE_EXHAUSTED where the engine says when to come back: a full backlog, a rate. That is safe because a mutating call
carries a request_id that is made once, before the first try, and the engine answers a second try with the first one's
outcome. Everything else is the caller's to decide (docs/errors.md).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from windlass.client.errors import WindlassError, error_of_call

DEFAULT_TARGET = "127.0.0.1:7711"
CALL_TIMEOUT = 30.0  #: seconds that one try of a unary call may take
RETRY_FOR = 30.0  #: seconds for which a call is repeated
MESSAGE_BYTES_MAX = 64 * 1024 * 1024  #: of an answer; the engine's own caps are lower

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # An engine that restarts is back within a second or two; the library's default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Despite its name: how long one try to connect may take, with TLS and over slow networks, too.
    ("grpc.min_reconnect_backoff_ms", 5000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Channels of one process are separate: closing one client must not disturb another.
    ("grpc.use_local_subchannel_pool", 1),
]

Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait between tries: doubling, with full jitter so that many clients do not come back as one."""

    initial: float = 0.05  #: seconds
    maximum: float = 2.0  #: seconds
    random: Callable[[], float] = random.random  #: in [0, 1)

    def delays(self) -> Iterator[float]:
        """Seconds before the second try, the third, and so on, without end."""
        limit = self.initial
        while True:
            yield limit * (0.5 + self.random() / 2)
            limit = min(limit * 2, self.maximum)


class Connection:
    """A channel to one engine."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        retry_for: float = RETRY_FOR,
        call_timeout: float = CALL_TIMEOUT,
        backoff: Backoff | None = None,
    ) -> None:
        self.target, self.retry_for, self.call_timeout = target, retry_for, call_timeout
        self.backoff = backoff or Backoff()
        self._credentials = credentials
        self._made: tuple[grpc.aio.Channel, asyncio.AbstractEventLoop] | None = None
        self._closed = False

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel. It is made by the first call, since it belongs to the event loop in which it is made: a client
        may be made before there is one. Raises RuntimeError in another loop, and after `close`.
        """
        self._check_open()
        loop = asyncio.get_running_loop()
        if self._made is None:
            self._made = self._open(), loop
        channel, made_in = self._made
        if made_in is not loop:
            raise RuntimeError("this client was used in another event loop first; make one for each loop")
        return channel

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this client is closed; make another one")

    def _open(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, options=_OPTIONS)
        return grpc.aio.secure_channel(self.target, self._credentials, options=_OPTIONS)

    async def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        self._closed = True
        if self._made is not None:
            await self._made[0].close()

    async def call(
        self,
        method: Callable[..., grpc.aio.UnaryUnaryCall[Request, Response]],
        request: Request,
        *,
        timeout: float | None = None,
    ) -> Response:
        """One unary call, repeated while the engine is unavailable or says when to come back.

        `timeout` is of one try, in seconds. Raises WindlassError.
        """
        patience = Patience(self.backoff, self.retry_for)
        while True:
            self._check_open()  # it may have been closed between two tries
            try:
                return await method(request, timeout=timeout or self.call_timeout)
            except grpc.aio.AioRpcError as error:
                await patience.after(error_of_call(error))


class Patience:
    """Decides after each failed try whether there is another, and waits for it.

    The time is counted from the first failure: a long poll or a stream may have been well for longer than that before.
    """

    def __init__(self, backoff: Backoff, retry_for: float) -> None:
        self._backoff, self._retry_for = backoff, retry_for
        self.restart()

    def restart(self) -> None:
        """Counts anew: a stream has shown signs of life."""
        self._delays = self._backoff.delays()
        self._deadline: float | None = None

    async def after(self, error: WindlassError) -> None:
        """Waits until the next try. Raises the error if another try would not help or there is no time left for it."""
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + self._retry_for
        wait = next(self._delays) + (error.retry_after or 0.0)  # those who are told the same do not come back as one
        if not _passes(error) or now + wait > self._deadline:
            raise error from None  # gRPC's own says nothing that this one does not
        await asyncio.sleep(wait)


def _passes(error: WindlassError) -> bool:
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return error.retry_after is not None
    return error.code is grpc.StatusCode.UNAVAILABLE
