"""The process in which task code runs: `python -I -m windlass.runtimes.child`, started by `jail_slot`, one per slot.

It reads what to be (Hello), imports the runtimes, locks itself in, says so (Ready), and then runs what it is given
until its standard input ends. It knows no address, no token and no file; code comes through the pipe and is kept in
memory under its digest. It is expected to die at any moment: everything it holds, somebody else has.
"""

from __future__ import annotations

import gc
import importlib
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from windlass.runtimes import failures
from windlass.runtimes.jail_frames import (
    Check,
    Checked,
    ChildPipe,
    Done,
    Drop,
    Hello,
    Job,
    Keep,
    Noted,
    Prepare,
    Prepared,
    Ready,
    Recall,
    Recalled,
    Run,
    RuntimeInfo,
    ToChild,
)
from windlass.runtimes.jail_isolation import lock_down
from windlass.runtimes.memory_mark import open_marks
from windlass.runtimes.port import BadCode, Completion, Note, Runtime, failed

#: Name of a runtime → where its class is. Imported in the child only, and only those that were asked for.
RUNTIMES: Final = {
    "javascript": "windlass.runtimes.javascript:JavaScript",
    "wasm": "windlass.runtimes.wasm:Wasm",
}
#: Beyond the CPU limit of a task the engine's own limits should have ended it; SIGXCPU is for when they did not.
_CPU_GRACE_SECONDS: Final = 5


class Child:
    """The loop of one child: one message after the other, never more than one task at a time."""

    def __init__(self, pipe: ChildPipe, runtimes: Mapping[str, Runtime]) -> None:
        self._pipe = pipe
        self._runtimes = runtimes
        self._kept: dict[str, bytes] = {}
        self._jobs: list[Job] = []

    def serve(self) -> None:
        """Work until the worker closes the pipe."""
        while (message := self._next()) is not None:
            self._take(message)
            while self._jobs:
                self._run(self._jobs.pop(0))
                while self._jobs and self._pipe.has_more():
                    following = self._pipe.receive()
                    if following is None:
                        return
                    self._take(following)

    def _next(self) -> ToChild | None:
        if not self._pipe.has_more():
            for runtime in self._runtimes.values():
                runtime.rest()
        return self._pipe.receive()

    def _take(self, message: ToChild) -> None:
        match message:
            case Run(jobs):
                self._jobs += jobs
            case Keep(name, data):
                self._kept[name] = data
            case Drop(name):
                self._kept.pop(name, None)
            case Recall(numbers):
                recalled = tuple(job.number for job in self._jobs if job.number in numbers)
                self._jobs = [job for job in self._jobs if job.number not in numbers]
                self._pipe.send(Recalled(recalled))
            case Check():
                runtime = self._runtimes[message.runtime]
                self._pipe.send(Checked(message.number, runtime.check(message.code)))
            case Prepare():
                self._prepare(message)
            case Hello():
                raise ValueError("a second Hello")

    def _prepare(self, message: Prepare) -> None:
        _limit_space(message.space_bytes)
        try:
            data = self._runtimes[message.runtime].prepare(message.code, message.flavour)
        except BadCode as error:
            self._pipe.send(Checked(message.number, error.problems))
        else:
            self._pipe.send(Prepared(message.number, data))
        finally:
            _limit_space(0)

    def _run(self, job: Job) -> None:
        activation = job.activation
        runtime = self._runtimes.get(activation.runtime)
        code = self._kept.get(activation.digest)
        if runtime is None:
            self._pipe.send(Done(job.number, _unsupported(activation.runtime)))
            return
        if code is None or (runtime.prepares and job.prepared not in self._kept):
            completion = failed(failures.MODULE_MISSING, f"the code {activation.digest} is not in this child")
            self._pipe.send(Done(job.number, completion))
            return
        _limit_cpu(activation.limits.cpu_us or activation.limits.wall_us)
        whole = msgspec.structs.replace(activation, code=code)

        def report(note: Note) -> None:
            self._pipe.send(Noted(job.number, note))

        self._pipe.send(Done(job.number, runtime.activate(whole, self._kept.get(job.prepared, b""), report)))


def _unsupported(name: str) -> Completion:
    hint = " TypeScript is not supported yet: compile it to JavaScript." if name == "typescript" else ""
    return failed(failures.RUNTIME_UNSUPPORTED, f"this worker has no runtime called {name!r}.{hint}")


def _limit_cpu(task_us: int) -> None:
    soft = int(time.process_time() + task_us / 1e6) + _CPU_GRACE_SECONDS
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _limit_space(most_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = most_bytes if most_bytes and (hard == resource.RLIM_INFINITY or most_bytes < hard) else hard
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _load(name: str, where: str) -> tuple[Runtime | None, RuntimeInfo]:
    module, _, attribute = where.partition(":")
    try:
        factory: Callable[[], Runtime] = getattr(importlib.import_module(module), attribute)
        runtime = factory()
    except ImportError as error:
        return None, RuntimeInfo(name, "", False, f"cannot be imported: {error}")
    return runtime, RuntimeInfo(name, runtime.version, runtime.prepares)


def _private_pipe() -> ChildPipe:
    """Take standard input and output for the frames, and leave in their place what nobody minds being written to."""
    read_fd, write_fd = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return ChildPipe(read_fd, write_fd)


def main(places: Mapping[str, str] = RUNTIMES) -> None:
    """Be a child. `places`: the runtimes that may be asked for (tests add some)."""
    pipe = _private_pipe()
    hello = pipe.receive()
    if not isinstance(hello, Hello) or os.getppid() != hello.parent_pid:
        return
    time.tzset()
    open_marks()
    loaded = [_load(name, places[name]) for name in hello.runtimes if name in places]
    runtimes = {runtime.name: runtime for runtime, _ in loaded if runtime is not None}

    def warm_up() -> None:
        for runtime in runtimes.values():
            runtime.warm_up()
        gc.collect()
        gc.freeze()

    layers = lock_down(hello.address_space_bytes, warm_up)
    pipe.send(Ready(layers, tuple(info for _, info in loaded)))
    Child(pipe, runtimes).serve()


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(0)  # the worker is gone; there is nobody to tell
