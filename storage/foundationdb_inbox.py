"""Ready FoundationDB futures, brought from the library's network thread to an event loop, many per wake-up.

Theory of operation: every operation gives a future, and a future calls one C callback when it is ready: on the
network thread, or at once in the calling thread if it was ready already. All futures of an event loop share ONE
ctypes callback (`Inbox._arrived`). It does two things only, because it runs on a foreign thread and holds the GIL: it
appends the future's token to a deque, and wakes the loop if nobody has done so since the loop last looked. The loop
then settles every ready future in one go (`Inbox._drain`). A future's memory belongs to the inbox from creation until
`_drain` destroys it; its value is copied out just before.

Rules for whoever changes this file:

* Nothing may be freed while a callback can still come. An `Inbox` stays in `_inboxes` until it is closed and empty.
* A transaction's futures are cancelled together, by destroying the transaction; each of them still calls back.
* An error of a future is delivered by awaiting it. `_drain` marks it as seen, because a body that awaits the first of
  three reads and fails there must not make asyncio complain about the other two.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from windlass.storage.foundationdb_library import CALLBACK

T = TypeVar("T")


class Unusable:
    """Stands in for a pointer that must not be used now: passing it to a C function raises. Free until it happens."""

    def __init__(self, why: str) -> None:
        self._why = why

    @property
    def _as_parameter_(self) -> int:
        raise RuntimeError(self._why)


CLOSED: Final[Any] = Unusable("closed")


class Inbox:
    """The futures in flight of one event loop."""

    def __init__(self, native: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._native, self._loop = native, loop
        self.decoder = native.decoder()
        self._ready: deque[int] = deque()
        self._awake = False  # a drain is scheduled; the loop clears it before it looks, so no arrival is ever missed
        self._tokens = itertools.count(1)
        self._pending: dict[int, tuple[int, Callable[[int], Any], asyncio.Future[Any]]] = {}
        self._empty = asyncio.Event()
        self._callback = CALLBACK(self._arrived)
        _inboxes.add(self)

    def submit(self, pointer: int, decode: Callable[[int], T]) -> asyncio.Future[T]:
        """Take over the FDB future at `pointer`; the result becomes ready on the loop, decoded."""
        waiter: asyncio.Future[T] = self._loop.create_future()
        token = next(self._tokens)
        self._pending[token] = (pointer, decode, waiter)
        self._native.future_set_callback(pointer, self._callback, token)
        return waiter

    def _arrived(self, _pointer: int, token: int) -> None:  # on the network thread
        self._ready.append(token)
        if not self._awake:
            self._awake = True
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._awake = False
        while self._ready:
            pointer, decode, waiter = self._pending.pop(self._ready.popleft())
            if not waiter.done():
                try:
                    waiter.set_result(decode(pointer))
                except Exception as error:  # noqa: BLE001 - handed to whoever awaits the future
                    waiter.set_exception(error)
                    waiter.exception()  # mark as retrieved, see the rules above
            self._native.future_destroy(pointer)
        if not self._pending:
            self._empty.set()

    async def close(self) -> None:
        """Cancel what is pending and wait until no callback can come any more."""
        while self._pending:
            self._empty.clear()
            for pointer, _, _ in list(self._pending.values()):
                self._native.future_cancel(pointer)
            await self._empty.wait()
        _inboxes.discard(self)

    @property
    def pending(self) -> int:
        """FDB futures not yet settled, armed watches included."""
        return len(self._pending)


_inboxes: set[Inbox] = set()
