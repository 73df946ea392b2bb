"""An event loop without a clock and without a world, on which hosts can be stopped dead.

Theory of operation. Time stands still while anything is ready, and jumps to the next timer when nothing is: days pass
in moments, and a run repeats exactly. Real input or output, threads and a wait for nothing at all raise at once.

Every callback belongs to a *host*, found in its context (tasks hand their context on to what they start). A paused
host's callbacks are kept instead of run, as a stopped process's are, and run in their order when it is resumed; a dead
host's never run again. So a crash needs no help from the code under test: none of its `finally` blocks runs, nothing is
flushed.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

HOST: Final[contextvars.ContextVar[Host | None]] = contextvars.ContextVar("host", default=None)


#: Timers fire this much late, never early: whoever asks "is it due?" must not have to ask again at the same moment.
LATE_S: Final = 1e-6


#: Turns of the loop at one moment before it is taken for an endless loop.
TURNS_MAX: Final = 100_000


class NothingWillHappen(Exception):
    """Everything waits, and nothing is left that could wake anything."""


class Host:
    """A machine of the simulation: what runs in its context stops and dies with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = True
        self.dead = False
        self.tasks: list[asyncio.Task[Any]] = []
        self.frozen: list[tuple[_Entry, contextvars.Context]] = []
        self.context = contextvars.copy_context()
        self.context.run(HOST.set, self)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` on this host."""
        self.tasks = [task for task in self.tasks if not task.done()]
        task = asyncio.get_running_loop().create_task(work, context=self.context.copy())
        self.tasks.append(task)
        return task

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on this host and wait for it. The caller may give up; the host may die."""
        task = self.spawn(work)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    def pause(self) -> None:
        """As SIGSTOP does."""
        self.running = False

    def resume(self) -> None:
        """As SIGCONT does: what was due meanwhile happens now, in its order."""
        if self.dead:
            return
        self.running = True
        loop = asyncio.get_running_loop()
        frozen, self.frozen = self.frozen, []
        for entry, context in frozen:
            loop.call_soon(_belated, entry, context=context)

    def kill(self) -> None:
        """As SIGKILL does."""
        self.dead = True
        self.running = False


class _Entry:
    """A callback on its way to its host."""

    __slots__ = ("args", "callback", "handle")
    handle: asyncio.Handle

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback, self.args = callback, args


def _belated(entry: _Entry) -> None:
    if not entry.handle.cancelled():
        entry.callback(*entry.args)


def _enter(host: Host, entry: _Entry) -> None:
    if host.running:
        entry.callback(*entry.args)
    else:
        host.frozen.append((entry, contextvars.copy_context()))


class _Jumping(selectors.SelectSelector):
    """Never asks the system; moves the clock instead of waiting."""

    now = 0.0
    turns = 0  #: of the loop, since time last moved
    lenient = False  #: the simulation has failed, and is only tidied up

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None and not self.lenient:
            raise NothingWillHappen("every task waits and no timer is armed")
        if timeout != 0:
            self.now += (timeout or 1.0) + LATE_S
            self.turns = 0
        self.turns += 1
        if self.turns > TURNS_MAX and not self.lenient:
            raise NothingWillHappen("the loop turns and turns while time stands still")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the head of this file."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        self._sealed = False
        super().__init__(self._jumping)
        self._sealed = True

    def give_up(self) -> None:
        """Let what is left come to its end."""
        self._jumping.lenient = True

    def time(self) -> float:
        return self._jumping.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        host = HOST.get() if context is None else context.get(HOST)
        if host is None:
            return super().call_soon(callback, *args, context=context)
        entry = _Entry(callback, args)
        entry.handle = super().call_soon(_enter, host, entry, context=context)
        return entry.handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        host = HOST.get() if context is None else context.get(HOST)
        if host is None or _of_the_store(callback):
            return super().call_at(when, callback, *args, context=context)
        entry = _Entry(callback, args)
        handle = super().call_at(when, _enter, host, entry, context=context)
        entry.handle = handle
        return handle

    def run_in_executor(self, *_: Any) -> Any:  # type: ignore[override]
        raise RuntimeError("the simulation has no threads")

    def _add_reader(self, *args: Any) -> Any:
        if self._sealed:
            raise RuntimeError("real input in the simulation")
        return super()._add_reader(*args)  # type: ignore[misc]

    def _add_writer(self, *_: Any) -> Any:
        raise RuntimeError("real output in the simulation")


def _of_the_store(callback: Callable[..., object]) -> bool:
    """A commit that lands late does so on the store's side, whatever became of the host that sent it."""
    return getattr(callback, "__name__", "") == "_land_if_it_can"


async def bury(hosts: list[Host]) -> None:
    """Let the tasks of dead and paused hosts come to an end, once nobody looks any more.

    Otherwise Python would complain about them when it tidies up.
    """
    loop = asyncio.get_running_loop()
    for host in hosts:
        for task in host.tasks:
            task.cancel()
        host.running = True
        frozen, host.frozen = host.frozen, []
        for entry, context in frozen:
            if not entry.handle.cancelled():
                loop.call_soon(entry.callback, *entry.args, context=context)
    mine = asyncio.current_task()
    for _ in range(20):
        left = [task for task in asyncio.all_tasks() if task is not mine]
        if not left:
            return
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1)
