"""What workers report, from the wire into the engine's words, whichever way it came.

What a worker of any language may get wrong in one report stays with that report: a token that no engine made is refused
by itself, a value that cannot be fails its own attempt. The neighbours in the message, and the stream, go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from windlass.engine.clock import Clock
from windlass.engine.connected import Held
from windlass.engine.core import commands as cmd
from windlass.engine.errors import EngineError
from windlass.engine.leases import Report, parse_token
from windlass.engine.notices import Notices
from windlass.engine.service import convert
from windlass.engine.service.status import to_status
from windlass.engine.unit import DEADLINE_SLACK_US
from windlass.engine.work import TaskKey
from windlass.v1 import worker_service_pb2 as pb

Named = TypeVar("Named", pb.TaskResult, pb.TaskRelease, pb.TaskHeartbeat)


def known(given: Iterable[Named]) -> tuple[list[Named], list[pb.RejectedTask]]:
    """Those whose token an engine made, and the others, refused each by itself."""
    good: list[Named] = []
    bad: list[pb.RejectedTask] = []
    for each in given:
        try:
            parse_token(each.task_token)
            good.append(each)
        except EngineError as error:
            bad.append(pb.RejectedTask(task_token=each.task_token, error=to_status(error)))
    return good, bad


def result_in(result: pb.TaskResult, clock: Clock) -> tuple[TaskKey, Report]:
    """A result as a report. Raises EngineError BAD_TASK_TOKEN."""
    task = parse_token(result.task_token)
    _, _, visit, path, epoch = task
    logs = convert.logs_in(result.logs) if result.logs else ()
    usage = convert.usage_in(result.usage) if result.HasField("usage") else {}
    denials = convert.denials_in(result.denials) if result.denials else ()
    asks, failure = _asks_in(result)
    if result.WhichOneof("outcome") == "failure":
        failure = convert.failure_in(result.failure)
    if failure is not None:
        jitter = clock.random.random()
        return task, cmd.TaskFailed(
            path=path,
            visit=visit,
            epoch=epoch,
            failure=failure,
            asks=asks,
            jitter=jitter,
            usage=usage,
            logs=logs,
            denials=denials,
        )
    output = result.output or b"null"
    return task, cmd.TaskSucceeded(
        path=path, visit=visit, epoch=epoch, output=output, asks=asks, usage=usage, logs=logs, denials=denials
    )


def _asks_in(result: pb.TaskResult) -> tuple[cmd.Asks | None, cmd.Failure | None]:
    """What it asks for besides; or, if a value in it cannot be, that as the attempt's failure."""
    try:
        return convert.asks_in(result), None
    except EngineError as error:
        return None, cmd.Failure("INVALID_ASK", str(error), retryable=False)


def beats_in(
    beats: Iterable[pb.TaskHeartbeat], held: Mapping[TaskKey, Held], notices: Notices, now_us: int
) -> tuple[list[tuple[TaskKey, Report]], list[tuple[bytes, str]]]:
    """Take signs of life: what is to be recorded of them; tokens of tasks that the worker has not, and why."""
    reports: list[tuple[TaskKey, Report]] = []
    good, bad = known(beats)
    lost = [(each.task_token, each.error.message) for each in bad]
    for beat in good:
        task = parse_token(beat.task_token)
        if task not in held:
            lost.append((beat.task_token, "lost"))
            continue
        held[task].heard(now_us)
        if beat.progress:
            notices.progressed(task, beat.progress, now_us)
        if beat.checkpoint:
            command = cmd.TaskHeartbeat(path=task[3], visit=task[2], epoch=task[4], checkpoint=beat.checkpoint)
            reports.append((task, command))
        if beat.HasField("extension"):
            until_us = now_us + convert.cut_span_us(beat.extension) + DEADLINE_SLACK_US
            reports.append((task, cmd.TaskExtended(path=task[3], visit=task[2], epoch=task[4], lease_us=until_us)))
    return reports, lost


def release_in(release: pb.TaskRelease, clock: Clock) -> tuple[TaskKey, Report]:
    """A lease given back, as a report. Raises EngineError BAD_TASK_TOKEN."""
    task = parse_token(release.task_token)
    return task, cmd.TaskReturned(
        path=task[3],
        visit=task[2],
        epoch=task[4],
        crashed=release.reason == pb.RELEASE_REASON_CRASHED,
        unable=release.reason == pb.RELEASE_REASON_UNABLE,
        interrupted=release.reason == pb.RELEASE_REASON_INTERRUPTED,
        reason=release.message,
        jitter=clock.random.random(),
    )
