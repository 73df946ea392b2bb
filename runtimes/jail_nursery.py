"""Starting children, and what to do when they cannot be started.

A child counts as born when its Ready has come and every required layer of isolation holds. When children die before
that, starting is slowed down (a missing library will still be missing a millisecond later); when none was ever born,
the pool's start fails with the child's last words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from windlass.runtimes.jail_frames import FromChild, Hello, Ready
from windlass.runtimes.jail_settings import JailBroken, JailIncomplete, JailSettings
from windlass.runtimes.jail_slot import Child, hello_for

_FAILURES_MAX: Final = 3
_PAUSE_SECONDS: Final = 0.1
_PAUSE_SECONDS_MAX: Final = 30.0


class Nursery:
    """Starts children for a pool and reports their messages and their ends."""

    def __init__(
        self,
        settings: JailSettings,
        on_messages: Callable[[Child, list[FromChild]], None],
        on_end: Callable[[Child, str], None],
        on_resume: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._on_messages, self._on_end, self._on_resume = on_messages, on_end, on_resume
        self._alive: set[Child] = set()
        self._starts: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        self._first: asyncio.Future[Ready] | None = None
        self.started = 0
        #: What the last child said that was born.
        self.ready = Ready((), ())

    @property
    def open(self) -> bool:
        """Whether a child may be started now."""
        return not self._closed and self._pause is None

    def start_child(self) -> Child:
        """Start a child and return it; it is usable when its Ready is passed on."""
        child = Child(self._messages, self._end, self._settings.kept_bytes_max)
        self._alive.add(child)
        self.started += 1
        space = self._settings.memory_bytes_max + self._settings.overhead_bytes
        hello = hello_for(self._settings.runtimes, space)
        start = asyncio.get_running_loop().create_task(self._start(child, hello))
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)
        return child

    async def _start(self, child: Child, hello: Hello) -> None:
        try:
            await child.start(self._settings.command, hello)
        except OSError as error:  # no such program, or too many processes or descriptors already
            child.ended.set()
            self._end(child, f"it cannot be started: {error}")

    async def first_birth(self) -> None:
        """Wait for a child to be born. Raises JailIncomplete or JailBroken when that will not happen."""
        self._first = asyncio.get_running_loop().create_future()
        await self._first

    async def close(self) -> None:
        """End all children and wait until they are gone."""
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        await asyncio.gather(*self._starts, return_exceptions=True)
        for child in tuple(self._alive):
            child.kill("the pool is closed")
        for child in tuple(self._alive):
            await child.ended.wait()

    def _messages(self, child: Child, messages: list[FromChild]) -> None:
        message = messages[0]
        if isinstance(message, Ready):
            missing = self._settings.required - {layer.name for layer in message.layers if layer.active}
            if missing:
                story = "; ".join(f"{layer.name}: {layer.detail}" for layer in message.layers if not layer.active)
                self._fail(JailIncomplete(f"required, but not to be had here: {', '.join(sorted(missing))} ({story})"))
                child.kill("a required layer of isolation is missing")
                return
            self._failures = 0
            self.ready = message
            if self._first is not None and not self._first.done():
                self._first.set_result(message)
        self._on_messages(child, messages)

    def _end(self, child: Child, story: str) -> None:
        self._alive.discard(child)
        if child.ready is None and not self._closed:
            self._failures += 1
            if self._failures >= _FAILURES_MAX:
                self._fail(JailBroken(f"the sandbox process ends before it is ready: {story}"))
            delay = min(_PAUSE_SECONDS * 2**self._failures, _PAUSE_SECONDS_MAX)
            if self._pause is None:
                self._pause = asyncio.get_running_loop().call_later(delay, self._resume)
        self._on_end(child, story)

    def _resume(self) -> None:
        self._pause = None
        self._on_resume()

    def _fail(self, error: Exception) -> None:
        if self._first is not None and not self._first.done():
            self._first.set_exception(error)
