"""The JavaScript runtime: QuickJS through the `quickjs` package's interface, a fresh context for every attempt.

Written against what `quickjs-ng` and `quickjs` have in common; `quickjs-ng` is the one that is tested. The extension
module is imported and not `quickjs` itself, which starts a thread on import: a process with two threads can neither
leave its namespaces nor put itself wholly under Landlock. The engine's own
limits are the first line only. Its time limit counts the CPU of this process and does not watch conversions or native
loops, so the parent kills this process when the wall deadline has passed (see `jail_slot`).
"""

from __future__ import annotations

import importlib.metadata
import time
from collections import OrderedDict
from typing import Any, Final

import _quickjs as quickjs
import msgspec

from windlass.runtimes import failures, javascript_outcome
from windlass.runtimes.determinism import seed_words
from windlass.runtimes.javascript_prelude import PARTS, PRELUDE
from windlass.runtimes.javascript_source import is_strict, script_of
from windlass.runtimes.memory_mark import reset_peak
from windlass.runtimes.port import Activation, BadCode, Completion, Problem, Report, TaskIdentity, Usage, failed

_MEMORY_FLOOR: Final = 1 << 20
_STACK_FLOOR: Final = 64 << 10
_STACK_CEILING: Final = 1 << 20
#: The binding cuts integers to 32 bits.
_INT_MAX: Final = (1 << 31) - 1
#: How often the drain of promise jobs asks whether the answer is there.
_JOBS_PER_LOOK: Final = 64
_SALVAGE_SECONDS: Final = 0.02
_SALVAGE_BYTES: Final = 4 << 20
_SCRIPTS_KEPT: Final = 256


def _engine_version() -> str:
    for package in ("quickjs-ng", "quickjs"):
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "quickjs"


class JavaScript:
    """`Runtime` for scripts. See `docs/sandbox.md` for what they see."""

    name = "javascript"
    prepares = False

    def __init__(self) -> None:
        self.version = _engine_version()
        self._next: tuple[Any, Any] | None = None
        self._scripts: OrderedDict[str, str] = OrderedDict()

    def warm_up(self) -> None:
        """Run every path once: what is imported late could not be imported any more."""
        for code in (b"ctx.log('warm')", b"throw ctx.fail('WARM', '', {nextDelay: '1s'})", b"null.x"):
            task = TaskIdentity("", "", "", "", 0, "", 0, "")
            self.activate(Activation(task, self.name, code), b"", lambda note: None)

    def rest(self) -> None:
        """Make the next attempt's context; that is most of what a small task costs."""
        if self._next is None:
            self._next = _fresh_context()

    def check(self, code: bytes) -> tuple[Problem, ...]:
        """Parse without running: the first statement throws before anything else is evaluated."""
        try:
            source = script_of(code)
        except BadCode as error:
            return error.problems
        first = "'use strict';throw 0;" if is_strict(source) else "throw 0;"
        context = quickjs.Context()
        context.set_memory_limit(256 << 20)
        context.set_time_limit(5)
        try:
            context.eval(first + source)
        except quickjs.JSException as error:
            text = str(error)
            if text.startswith("SyntaxError"):
                return (javascript_outcome.syntax_problem(text, source, len(first)),)
            if not text.startswith("0"):
                return (Problem(f"the code cannot be parsed: {text[:200]}"),)
        return ()

    def prepare(self, code: bytes, flavour: str) -> bytes:
        """Nothing is worth keeping: the engine exposes no bytecode."""
        return b""

    def activate(self, activation: Activation, prepared: bytes, report: Report) -> Completion:
        """Run one attempt. Never raises."""
        began, cpu_began = time.monotonic_ns(), time.process_time_ns()
        try:
            completion = self._attempt(activation, time.monotonic() + activation.limits.wall_us / 1e6)
        except BadCode as error:
            first = error.problems[0]
            completion = failed(
                failures.BAD_CODE, first.message, stack=f"at task.js:{first.line}" if first.line else ""
            )
        except Exception as error:  # noqa: BLE001 - the port never raises; what is left here is a defect of ours, named
            completion = failed(failures.SANDBOX_CRASHED, f"the runtime failed: {type(error).__name__}: {error}")
        usage = Usage(
            (time.monotonic_ns() - began) // 1000,
            (time.process_time_ns() - cpu_began) // 1000,
            0,
            completion.usage.peak_memory_bytes,
        )
        return msgspec.structs.replace(completion, usage=usage, runtime=self.version)

    def _attempt(self, activation: Activation, deadline: float) -> Completion:
        source = self._script(activation)
        limits = activation.limits
        reset_peak()
        (context, host), self._next = self._next or _fresh_context(), None
        context.set_memory_limit(max(limits.memory_bytes, _MEMORY_FLOOR))
        context.set_max_stack_size(min(max(limits.stack_bytes, _STACK_FLOOR), _STACK_CEILING))
        cpu_seconds = (limits.cpu_us or limits.wall_us) / 1e6
        context.set_time_limit(cpu_seconds)
        try:
            text = host(0, source, *_arguments(activation), PARTS) or _drain(context, host, deadline, cpu_seconds)
        except quickjs.JSException as error:
            code = javascript_outcome.code_of_engine_error(error, limits.memory_bytes)
            text = _salvage(context, host, limits.memory_bytes)
            return javascript_outcome.interrupted(code, text, activation, str(error))
        except TimeoutError:
            text = _salvage(context, host, limits.memory_bytes)
            return javascript_outcome.interrupted(failures.TIMEOUT, text, activation)
        if not text:
            text = _salvage(context, host, limits.memory_bytes)
            return javascript_outcome.interrupted(failures.NEVER_SETTLED, text, activation)
        used = int(context.memory().get("malloc_size", 0))
        return javascript_outcome.completion_of(text, source, activation, used)

    def _script(self, activation: Activation) -> str:
        script = self._scripts.get(activation.digest) if activation.digest else None
        if script is None:
            script = script_of(activation.code)
            if activation.digest:
                self._scripts[activation.digest] = script
            if len(self._scripts) > _SCRIPTS_KEPT:
                self._scripts.popitem(last=False)
        return script


