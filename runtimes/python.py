"""The runtime "python": trusted handlers, run in the worker's own process.

It has the same two calls as the pool of jailed slots (`submit` and `cancel`), so a worker drives both alike. An
asynchronous handler runs on the loop and is cancelled by the loop. A synchronous one runs in a thread; nobody can end
a thread from outside, so at its deadline, or when it is cancelled, its result is given up, `ctx.cancelled` turns true,
and the thread goes on until it looks. It is left to itself then, and others take the next attempts: those would wait
for it, and end at their own deadlines without having begun.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import platform
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Final

import msgspec
import pydantic
from pydantic_core import PydanticSerializationError

from windlass.runtimes import failures
from windlass.runtimes.json_text import not_json
from windlass.runtimes.port import Activation, Completion, Extension, Failure, TaskKey, TrustedNote, Usage, failed
from windlass.runtimes.python_context import Deadline, TaskCancelled, TaskContext, TaskFailure
from windlass.runtimes.python_handlers import Handler, HandlerRegistry

VERSION: Final = f"python {platform.python_version()}"
#: How the names of the threads begin in which synchronous handlers run.
THREADS_NAME: Final = "windlass-handler"
#: Threads left to themselves beyond which no others take their place: a handler hangs each time, and would fill memory.
LEFT_MAX: Final = 256
#: The files through which every handler is called.
_OURS: Final = frozenset({__file__, concurrent.futures.thread.__file__})
_PROBLEMS_SHOWN: Final = 5
_STACK_CHARACTERS: Final = 8_000


class PythonHandlers:
    """Runs activations of the runtime "python". `threads`: synchronous handlers at the same time."""

    name = "python"
    version = VERSION

    def __init__(self, registry: HandlerRegistry, threads: int = 8) -> None:
        self.registry = registry
        self._new_threads = partial(ThreadPoolExecutor, threads, thread_name_prefix=THREADS_NAME)
        self._threads = self._new_threads()
        self._left: set[Future[Any]] = set()  #: what still runs though its attempt is over
        self._running: dict[TaskKey, tuple[asyncio.Task[Completion], TaskContext]] = {}

    def submit(
        self, activation: Activation, on_note: Callable[[TrustedNote], None] | None = None
    ) -> asyncio.Future[Completion]:
        """Run one attempt; the future always gets a completion. Cancelling the future cancels the attempt."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Completion] = loop.create_future()
        deadline = Deadline()

        def hear(note: TrustedNote) -> None:
            if isinstance(note, Extension):
                deadline.put_off(note.span_us)
            if on_note is not None:
                on_note(note)

        def tell(note: TrustedNote) -> None:
            loop.call_soon_threadsafe(hear, note)

        # The context knows these two, so neither may know it: each task would leave a circle to the garbage collector.
        context = TaskContext(activation, tell, deadline)
        task = loop.create_task(self._run(activation, context))
        self._running[activation.task.key] = task, context
        task.add_done_callback(partial(self._ended, activation.task.key, answer))
        answer.add_done_callback(lambda done: self._give_up(task, context) if done.cancelled() else None)
        return answer

    async def run(self, activation: Activation, on_note: Callable[[TrustedNote], None] | None = None) -> Completion:
        """Run one attempt. Never raises."""
        return await self.submit(activation, on_note)

    def cancel(self, key: TaskKey, reason: str = "cancelled") -> bool:
        """Interrupt an attempt. False when it is not here (any more)."""
        running = self._running.get(key)
        if running is None:
            return False
        self._give_up(*running)
        return True

    async def close(self) -> None:
        """Cancel what runs. Threads that do not look at `ctx.cancelled` go on; a process that ends waits for them."""
        running = list(self._running.values())
        for task, context in running:
            self._give_up(task, context)
        await asyncio.gather(*(task for task, _ in running), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _give_up(self, task: asyncio.Task[Completion], context: TaskContext) -> None:
        context.mark_cancelled()
        task.cancel()

    def _ended(self, key: TaskKey, answer: asyncio.Future[Completion], task: asyncio.Task[Completion]) -> None:
        if (running := self._running.get(key)) is not None and running[0] is task:  # else the attempt came back
            del self._running[key]
        if not answer.done():
            cancelled = failed(failures.CANCELLED, "cancelled")
            answer.set_result(cancelled if task.cancelled() else task.result())

    async def _run(self, activation: Activation, context: TaskContext) -> Completion:
        began = time.monotonic_ns()
        handler = self.registry.get(activation.entry)
        if handler is None:
            known = ", ".join(sorted(one.type for one in self.registry)) or "none"
            completion = failed(
                failures.HANDLER_MISSING, f"no handler {activation.entry!r} on this worker; it has: {known}"
            )
        else:
            completion = await self._attempt(handler, activation, context)
        usage = Usage(wall_us=(time.monotonic_ns() - began) // 1000)
        return msgspec.structs.replace(
            completion,
            logs=tuple(context.logs),
            logs_lost=context.logs_lost,
            progress=tuple(context.progress_reports),
            checkpoint=context.left_checkpoint,
            usage=usage,
            runtime=VERSION,
            denials=context.denials.all(),
        )

    async def _attempt(self, handler: Handler, activation: Activation, context: TaskContext) -> Completion:
        try:
            given = _arguments(handler, activation, context)
        except _Unfit as error:
            return failed(failures.BAD_INPUT, str(error))
        except BaseException as error:  # noqa: BLE001 - of a validator of the author's
            return _raised(error)
        began_s = asyncio.get_running_loop().time()
        timeout = asyncio.timeout_at(began_s + activation.limits.wall_us / 1e6)
        try:
            async with timeout:
                context.deadline.timeout = timeout
                try:
                    value = await self._call(handler, given)
                finally:
                    context.deadline.timeout = None
            output = handler.output.dump_json(_fitted("result", handler.output.validate_python, value))
        except TaskFailure as error:
            return Completion(failure=error.failure)
        except TimeoutError as error:
            if not timeout.expired():
                return _raised(error)
            context.mark_cancelled()
            allowed_ms = ((timeout.when() or began_s) - began_s) * 1000
            return failed(failures.TIMEOUT, f"no end after {round(allowed_ms, 1):g} ms")
        except _Unfit as error:
            return failed(failures.BAD_OUTPUT, str(error))
        except PydanticSerializationError as error:
            return failed(failures.BAD_OUTPUT, f"the result cannot be written as JSON: {error}")
        except TaskCancelled:
            return failed(failures.CANCELLED, "the handler saw that it was cancelled")
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its attempt's failure: SystemExit
            return _raised(error)  # would end the loop, and with it the worker; others would leave no answer
        return _success(output, activation, context)

    async def _call(self, handler: Handler, given: dict[str, Any]) -> Any:
        if handler.is_async:
            return await handler.function(**given)
        call = self._threads.submit(_in_thread, partial(handler.function, **given))
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            if call.running():
                self._leave(call)
            raise

    def _leave(self, call: Future[Any]) -> None:
        """Nobody waits for this call any more: the thread that it is in is no longer one of ours."""
        self._left.add(call)
        call.add_done_callback(self._left.discard)
        if len(self._left) <= LEFT_MAX:
            self._threads.shutdown(wait=False)  # its other threads end when they have done what they are at
            self._threads = self._new_threads()


def _in_thread(call: Callable[[], Any]) -> Any:
    """No future takes a StopIteration, as from `next` of what is empty: whoever waits for it would wait on."""
    try:
        return call()
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error


def _arguments(handler: Handler, activation: Activation, context: TaskContext) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if "input" in handler.parameters:
        given["input"] = _fitted("input", handler.input.validate_json, activation.input)
    if "config" in handler.parameters:
        given["config"] = _fitted("config", handler.config.validate_json, activation.config)
    if "ctx" in handler.parameters:
        given["ctx"] = context
    return given


class _Unfit(Exception):
    """The input, the config or the result is not what the handler's annotations say."""


def _fitted(what: str, validate: Callable[[Any], Any], value: object) -> Any:
    """Tell what does not fit apart, and from a ValidationError of the handler's own, which is its failure."""
    try:
        return validate(value)
    except pydantic.ValidationError as error:
        raise _Unfit(_validation_message(what, error)) from error


def _validation_message(what: str, error: pydantic.ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    told = [
        f"{'.'.join(map(str, problem['loc'])) or 'the value'}: {problem['msg']}"
        for problem in problems[:_PROBLEMS_SHOWN]
    ]
    more = len(problems) - len(told)
    return f"the {what} does not fit: " + "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _raised(error: BaseException) -> Completion:
    told = traceback.format_exception(type(error), error, _authors(error.__traceback__))
    stack = "".join(told)[-_STACK_CHARACTERS:]
    try:
        message = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - its author's, too
        message = f"{type(error).__name__}, whose text cannot be had"
    return Completion(failure=Failure(failures.USER_ERROR, message, stack))


def _authors(raised_at: TracebackType | None) -> TracebackType | None:
    """The stack from the handler on: how it came to be called says nothing to its author."""
    own = raised_at
    while own is not None and own.tb_frame.f_code.co_filename in _OURS:
        own = own.tb_next
    return own or raised_at


def _success(output: bytes, activation: Activation, context: TaskContext) -> Completion:
    limit = activation.limits.output_bytes
    if len(output) > limit:
        return failed(failures.OUTPUT_TOO_LARGE, f"the result is {len(output)} bytes; the limit is {limit}")
    if wrong := not_json(output):
        return failed(failures.BAD_OUTPUT, f"the result is {wrong}")
    return Completion(output=output, patch=context.patch, asks=tuple(context.asks))
