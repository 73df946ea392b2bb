"""The two translations: nothing that a task, a run or a runtime says is lost on the way."""

from __future__ import annotations

import json

from google.protobuf import duration_pb2

from windlass.runtimes import failures, port
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.activation import activation_of, answer_of, failed, note_of, notes_left


def task(**fields: object) -> wire.Task:
    base = {
        "task_token": b"t",
        "run_id": "r",
        "namespace": "n",
        "workflow": "w",
        "state": "s",
        "visit": 3,
        "attempt": 2,
    }
    return wire.Task(**{**base, **fields})  # type: ignore[arg-type]


def activation(given: wire.Task, *, waited_s: float = 0.0, output_bytes: int = 0) -> port.Activation:
    return activation_of(given, b"code", waited_s=waited_s, now_us=1_000, output_bytes=output_bytes)


def test_an_empty_task_has_values_that_are_json() -> None:
    made = activation(task())
    assert (made.input, made.config, made.context) == (b"null", b"{}", b"{}")
    assert made.checkpoint is None
    assert made.resume is None


def test_context_values_are_joined_unparsed_and_keys_are_escaped() -> None:
    made = activation(task(context={'a"b\\\n': b'{"x": 1.10}', "é": b""}))
    assert json.loads(made.context) == {'a"b\\\n': {"x": 1.1}, "é": None}
    assert b"1.10" in made.context


def test_context_values_come_in_the_same_order_everywhere() -> None:
    names = [f"name {number:02}" for number in range(32)]
    made = activation(task(context=dict.fromkeys(reversed(names), b"1")))
    assert list(json.loads(made.context)) == names


def test_the_idempotency_key_is_the_same_for_every_attempt() -> None:
    keys = {activation(task(path="a/#3", attempt=attempt)).task.idempotency_key for attempt in (1, 2, 9)}
    assert keys == {"r:3:a/#3"}


def test_time_spent_waiting_in_the_worker_counts() -> None:
    given = task(timeout=duration_pb2.Duration(seconds=5))
    assert activation(given, waited_s=1.5).limits.wall_us == 3_500_000
    assert activation(given, waited_s=9.0).limits.wall_us > 0


def test_limits_are_the_tasks_capped_by_the_engines() -> None:
    limits = common_pb2.TaskLimits(memory_bytes=1 << 20, fuel=7, output_bytes=5000, log_lines=3, grants=["clock"])
    made = activation(task(limits=limits), output_bytes=1000)
    assert (made.limits.memory_bytes, made.limits.fuel, made.limits.output_bytes) == (1 << 20, 7, 1000)
    assert made.limits.log_lines == 3
    assert made.grants == ("clock",)
    assert activation(task()).limits == port.Limits()


def test_stack_cpu_and_log_bytes_are_the_tasks() -> None:
    cpu = duration_pb2.Duration(seconds=2)
    made = activation(task(limits=common_pb2.TaskLimits(stack_bytes=70_000, cpu=cpu, log_bytes=10)))
    assert (made.limits.stack_bytes, made.limits.cpu_us, made.limits.log_bytes) == (70_000, 2_000_000, 10)


def test_a_deterministic_task_sees_the_same_time_in_every_attempt() -> None:
    given = task(limits=common_pb2.TaskLimits(deterministic=True))
    given.open_time.FromMicroseconds(777)
    assert activation(given).start_us == 777
    assert activation(task()).start_us == 1_000


def test_everything_that_code_can_ask_for_arrives() -> None:
    asks = (
        port.Spawn("child", b'{"a":1}', "id", True),
        port.WaitFor(("x", "y"), "all", 1_500_000),
        port.Escalate("alice", "ok?", b'[{"id":"why"}]', 90_500_000),
        port.Suspend(b'{"at":1}', 2_000_000),
        port.Route("left"),
    )
    result = answer_of(task(), port.Completion(output=b"1", patch={"k": b"2"}, asks=asks))
    assert isinstance(result, wire.TaskResult)
    told = result.asks
    assert [(spawn.workflow, spawn.input, spawn.workflow_id, spawn.detach) for spawn in told.spawns] == [
        ("child", b'{"a":1}', "id", True)
    ]
    assert (list(told.wait_for), told.wait_any, told.wait_timeout.ToMicroseconds()) == (["x", "y"], False, 1_500_000)
    assert json.loads(told.escalate) == {"to": "alice", "message": "ok?", "inputs": [{"id": "why"}], "timeout": "90.5s"}
    assert (told.suspend, told.suspend_for.ToMicroseconds(), told.route) == (b'{"at":1}', 2_000_000, "left")
    assert dict(result.context_patch) == {"k": b"2"}


def test_a_failure_keeps_all_it_has() -> None:
    failure = port.Failure("CARD_DECLINED", "no", "at 1", b'{"bank":1}', False, 5_000_000, True)
    usage = port.Usage(wall_us=10, cpu_us=20, fuel=30, peak_memory_bytes=40)
    result = answer_of(task(), port.Completion(failure=failure, usage=usage, logs_lost=2))
    assert isinstance(result, wire.TaskResult)
    told = result.failure
    assert (told.code, told.message, told.stack, told.details) == ("CARD_DECLINED", "no", "at 1", b'{"bank":1}')
    assert told.HasField("retryable")
    assert not told.retryable
    assert told.next_delay.ToMicroseconds() == 5_000_000
    assert (result.usage.wall_time.ToMicroseconds(), result.usage.cpu_time.ToMicroseconds()) == (10, 20)
    assert (result.usage.fuel, result.usage.memory_bytes) == (30, 40)
    assert "2 more" in result.logs[0].message


def test_a_dead_sandbox_is_given_back_as_a_crash_unless_the_author_only_said_so() -> None:
    crashed = answer_of(task(), port.failed(failures.SANDBOX_CRASHED, "SIGSEGV"))
    assert isinstance(crashed, wire.TaskRelease)
    assert crashed.reason == wire.RELEASE_REASON_CRASHED
    authored = port.Failure(failures.SANDBOX_CRASHED, "", authored=True)
    assert isinstance(answer_of(task(), port.Completion(failure=authored)), wire.TaskResult)


def test_our_own_failures_say_whether_trying_again_can_help() -> None:
    assert not failed(task(), failures.MODULE_MISSING, "").failure.HasField("retryable")
    unsupported = failed(task(), failures.RUNTIME_UNSUPPORTED, "").failure
    assert unsupported.HasField("retryable")
    assert not unsupported.retryable


def test_notes_become_heartbeats_and_log_lines_wait_for_the_result() -> None:
    progress = note_of(b"t", port.Progress(0.5, "half"))
    assert progress is not None
    assert json.loads(progress.progress) == {"fraction": 0.5, "message": "half"}
    wordy = note_of(b"t", port.Progress(0.5, "\1" * 200_000))
    assert wordy is not None
    assert len(wordy.progress) < 10_000
    checkpoint = note_of(b"t", port.Heartbeat(b"[1]"))
    assert checkpoint is not None
    assert checkpoint.checkpoint == b"[1]"
    assert note_of(b"t", port.LogLine("info", "x")) is None


def test_a_checkpoint_is_told_only_where_there_will_be_another_attempt() -> None:
    noted = port.Completion(progress=(port.Progress(0.1), port.Progress(0.9)), checkpoint=b"1")
    assert notes_left(noted) == [port.Progress(0.9)]
    again = port.Completion(failure=port.Failure("X", ""), checkpoint=b"1")
    assert notes_left(again) == [port.Heartbeat(b"1")]