def _fresh_context() -> tuple[Any, Any]:
    context = quickjs.Context()
    return context, context.eval(PRELUDE)


def _arguments(activation: Activation) -> tuple[Any, ...]:
    """Return `$host`'s parameters from `input` to `seeded`. Strings and small integers only; see the prelude."""
    limits, task = activation.limits, activation.task
    meta = {
        "namespace": task.namespace,
        "run_id": task.run_id,
        "definition": task.definition,
        "state": task.state,
        "visit": task.visit,
        "path": task.path,
        "attempt": task.attempt,
        "max_attempts": task.max_attempts,
        "idempotency_key": task.idempotency_key,
        "context": msgspec.Raw(activation.context),
        "checkpoint": msgspec.Raw(activation.checkpoint or b"null"),
        "resume": msgspec.Raw(activation.resume or b"null"),
        "seed": seed_words(activation) if activation.deterministic else (),
    }
    return (
        activation.input.decode(),
        activation.config.decode(),
        msgspec.json.encode(meta).decode(),
        str(activation.start_us // 1000),
        min(limits.output_bytes, _INT_MAX),
        min(limits.log_lines, _INT_MAX),
        min(limits.log_bytes, _INT_MAX),
        int("clock" in activation.grants),
        int(activation.deterministic),
    )


def _drain(context: Any, host: Any, deadline: float, cpu_seconds: float) -> str:
    """Run promise jobs until the answer is there. "" when it can never come. Raises TimeoutError.

    Each job gets the engine's limit anew, so an endless chain of short jobs is ended here. An interrupt inside an async
    function may only reject its promise; then the clock, which is looked at before every job, tells.
    """
    cpu_end = time.process_time() + cpu_seconds
    jobs = 0
    while True:
        left = min(deadline - time.monotonic(), cpu_end - time.process_time())
        if left <= 0:
            raise TimeoutError
        context.set_time_limit(left)
        if not context.execute_pending_job():
            text: str = host(1)
            if not text and cpu_end - time.process_time() <= 0:
                raise TimeoutError
            return text
        jobs += 1
        if jobs % _JOBS_PER_LOOK == 0 and (found := str(host(1))):
            return found


def _salvage(context: Any, host: Any, memory_bytes: int) -> str:
    """Return the logs, progress and checkpoint of an attempt that was interrupted, or "" when even that fails."""
    context.set_memory_limit(max(memory_bytes, _MEMORY_FLOOR) + _SALVAGE_BYTES)
    context.set_time_limit(_SALVAGE_SECONDS)
    try:
        text: str = host(2)
    except quickjs.JSException:
        # The author's own code (a getter, a broken heap) is in the way; the attempt's failure is known without it.
        return ""
    return text
