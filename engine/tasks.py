"""A leased task as the worker's message. Hot: sent once per attempt, so only what is not default is filled in."""

from __future__ import annotations

from windlass.engine.core.definition import Limits
from windlass.engine.dispatch import Assignment
from windlass.engine.leases import token_of
from windlass.engine.modules import bare
from windlass.engine.service import convert
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as pb

_DEFAULT = Limits()


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
    )
    if a.timeouts.start_to_close_us:
        message.timeout.CopyFrom(convert.duration(a.timeouts.start_to_close_us))
    if a.timeouts.heartbeat_us:
        message.heartbeat_timeout.CopyFrom(convert.duration(a.timeouts.heartbeat_us))
    limits = a.limits
    if limits is not _DEFAULT and limits != _DEFAULT:
        message.limits.CopyFrom(
            common_pb2.TaskLimits(
                memory_bytes=limits.memory_bytes or 0,
                fuel=limits.fuel or 0,
                output_bytes=limits.output_bytes or 0,
                log_lines=limits.log_lines or 0,
                deterministic=limits.deterministic,
            )
        )
    return message
