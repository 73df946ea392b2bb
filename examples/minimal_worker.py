"""A whole worker on the plain path: four calls of the generated stubs, no stream, nothing else of Windlass.

    python examples/minimal_worker.py 127.0.0.1:7711

It is what a worker in any language with gRPC comes down to. It offers one handler, `shout`, to definitions that say
`task: {runtime: python, handler: shout}`, and it keeps the four promises that a worker makes:

* it renews its lease while it works (the heartbeat thread), well within the lease's time;
* it hands in a result until the engine has taken or refused it, and drops what is refused;
* it resumes its session when an answer that could bring tasks was lost, so that tasks which never arrived go back;
* it starts nothing new when it is told to stop, and ends its session.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import uuid
from collections.abc import Callable

import grpc

from windlass.v1 import common_pb2
from windlass.v1 import worker_service_pb2 as wire
from windlass.v1 import worker_service_pb2_grpc as wire_grpc

Stub = wire_grpc.WorkerServiceStub


def shout(task: wire.Task) -> bytes:
    """The task code: JSON in, JSON out. An exception is a failed attempt."""
    text = json.loads(task.input)["text"]
    return json.dumps({"text": text.upper() + "!", "attempt": task.attempt}).encode()


HANDLERS: dict[str, Callable[[wire.Task], bytes]] = {"shout": shout}


def register(stub: Stub, resume: str) -> wire.RegisterWorkerResponse:
    """Open a session, the lease of everything that this worker will hold, or go on with the one named by `resume`.

    Between two polls this worker holds nothing, so it names no tokens: what the session has by the engine's book was
    in an answer that never came, and is given back.
    """
    return stub.RegisterWorker(
        wire.RegisterWorkerRequest(
            resume_session_id=resume,
            worker_id="minimal",
            instance_id=uuid.uuid4().hex,
            slots=1,
            queues=["default"],
            runtimes=[common_pb2.RuntimeInfo(name="python", version=sys.version.split()[0])],
            handlers=[common_pb2.StepType(handler=name, runtime="python") for name in HANDLERS],
            sdk="minimal-worker",
        ),
        wait_for_ready=True,
        timeout=30,
    )


def keep_alive(stub: Stub, session: wire.RegisterWorkerResponse, stopped: threading.Event) -> None:
    """Renew the lease until the worker stops. A lost engine is asked again; the lease outlives a short absence."""
    number = 0
    while not stopped.wait(session.heartbeat_interval.ToTimedelta().total_seconds()):
        number += 1
        try:
            heartbeat = wire.WorkerHeartbeat(number=number)
            stub.HeartbeatWorker(wire.HeartbeatWorkerRequest(session_id=session.session_id, heartbeat=heartbeat))
        except grpc.RpcError as error:
            print(f"heartbeat: {error.code().name} {error.details()}", file=sys.stderr)


def run(task: wire.Task) -> wire.TaskResult:
    """Do the task, whatever happens in it."""
    try:
        return wire.TaskResult(task_token=task.task_token, output=HANDLERS[task.handler](task))
    except Exception as error:  # noqa: BLE001 - a failure of the task code is data for the engine
        failure = common_pb2.Failure(code="USER_ERROR", message=f"{type(error).__name__}: {error}")
        return wire.TaskResult(task_token=task.task_token, failure=failure)


def hand_in(stub: Stub, request: wire.CompleteTasksRequest, stopped: threading.Event) -> list[wire.Task]:
    """Say what became of the tasks until the engine has heard it: a repeated result counts once. What is next.

    Raises grpc.RpcError if the session is gone, or if an answer was lost on the way that may have brought a task.
    """
    lost: grpc.RpcError | None = None
    while True:
        try:
            reply = stub.CompleteTasks(request)
        except grpc.RpcError as error:
            print(f"complete: {error.code().name} {error.details()}", file=sys.stderr)
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise
            if error.code() is not grpc.StatusCode.UNAVAILABLE or stopped.wait(1):
                return []  # the lease will run out, and another worker will do it again
            if request.max_tasks:
                lost, request.max_tasks = error, 0
            continue
        for refused in reply.rejected:
            print(f"refused: {refused.error.message}", file=sys.stderr)
        if lost is not None:
            raise lost
        return list(reply.tasks)


def work(stub: Stub, session: wire.RegisterWorkerResponse, stopped: threading.Event) -> None:
    """Poll, run, hand in, and go on with what the answer brings. Raises grpc.RpcError when that fails."""
    tasks: list[wire.Task] = []
    while tasks or not stopped.is_set():
        if tasks:
            done = wire.CompleteTasksRequest(session_id=session.session_id, results=[run(task) for task in tasks])
            done.max_tasks = 0 if stopped.is_set() else 1
            tasks = hand_in(stub, done, stopped)
        else:
            poll = wire.PollTasksRequest(session_id=session.session_id, max_tasks=1)
            poll.wait_timeout.FromSeconds(2)
            tasks = list(stub.PollTasks(poll, timeout=30).tasks)


def one_session(stub: Stub, resume: str, stopped: threading.Event) -> str:
    """Register and work, until the worker stops or a poll fails. Returns the session to go on with, "" for none.

    Raises grpc.RpcError for what trying again cannot mend.
    """
    session = register(stub, resume)
    print(f"registered as {session.worker_id}, session {session.session_id}", file=sys.stderr)
    over = threading.Event()
    alive = threading.Thread(target=keep_alive, args=(stub, session, over), daemon=True)
    alive.start()
    try:
        work(stub, session, stopped)
        stub.DrainWorker(wire.DrainWorkerRequest(session_id=session.session_id, close=True))
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            print("the session has lapsed: what was held is somebody else's now", file=sys.stderr)
        elif error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            print(f"an answer was lost, going on: {error.code().name} {error.details()}", file=sys.stderr)
            return session.session_id
        else:
            raise
    finally:
        over.set()
    return ""


def main(engine: str) -> int:
    """Work until SIGTERM or SIGINT. Returns the exit code."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with grpc.insecure_channel(engine) as channel:
        stub, session = Stub(channel), ""
        while not stopped.is_set():
            try:
                session = one_session(stub, session, stopped)
            except grpc.RpcError as error:
                print(f"{engine}: {error.code().name} {error.details()}", file=sys.stderr)
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    return 1
                stopped.wait(1)  # the engine is there and cannot serve now: its store is away, say
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7711"))
