"""Two handles on one shared store that pass as one: every call goes to the other one than the call before it.

So the whole conformance suite is also a test of two engines beside each other.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import TypeVar

from windlass.storage.port import Storage, Transaction

T = TypeVar("T")


class Alternating:
    """A `Storage` of the port."""

    shared = True

    def __init__(self, *handles: Storage) -> None:
        self._handles = handles
        self._turn = itertools.cycle(handles)

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        return await next(self._turn).transact(body)

    async def read(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        return await next(self._turn).read(body)

    async def settle(self, key: bytes) -> bytes | None:
        return await next(self._turn).settle(key)

    async def close(self) -> None:
        for handle in self._handles:
            await handle.close()
