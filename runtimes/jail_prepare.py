"""Compiling code before it runs: once per digest and realm, in a child that does nothing else.

The compiler reads hostile bytes, so it runs in the jail like everything else, under a deadline of its own. A realm is
the namespace, or one for all where namespaces share children: a module that took its compiler over could spoil what is
compiled after it, so no realm is given what was compiled for another.

Modules that take the compiler long, on purpose or not, must not hold up the others. So each has a first try that is
short; what was not done by then is begun anew in a seat of its own kind, behind others of that kind. And a try is begun
only while a task waits for it. One that has begun is carried to its end, though its tasks may have run out of time by
then: their next attempts find what it made. Else a module that takes longer than its task may would never run.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar

from windlass.runtimes import failures
from windlass.runtimes.jail_frames import Checked, Prepare, Prepared, RuntimeInfo
from windlass.runtimes.jail_jobs import LONG_LANE, PoolJob
from windlass.runtimes.jail_settings import JailSettings
from windlass.runtimes.port import Activation, Completion, failed, flavour_of
from windlass.runtimes.prepared_cache import PreparedCache

_Value = TypeVar("_Value")
_KEPT: Final = 256
#: Of what is kept: a compiler that was taken over may say more than any of ours.
_MESSAGE_MAX: Final = 8_000
_FIRST_LANE: Final = "prepare/"
#: For how long a module is refused that could not be compiled for a reason that may pass, such as too busy a machine.
REFUSED_SECONDS: Final = 30.0


class _Compilation:
    """A compilation on its way, and how many wait for it."""

    def __init__(self) -> None:
        self.waiting = 0
        self.job: PoolJob | None = None
        self.work: asyncio.Future[bytes | Completion]


class Preparation:
    """Gives prepared code for an activation, out of the cache or out of a child."""

    def __init__(
        self,
        cache: PreparedCache,
        settings: JailSettings,
        new_job: Callable[[Prepare, str, int], PoolJob],
        clock: Callable[[], float] = lambda: asyncio.get_running_loop().time(),
    ) -> None:
        """`clock` gives seconds."""
        self._cache = cache
        self._settings = settings
        self._new_job = new_job
        self._clock = clock
        self._running: dict[str, _Compilation] = {}
        #: The reason, and until when it counts.
        self._refusals: OrderedDict[str, tuple[Completion, float]] = OrderedDict()
        #: Names of what was not done in the first time.
        self._long: OrderedDict[str, None] = OrderedDict()

    def name_of(self, activation: Activation, runtime: RuntimeInfo, realm: str) -> str:
        """Return what the prepared form is called: it depends on code, engine, version, metering and realm."""
        return f"{realm}/{runtime.name}/{runtime.version}/{flavour_of(activation.limits)}/{activation.digest}"

    def known(self, name: str) -> bytes | Completion | None:
        """Return the prepared code or the reason why there is none; None when it is to be made (again)."""
        refusal, until = self._refusals.get(name, (None, 0.0))
        return self._cache.get(name) or (refusal if self._clock() < until else None)

    def at_work(self, name: str) -> bool:
        """Tell whether a child compiles this now."""
        running = self._running.get(name)
        return running is not None and running.job is not None and running.job.state == "assigned"

    async def make(self, name: str, activation: Activation, realm: str) -> bytes | Completion:
        """Compile, or wait for whoever compiles the same already. A failure is a completion, and remembered.

        When all who waited have been cancelled, it goes no further than the try that a child is at.
        """
        running = self._running.get(name)
        if running is None:
            running = self._running[name] = _Compilation()
            running.work = asyncio.ensure_future(self._compile(running, name, activation, realm))
            running.work.add_done_callback(lambda _: self._ended(name, running))
        running.waiting += 1
        try:
            return await asyncio.shield(running.work)
        finally:
            running.waiting -= 1
            if not running.waiting and not self.at_work(name):
                self._ended(name, running)
                running.work.cancel()

    def _ended(self, name: str, running: _Compilation) -> None:
        if self._running.get(name) is running:
            del self._running[name]

    async def _compile(
        self, running: _Compilation, name: str, activation: Activation, realm: str
    ) -> bytes | Completion:
        space_bytes = self._settings.prepare_bytes_max
        request = Prepare(0, activation.runtime, activation.code, flavour_of(activation.limits), space_bytes)
        answer: object = None
        for lane, wall_us in self._tries(name):
            running.job = self._new_job(request, f"{lane}{realm}", wall_us)
            answer = await running.job.answer
            if _code_of(answer) != failures.TIMEOUT:
                break
            _put(self._long, name, None)
            if not running.waiting:
                self._ended(name, running)  # at once: who comes now begins anew
                return failed(failures.CANCELLED, "no task waits for the module any more")
        if isinstance(answer, Prepared):
            self._cache.put(name, answer.data)
            return answer.data
        refusal = self._refusal_of(answer)
        code = _code_of(refusal)
        if code != failures.CANCELLED:  # the worker stopped: that says nothing about the code
            lasting = code == failures.BAD_CODE  # the others say as much about the machine
            _put(self._refusals, name, (refusal, float("inf") if lasting else self._clock() + REFUSED_SECONDS))
        return refusal

    def _tries(self, name: str) -> list[tuple[str, int]]:
        first_us, wall_us = self._settings.prepare_first_us, self._settings.prepare_wall_us
        again = [(LONG_LANE, wall_us)]
        return again if name in self._long else [(_FIRST_LANE, min(first_us, wall_us)), *again]

    def _refusal_of(self, answer: object) -> Completion:
        match answer:
            case Checked(_, problems):
                told = "; ".join(problem.message for problem in problems)
                return failed(failures.BAD_CODE, told[:_MESSAGE_MAX])
            case Completion() if _code_of(answer) == failures.TIMEOUT:
                within = f"{self._settings.prepare_wall_us / 1e6:g} s"
                return failed(failures.TIMEOUT, f"the module could not be compiled within {within}")
            case Completion():
                return answer
        return failed(failures.SANDBOX_CRASHED, "the compiler gave an answer of the wrong kind")


def _code_of(answer: object) -> str:
    return answer.failure.code if isinstance(answer, Completion) and answer.failure is not None else ""


def _put(kept: OrderedDict[str, _Value], name: str, value: _Value) -> None:
    kept[name] = value
    kept.move_to_end(name)
    if len(kept) > _KEPT:
        kept.popitem(last=False)
