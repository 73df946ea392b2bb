"""A leased task as the worker's message. Hot: sent once per attempt, so only what is not default is filled in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from google.protobuf.duration_pb2 import Duration

from windlass.engine.connected import Assignment
from windlass.engine.core.commands import Failure, TaskFailed
from windlass.engine.core.definition import Limits
from windlass.engine.leases import token_of
from windlass.engine.modules import bare
from windlass.engine.service import convert
from windlass.engine.work import TaskKey
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb

_DEFAULT = Limits()

#: What a worker is to do with a task that it must stop, by the engine's word for why. Any other: its lease is good.
_STOPS: Final = {"lost": pb.CANCEL_REASON_LOST, "timed_out": pb.CANCEL_REASON_TIMED_OUT}

#: Tasks in one message to a worker, and their bytes together: gRPC refuses larger messages, which ends the stream.
TASKS_MAX: Final = 100
TASKS_BYTES: Final = 3 << 20
#: A single task that is larger than this is not sent at all: no worker takes such a message.
TASK_BYTES_MAX: Final = 32 << 20


def next_tasks(
    waiting: deque[Assignment], refused: Callable[[Assignment, Failure], None], most: int = TASKS_MAX
) -> list[pb.Task]:
    """As many of the waiting tasks as one message holds, up to `most`, and at least one; they are taken from `waiting`.

    A task that fits into no message is given to `refused`, with the failure of its attempt.
    """
    taken: list[pb.Task] = []
    size = 0
    while waiting and len(taken) < most:
        message = task_message(waiting[0])
        bytes_more = message.ByteSize()
        if taken and size + bytes_more > TASKS_BYTES:
            break
        assignment = waiting.popleft()
        if bytes_more > TASK_BYTES_MAX:
            refused(assignment, _too_large(bytes_more))
            continue
        taken.append(message)
        size += bytes_more
    return taken


def task_cancel(task: TaskKey, reason: str) -> pb.TaskCancel:
    """The message that stops a task, whichever way it goes to its worker."""
    kind = _STOPS.get(reason, pb.CANCEL_REASON_CANCELLED)
    return pb.TaskCancel(task_token=token_of(task), reason=kind, message=reason)


def failed_unsent(assignment: Assignment, failure: Failure) -> tuple[TaskKey, TaskFailed]:
    """The report on an attempt that never reached its worker."""
    _, _, visit, path, epoch = assignment.task
    return assignment.task, TaskFailed(path=path, visit=visit, epoch=epoch, failure=failure)


def _too_large(size: int) -> Failure:
    message = f"the task with its input and context has {size:,} bytes, {TASK_BYTES_MAX:,} can be sent to a worker"
    return Failure("INPUT_TOO_LARGE", message, retryable=False)


@lru_cache(maxsize=1024)
def _span(span_us: int) -> Duration | None:
    """Most tasks have one of a few timeouts. Only for reading: the message is shared."""
    return convert.duration(span_us) if span_us else None


def task_message(assignment: Assignment) -> pb.Task:
    """The Task message of an assignment."""
    a, run = assignment.activation, assignment.run
    ns, run_id, visit, path, _ = assignment.task
    message = pb.Task(
        task_token=token_of(assignment.task),
        run_id=run_id,
        namespace=ns,
        workflow=run.workflow,
        workflow_id=run.workflow_id,
        state=run.state,
        visit=visit,
        path=path,
        attempt=a.attempt,
        runtime=a.runtime,
        module_digest=bare(a.digest),
        handler=a.handler,
        input=a.input,
        config=a.config,
        context=a.context,
        checkpoint=a.checkpoint,
        resume=a.resume,
        open_time=convert.timestamp(assignment.opened_us),
        timeout=_span(a.timeouts.start_to_close_us or 0),
        heartbeat_timeout=_span(a.timeouts.heartbeat_us or 0),
    )
    limits = a.limits
    if limits is not _DEFAULT and limits != _DEFAULT:
        message.limits.CopyFrom(
            common_pb2.TaskLimits(
                memory_bytes=limits.memory_bytes or 0,
                fuel=limits.fuel or 0,
                output_bytes=limits.output_bytes or 0,
                log_lines=limits.log_lines or 0,
                deterministic=limits.deterministic,
                grants=limits.grants,
                stack_bytes=limits.stack_bytes or 0,
                cpu=_span(limits.cpu_us or 0),
                log_bytes=limits.log_bytes or 0,
            )
        )
    return message
