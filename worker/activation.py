"""Between the wire and the runtimes: a Task becomes an Activation, a Completion becomes an answer."""

from __future__ import annotations

import msgspec

from windlass.runtimes import failures, port
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as wire

#: What is told of a progress message, so that as JSON it stays below what the engine keeps of one report.
PROGRESS_CHARACTERS = 1500
#: What a slot adds for framing is not the author's: the wall limit is never asked to be shorter than this.
SHORTEST_WALL_US = 1_000


def activation_of(task: wire.Task, code: bytes, *, waited_s: float, now_us: int, output_bytes: int) -> port.Activation:
    """Return what a slot needs to run `task`.

    `waited_s`: how long the task waited in this worker; the engine's timeout counts from when it sent the task.
    `now_us`: wall clock, for tasks that are not deterministic. `output_bytes`: the engine's cap; 0 = none.
    """
    deterministic = task.limits.deterministic
    return port.Activation(
        task=identity_of(task),
        runtime=task.runtime,
        code=code,
        digest=task.module_digest,
        entry=task.handler,
        input=task.input or b"null",
        config=task.config or b"{}",
        context=context_of(task),
        limits=_limits_of(task, waited_s, output_bytes),
        deterministic=deterministic,
        start_us=task.open_time.ToMicroseconds() if deterministic else now_us,
        grants=tuple(task.limits.grants),
        checkpoint=task.checkpoint or None,
        resume=task.resume or None,
    )


def identity_of(task: wire.Task) -> port.TaskIdentity:
    """Return what the task's code may know about where it runs."""
    return port.TaskIdentity(
        namespace=task.namespace,
        run_id=task.run_id,
        definition=task.workflow,
        state=task.state,
        visit=task.visit,
        path=task.path,
        attempt=task.attempt,
        idempotency_key=f"{task.run_id}:{task.visit}:{task.path}",
        max_attempts=task.max_attempts,
    )


def context_of(task: wire.Task) -> bytes:
    """Join the context's values, which are JSON texts, into one JSON object without parsing them.

    In the order of their names: a message gives them in another one in every process, and modules can read the text.
    """
    if not task.context:
        return b"{}"
    return (
        b"{"
        + b",".join(msgspec.json.encode(key) + b":" + (task.context[key] or b"null") for key in sorted(task.context))
        + b"}"
    )


def _limits_of(task: wire.Task, waited_s: float, output_bytes: int) -> port.Limits:
    given = task.limits
    chosen: dict[str, int] = {}
    if task.HasField("timeout"):
        chosen["wall_us"] = max(SHORTEST_WALL_US, task.timeout.ToMicroseconds() - round(waited_s * 1e6))
    if given.memory_bytes:
        chosen["memory_bytes"] = given.memory_bytes
    if given.fuel:
        chosen["fuel"] = given.fuel
    if given.log_lines:
        chosen["log_lines"] = given.log_lines
    if given.stack_bytes:
        chosen["stack_bytes"] = given.stack_bytes
    if given.HasField("cpu"):
        chosen["cpu_us"] = given.cpu.ToMicroseconds()
    if given.log_bytes:
        chosen["log_bytes"] = given.log_bytes
    wanted = given.output_bytes or port.Limits().output_bytes
    chosen["output_bytes"] = min(wanted, output_bytes) if output_bytes else wanted
    return port.Limits(**chosen)


def answer_of(task: wire.Task, completion: port.Completion) -> wire.TaskResult | wire.TaskRelease:
    """Return what to tell the engine.

    A sandbox that died (twice: the slot pool tries once more by itself) is given back as a crash, not reported as a
    failure: crashes have a cap of their own that ends in an incident, whatever the retry policy says.
    """
    token = task.task_token
    if completion.failure is not None:
        if completion.failure.code == failures.SANDBOX_CRASHED and not completion.failure.authored:
            reason = wire.RELEASE_REASON_CRASHED
            return wire.TaskRelease(task_token=token, reason=reason, message=completion.failure.message)
        result = wire.TaskResult(task_token=token, failure=_failure_of(completion.failure))
    else:
        result = wire.TaskResult(task_token=token, output=completion.output, context_patch=completion.patch)
        if completion.asks:
            put_asks(result.asks, completion.asks)
    _put_account(result, completion)
    return result


