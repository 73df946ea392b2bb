"""Compiled revisions of definitions: kept in memory, and compiled aside where that takes long.

Theory of operation. A revision is missed inside of a transaction, which must not wait for anything else. So what
compiles in a moment is compiled there and then; else a thread begins, one for each revision and one at a time for each
namespace, and the transaction ends with `Loading`. Whoever gets it waits for the end and runs the transaction again
(`patiently`), or does something else meanwhile, as the loops that work for everybody do.

A revision that cannot be compiled is remembered as that: asked for again, it would be compiled again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from windlass.engine.core.definition import Definition
from windlass.engine.errors import EngineError

log = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[str, str, str]  #: namespace, workflow, revision

#: Documents kept compiled, and their bytes together: compiled they take up to fifty times as much.
KEPT_MAX: Final = 2_000
KEPT_BYTES_MAX: Final = 8_000_000
#: A larger document is compiled aside; this much takes some milliseconds, or, of nothing but expressions, 60.
AT_ONCE_BYTES_MAX: Final = 16_384
#: And one with regular expressions: a few characters can be long work.
_SLOW: Final = (b'"pattern', b"matches")
#: Namespaces whose documents are compiled side by side.
THREADS: Final = 4


class Loading(Exception):
    """The revision is being compiled."""

    def __init__(self, task: asyncio.Task[Definition | None]) -> None:
        super().__init__("a revision is being compiled")
        self._task = task

    async def end(self) -> Definition | None:
        """Wait for it. Keep the definition until it is used: others may have pushed it out by then."""
        return await asyncio.shield(self._task)

    def then(self, act: Callable[[], None]) -> None:
        """Do this at its end."""
        self._task.add_done_callback(lambda _: act())


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Run a transaction, again for each revision that it had to wait for."""
    held: list[Definition | None] = []
    while True:
        try:
            return await attempt()
        except Loading as missing:
            held.append(await missing.end())


class Revisions:
    """The compiled revisions of one engine. `revive` turns a canonical document into the core's record."""

    def __init__(self, revive: Callable[[bytes], Definition]) -> None:
        self._revive = revive
        self._alive: WeakValueDictionary[Key, Definition] = WeakValueDictionary()  #: also those that a unit still uses
        self._kept: dict[Key, tuple[Definition | str, int]] = {}  #: or why it cannot be compiled
        self._bytes: Counter[str] = Counter()  #: of the documents kept, by namespace
        self._loading: dict[Key, asyncio.Task[Definition | None]] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  #: while they are used
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="revisions")

    def get(self, key: Key) -> Definition | None:
        """The revision, if it is there. Raises Loading, and EngineError BAD_DEFINITION for what cannot be compiled."""
        found = self._alive.get(key)
        if found is None and key in self._kept:
            return _usable(key, self._kept[key][0])
        if found is None and key in self._loading:
            raise Loading(self._loading[key])
        return found

    def load(self, key: Key, document: bytes) -> Definition:
        """Compile it, at once or aside. Raises as `get` does."""
        if len(document) > AT_ONCE_BYTES_MAX or any(word in document for word in _SLOW):
            task = self._loading[key] = asyncio.get_running_loop().create_task(self._aside(key, document))
            raise Loading(task)
        found = self._compile(key, document)
        self._keep(key, found, len(document))
        return _usable(key, found)

    def forget(self, ns: str, name: str) -> None:
        """The definition was deleted."""
        for key in [key for key in self._kept if key[:2] == (ns, name)]:
            self._drop(key)
        for index in (self._alive, self._loading):
            for key in [key for key in index if key[:2] == (ns, name)]:
                del index[key]

    async def _aside(self, key: Key, document: bytes) -> Definition | None:
        try:
            async with self._turns.setdefault(key[0], asyncio.Lock()):
                found = await asyncio.get_running_loop().run_in_executor(self._threads, self._compile, key, document)
            if self._loading.get(key) is asyncio.current_task():  # else it was deleted meanwhile
                self._keep(key, found, len(document))
        finally:
            if self._loading.get(key) is asyncio.current_task():
                del self._loading[key]
        return found if isinstance(found, Definition) else None

    def _compile(self, key: Key, document: bytes) -> Definition | str:
        try:
            return self._revive(document)
        except Exception as error:
            log.exception("revision %s of workflow %r in namespace %r cannot be read", key[2], key[1], key[0])
            return str(error)

    def _keep(self, key: Key, found: Definition | str, size: int) -> None:
        """Who has most of what is kept makes room, so that one namespace cannot make all others compile anew."""
        if isinstance(found, Definition):
            self._alive[key] = found
        self._drop(key)
        while self._kept and (len(self._kept) >= KEPT_MAX or self._bytes.total() + size > KEPT_BYTES_MAX):
            largest = max(self._bytes, key=self._bytes.__getitem__)
            self._drop(next(each for each in self._kept if each[0] == largest))
        self._kept[key] = found, size
        self._bytes[key[0]] += size

    def _drop(self, key: Key) -> None:
        if key in self._kept:
            self._bytes[key[0]] -= self._kept.pop(key)[1]
            if not self._bytes[key[0]]:
                del self._bytes[key[0]]


def _usable(key: Key, found: Definition | str) -> Definition:
    if isinstance(found, Definition):
        return found
    _, name, revision = key
    why = f"revision {revision!r} of workflow {name!r} cannot be read by this version: {found}"
    raise EngineError("BAD_DEFINITION", why, workflow=name, revision=revision)
