"""Workers that lie, streams that are opened and left, and readers that do not read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import grpc
import msgspec
import pytest

from tests.acceptance.hostile.target import ATTACKED, CLEAN, Target, register, registration, target
from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as worker
from windlass.v1 import worker_service_pb2_grpc as worker_grpc
from windlass.v1 import workflow_service_pb2 as workflow
from windlass.v1 import workflow_service_pb2_grpc as workflow_grpc

#: Streams that are opened and left open.
STREAMS: Final = 1000


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("hostile")) as made:
        yield made


_OWN: Final = (("grpc.use_local_subchannel_pool", 1),)
#: What a raw connection says: nothing, a greeting and no more, another protocol, noise.
_GREETINGS: Final = (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 500)


class Liar:
    """A worker on the plain path that says what it likes."""

    def __init__(self, channel: grpc.Channel, name: str) -> None:
        self.stub = worker_grpc.WorkerServiceStub(channel)
        self.runs = workflow_grpc.WorkflowServiceStub(channel)
        self.session = register(self.stub, name)

    def start(self) -> str:
        """A run whose one task this worker can get."""
        request = workflow.StartRunRequest(namespace=ATTACKED, workflow="queued")
        request.input.data = b'{"n": 1}'
        return self.runs.StartRun(request).run.run_id

    def poll(self, run_id: str) -> worker.Task:
        """The task of that run; others are given back."""
        while True:
            request = worker.PollTasksRequest(session_id=self.session, max_tasks=1)
            for task in self.stub.PollTasks(request, timeout=10).tasks:
                if task.run_id == run_id:
                    return task

    def complete(self, *results: worker.TaskResult) -> worker.CompleteTasksResponse:
        """Hand results in."""
        return self.stub.CompleteTasks(worker.CompleteTasksRequest(session_id=self.session, results=results))

    def run(self, run_id: str) -> workflow.Run:
        """As it is."""
        request = workflow.GetRunRequest(namespace=ATTACKED, run_id=run_id, view=workflow.VIEW_FULL)
        return self.runs.GetRun(request).run

    def events(self, run_id: str) -> list[str]:
        """The types of its history."""
        request = workflow.GetHistoryRequest(namespace=ATTACKED, run_id=run_id)
        return [event.type for event in self.runs.GetHistory(request).events]


def forged(token: bytes) -> list[bytes]:
    """Tokens like this one: of the future, of the past, of another place, and none at all."""
    ns, run_id, visit, path, epoch = msgspec.msgpack.decode(token)
    others: list[tuple[Any, ...]] = [
        (ns, run_id, visit, path, epoch + 1),
        (ns, run_id, visit, path, epoch - 1),
        (ns, run_id, visit, path, 2**62),
        (ns, run_id, visit + 1, path, epoch),
        (ns, run_id, visit, "#0", epoch),
        (ns, run_id, visit, "../" * 50, epoch),
        ("default", run_id, visit, path, epoch),
        (ns, "0" * 32, visit, path, epoch),
        (ns, run_id, -1, path, -1),
        (ns, run_id, visit, "\x00", epoch),
    ]
    return [msgspec.msgpack.encode(each) for each in others]


def test_results_for_the_wrong_lease_change_nothing(attacked: Target) -> None:
    with attacked.attack(), attacked.channel() as channel:
        liar = Liar(channel, "liar")
        run_id = liar.start()
        task = liar.poll(run_id)
        before = liar.events(run_id)
        for token in forged(task.task_token):
            for lie in (
                worker.TaskResult(task_token=token, output=b"666"),
                worker.TaskResult(task_token=token, failure=common_pb2.Failure(code="LIE", message="x" * 100_000)),
            ):
                reply = liar.complete(lie)
                assert not reply.accepted_task_tokens, token
                assert len(reply.rejected) == 1
            release = worker.TaskRelease(task_token=token, reason=worker.RELEASE_REASON_CRASHED)
            liar.stub.ReleaseTasks(worker.ReleaseTasksRequest(session_id=liar.session, releases=[release]))
        assert liar.events(run_id) == before
        liar.complete(worker.TaskResult(task_token=task.task_token, output=b"7"))
        assert liar.run(run_id).state == common_pb2.RUN_STATE_COMPLETED


def test_a_result_that_comes_a_hundred_times_with_changing_content_counts_once(attacked: Target) -> None:
    with attacked.attack(), attacked.channel() as channel:
        liar = Liar(channel, "liar")
        run_id = liar.start()
        task = liar.poll(run_id)
        results = [worker.TaskResult(task_token=task.task_token, output=b"%d" % number) for number in range(100)]
        liar.complete(*results)
        liar.complete(*results)
        assert liar.run(run_id).output.data == b"0"
        assert liar.events(run_id).count("TaskCompleted") == 1


def test_results_that_no_author_would_write_end_the_attempt_and_not_the_engine(attacked: Target) -> None:
    lies = [
        worker.TaskResult(output=b"["),
        worker.TaskResult(output=b"\xff"),
        worker.TaskResult(output=b"[" * 100_000),
        worker.TaskResult(output=b'"' + b"x" * 3_000_000 + b'"'),
        worker.TaskResult(output=b"1", context_patch={"": b"1", "a/b": b"{", "n": b"9" * 1_000_000}),
        worker.TaskResult(output=b"1", asks=worker.TaskAsks(route="nowhere", wait_for=["x", "\x00"])),
        worker.TaskResult(failure=common_pb2.Failure(code="\x00" * 1000, message="m" * 2_000_000)),
        worker.TaskResult(),
    ]
    with attacked.attack(), attacked.channel() as channel:
        liar = Liar(channel, "liar")
        for lie in lies:
            run_id = liar.start()
            lie.task_token = liar.poll(run_id).task_token
            liar.complete(lie)
            state = liar.run(run_id).state
            assert state != common_pb2.RUN_STATE_UNSPECIFIED


async def test_a_thousand_half_open_streams(attacked: Target) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(attacked.attack())
        channels = [grpc.aio.insecure_channel(attacked.address, options=_OWN) for _ in range(10)]
        run_id = attacked.known["run_id"][attacked.known["workflow"].index("timer")]
        watch = workflow.WatchRunRequest(namespace=ATTACKED, run_id=run_id)
        calls: list[Any] = []
        for number in range(STREAMS):
            channel = channels[number % len(channels)]
            runs = workflow_grpc.WorkflowServiceStub(channel)
            tasks = worker_grpc.WorkerServiceStub(channel)
            calls.append((tasks.StreamTasks, runs.StreamRuns, lambda runs=runs: runs.WatchRun(watch))[number % 3]())
        for number in range(200):
            connection = stack.enter_context(_connected(attacked.address))
            connection.sendall(_GREETINGS[number % len(_GREETINGS)])
        await asyncio.gather(*(call.read() for call in calls[2::3]))  # the watches have begun
        await asyncio.to_thread(attacked.serves)
        for call in calls:
            call.cancel()
        for channel in channels:
            await channel.close()


async def test_a_client_that_sends_starts_and_reads_no_outcome_is_held_up(attacked: Target) -> None:
    """Each refusal is a kilobyte; two hundred thousand of them would wait in the engine."""
    with attacked.attack():
        async with grpc.aio.insecure_channel(attacked.address, options=_OWN) as channel:
            call = workflow_grpc.WorkflowServiceStub(channel).StreamRuns()
            message = workflow.StreamRunsRequest()
            for tag in range(1000):
                message.starts.add(tag=tag, request=workflow.StartRunRequest(workflow="x" * 190 + "!"))
            writing = asyncio.create_task(_write(call, message, 200))
            await asyncio.wait([writing], timeout=5)  # the writing is not to end: nobody reads what comes of it
            await asyncio.to_thread(attacked.serves)
            assert attacked.memory_mb() < attacked.started_mb + 60
            writing.cancel()
            await asyncio.wait([writing])
            call.cancel()


async def test_a_worker_that_takes_tasks_and_reads_none_holds_up_nobody_else(attacked: Target) -> None:
    with attacked.attack():
        async with grpc.aio.insecure_channel(attacked.address, options=_OWN) as channel:
            call = worker_grpc.WorkerServiceStub(channel).StreamTasks()
            greedy = worker.StreamTasksRequest(register=registration("greedy", slots=1_000_000), credits=2**31 - 1)
            await call.write(greedy)
            runs = workflow_grpc.WorkflowServiceStub(channel)
            request = workflow.StartRunRequest(namespace=ATTACKED, workflow="queued")
            request.input.data = b'{"n": "%s"}' % (b"x" * 500_000)
            for _ in range(40):
                await runs.StartRun(request)
            await asyncio.to_thread(attacked.serves)
            call.cancel()


def test_many_large_inputs_reach_a_worker_in_messages_that_it_can_take(attacked: Target) -> None:
    with attacked.attack(), attacked.channel() as channel:
        stub = workflow_grpc.WorkflowServiceStub(channel)
        request = workflow.StartRunRequest(namespace=CLEAN, workflow="length")
        request.input.data = b'{"n": "%s"}' % (b"x" * 500_000)
        runs = [stub.StartRun(request).run.run_id for _ in range(40)]
        for run_id in runs:
            assert ended(stub, run_id).state == common_pb2.RUN_STATE_COMPLETED


def test_a_history_of_many_megabytes_is_read_by_any_client(attacked: Target) -> None:
    """One with gRPC's own limit for a message, page by page in both directions, and as a watch."""
    with attacked.attack(), attacked.channel() as channel:
        stub = workflow_grpc.WorkflowServiceStub(channel)
        request = workflow.StartRunRequest(namespace=CLEAN, workflow="grow")
        request.input.data = b"{}"
        run_id = stub.StartRun(request).run.run_id
        assert ended(stub, run_id).state == common_pb2.RUN_STATE_COMPLETED
        forth, back = (list(_history(stub, run_id, reverse=reverse)) for reverse in (False, True))
        watch = stub.WatchRun(workflow.WatchRunRequest(namespace=CLEAN, run_id=run_id, view=workflow.VIEW_FULL))
        watched = [event.number for message in watch for event in message.events]
    assert forth == back[::-1] == watched == list(range(1, len(forth) + 1))


def ended(stub: workflow_grpc.WorkflowServiceStub, run_id: str) -> common_pb2.RunResult:
    """The end of a run in the clean namespace."""
    request = workflow.WaitRunRequest(namespace=CLEAN, run_id=run_id)
    request.wait_timeout.FromSeconds(30)
    return stub.WaitRun(request, timeout=60).result


def _history(stub: workflow_grpc.WorkflowServiceStub, run_id: str, *, reverse: bool) -> Iterator[int]:
    request = workflow.GetHistoryRequest(namespace=CLEAN, run_id=run_id, reverse=reverse, view=workflow.VIEW_FULL)
    while True:
        reply = stub.GetHistory(request)
        yield from (event.number for event in reply.events)
        if not reply.next_page_token:
            return
        request.page_token = reply.next_page_token


async def _write(call: Any, message: Any, times: int) -> None:
    for _ in range(times):
        await call.write(message)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        yield connection