def failed(task: wire.Task, code: str, message: str) -> wire.TaskResult:
    """Return a failure with one of our own codes, for a task that never reached a slot."""
    return wire.TaskResult(
        task_token=task.task_token,
        failure=common_pb2.Failure(
            code=code, message=message, retryable=False if code in failures.NOT_RETRYABLE else None
        ),
    )


def note_of(token: bytes, note: port.TrustedNote) -> wire.TaskHeartbeat | None:
    """Return what the engine is told while the task runs; None for log lines, which go with the result."""
    match note:
        case port.Progress(fraction, message):
            # A handler's text may hold half of a surrogate pair, as from a file's name: no JSON can.
            text = message[:PROGRESS_CHARACTERS].encode("utf-8", "replace").decode()
            progress = msgspec.json.encode({"fraction": fraction, "message": text})
            return wire.TaskHeartbeat(task_token=token, progress=progress)
        case port.Heartbeat(checkpoint):
            return wire.TaskHeartbeat(task_token=token, checkpoint=checkpoint or b"")
        case port.Extension(span_us):
            extended = wire.TaskHeartbeat(task_token=token)
            extended.extension.FromMicroseconds(span_us)
            return extended
        case port.LogLine():
            return None


def notes_left(completion: port.Completion) -> list[port.Note]:
    """Return what the engine should hear before the answer, from code that cannot be heard while it runs (JavaScript).

    A checkpoint is for the next attempt, so it is left out where there will be none.
    """
    notes: list[port.Note] = list(completion.progress[-1:])
    if completion.failure is not None and completion.checkpoint is not None:
        notes.append(port.Heartbeat(completion.checkpoint))
    return notes


def put_asks(asks: wire.TaskAsks, wanted: tuple[port.Ask, ...]) -> None:
    """Write down what the code asked for besides its result."""
    for ask in wanted:
        match ask:
            case port.Route(name):
                asks.route = name
            case port.Spawn(workflow, value, id, detached):
                asks.spawns.add(workflow=workflow, input=value, workflow_id=id, detach=detached)
            case port.WaitFor(signals, mode, timeout_us):
                asks.wait_for.extend(signals)
                asks.wait_any = mode == "any"
                if timeout_us is not None:
                    asks.wait_timeout.FromMicroseconds(timeout_us)
            case port.Suspend(state, after_us):
                asks.suspend = state
                if after_us is not None:
                    asks.suspend_for.FromMicroseconds(after_us)
            case port.Escalate():
                asks.escalate = _escalation_of(ask)


def _escalation_of(ask: port.Escalate) -> bytes:
    wanted: dict[str, object] = {"to": ask.to, "message": ask.message, "inputs": msgspec.Raw(ask.inputs)}
    if ask.timeout_us is not None:
        wanted["timeout"] = f"{ask.timeout_us / 1e6:.6f}".rstrip("0").rstrip(".") + "s"
    return msgspec.json.encode(wanted)


def _failure_of(failure: port.Failure) -> common_pb2.Failure:
    told = common_pb2.Failure(
        code=failure.code, message=failure.message, stack=failure.stack, retryable=failure.retryable
    )
    if failure.details != b"null":
        told.details = failure.details
    if failure.next_delay_us is not None:
        told.next_delay.FromMicroseconds(failure.next_delay_us)
    return told


def _put_account(result: wire.TaskResult, completion: port.Completion) -> None:
    """Logs, denials and usage. Left out where there is nothing to say: this is on the path of every task."""
    for line in completion.logs:
        result.logs.add(level=line.level, message=line.message, metadata=line.metadata)
    if completion.logs_lost:
        result.logs.add(level="warn", message=f"{completion.logs_lost} more log lines were over the limit and are lost")
    for denial in completion.denials:
        result.denials.add(kind=denial.kind, call=denial.call, argument=denial.argument, count=denial.count)
    usage = completion.usage
    if usage.wall_us:
        result.usage.wall_time.FromMicroseconds(usage.wall_us)
    if usage.cpu_us:
        result.usage.cpu_time.FromMicroseconds(usage.cpu_us)
    if usage.peak_memory_bytes:
        result.usage.memory_bytes = usage.peak_memory_bytes
    if usage.fuel:
        result.usage.fuel = usage.fuel
