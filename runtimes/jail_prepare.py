"""Compiling code before it runs: once per digest and realm, in a child that does nothing else.

The compiler reads hostile bytes, so it runs in the jail like everything else, under a deadline of its own. A realm is
the namespace, or one for all where namespaces share children: a module that took its compiler over could spoil what is
compiled after it, so no realm is given what was compiled for another.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from windlass.runtimes import failures
from windlass.runtimes.jail_frames import Checked, Prepare, Prepared, RuntimeInfo
from windlass.runtimes.jail_jobs import PoolJob
from windlass.runtimes.port import Activation, Completion, failed, flavour_of
from windlass.runtimes.prepared_cache import PreparedCache

_REFUSALS_KEPT: Final = 256


class Preparation:
    """Gives prepared code for an activation, out of the cache or out of a child."""

    def __init__(self, cache: PreparedCache, wall_us: int, new_job: Callable[[Prepare, str, int], PoolJob]) -> None:
        self._cache = cache
        self._wall_us = wall_us
        self._new_job = new_job
        self._running: dict[str, asyncio.Future[bytes | Completion]] = {}
        self._refusals: OrderedDict[str, Completion] = OrderedDict()

    def name_of(self, activation: Activation, runtime: RuntimeInfo, realm: str) -> str:
        """Return what the prepared form is called: it depends on code, engine, version, metering and realm."""
        return f"{realm}/{runtime.name}/{runtime.version}/{flavour_of(activation.limits)}/{activation.digest}"

    def known(self, name: str) -> bytes | Completion | None:
        """Return the prepared code or the reason why there is none; None when nobody tried yet."""
        return self._cache.get(name) or self._refusals.get(name)

    async def make(self, name: str, activation: Activation, realm: str) -> bytes | Completion:
        """Compile, or wait for whoever compiles the same already. A failure is a completion, and remembered."""
        running = self._running.get(name)
        if running is None:
            running = self._running[name] = asyncio.ensure_future(self._compile(name, activation, realm))
            running.add_done_callback(lambda _: self._running.pop(name, None))
        return await asyncio.shield(running)

    async def _compile(self, name: str, activation: Activation, realm: str) -> bytes | Completion:
        request = Prepare(0, activation.runtime, activation.code, flavour_of(activation.limits))
        answer = await self._new_job(request, f"prepare/{realm}", self._wall_us).answer
        match answer:
            case Prepared(_, data):
                self._cache.put(name, data)
                return data
            case Checked(_, problems):
                refusal = failed(failures.BAD_CODE, "; ".join(problem.message for problem in problems))
            case Completion():
                refusal = answer
                code = refusal.failure.code if refusal.failure is not None else ""
                if code == failures.CANCELLED:
                    return refusal  # the worker stopped: that says nothing about the code
                if code == failures.TIMEOUT:
                    refusal = failed(code, f"the module could not be compiled within {self._wall_us / 1e6:g} s")
            case _:
                refusal = failed(failures.SANDBOX_CRASHED, "the compiler gave an answer of the wrong kind")
        self._refusals[name] = refusal
        if len(self._refusals) > _REFUSALS_KEPT:
            self._refusals.popitem(last=False)
        return refusal
