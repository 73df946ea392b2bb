"""The engine under attack: real, with a real worker, runs in every phase to aim at, and a clean workflow to serve."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks.processes import rss_mb
from tests.acceptance.programs import Engine
from windlass.client import Client
from windlass.definition.source import from_value
from windlass.v1 import (
    common_pb2,
    worker_service_pb2,
    worker_service_pb2_grpc,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)

#: Where the attacks go, and where the clean work is done. The names of both are known to the attacker.
ATTACKED: Final = "attacked"
CLEAN: Final = "clean"
#: What the engine may grow by during one group of attacks, in MB of memory of its own.
GROWTH_MB: Final = 150.0

_TASK: Final = {"task": {"runtime": "javascript", "code": "input + 1"}, "input": {"key": "n"}, "output": "n"}
_HANDLED: Final = {"task": {"runtime": "python", "handler": "nobody.has.it"}, "input": {"key": "n"}, "output": "n"}
_ASK: Final = {"escalate": {"to": "ada", "message": "well?"}, "output": "answer", "transitions": [{"to": None}]}


def _document(name: str, states: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"workflow": name, "initial": next(iter(states)), "states": states, **more}


_LONG: Final = {"runtime": "javascript", "code": "'x'.repeat(400000)"}
_GROWING: Final = {
    f"s{number}": {"task": _LONG, "output": "n", "next": f"s{number + 1}"} if number < 16 else {}
    for number in range(17)
}
DOCUMENTS: Final = (
    _document("one", {"only": _TASK}, output={"key": "n"}),
    _document("queued", {"only": _HANDLED}),
    _document("asked", {"ask": _ASK}),
    _document("signals", {"listen": {"wait": "tick", "output": "got", "transitions": [{"to": None}]}}),
    _document("timer", {"sleep": {"delay": "1h"}}, updates={"set": {"set": {"n": "${input}"}}}),
    _document("parked", {"go": {"transitions": [{"when": "nothing > 1", "to": None}]}}),
    _document("fan", {"fan": {"map": {"items": {"static": [1, 2, 3]}, "task": _HANDLED["task"]}}}),
    _document("length", {"only": {**_TASK, "task": {"runtime": "javascript", "code": "input.length"}}}),
    _document("grow", _GROWING),
    _document("parent", {"child": {"spawn": "queued", "input": {"keys": ["n"]}}}),
)


class Target:
    """A running engine and what an attacker may know of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.known: dict[str, list[Any]] = {}
        self.started_mb = self.memory_mb()
        self._seen = 0  #: of the engine's log

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return self.engine.address

    def channel(self) -> grpc.Channel:
        """A connection of its own."""
        return grpc.insecure_channel(
            self.address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        )

    @contextlib.contextmanager
    def attack(self) -> Iterator[None]:
        """Whatever happens inside: afterwards the engine serves, has met nothing unexpected, and has not grown."""
        before = self.memory_mb()
        yield
        assert self.engine.process.poll() is None, self.engine.said[-4000:]
        self.serves()
        said = self.engine.said[self._seen :]
        self._seen += len(said)
        for sign in ("Traceback", "defect", "a turn failed", "never retrieved"):
            assert sign not in said, said[max(0, said.find(sign) - 500) : said.find(sign) + 4000]
        grown = self.memory_mb() - before
        assert grown < GROWTH_MB, f"the engine has grown by {grown:.0f} MB"

    def serves(self) -> None:
        """A clean workflow goes through."""
        request = workflow_service_pb2.StartAndWaitRunRequest()
        request.start.MergeFrom(workflow_service_pb2.StartRunRequest(namespace=CLEAN, workflow="one"))
        request.start.input.data = b'{"n": 41}'
        request.wait_timeout.FromSeconds(30)
        with self.channel() as channel:
            reply = workflow_service_pb2_grpc.WorkflowServiceStub(channel).StartAndWaitRun(request, timeout=60)
        assert reply.result.output.data == b"42", reply

    def memory_mb(self) -> float:
        """Of the engine's own."""
        return rss_mb(self.engine.process.pid)

    async def prepare(self) -> None:
        """Namespaces, definitions, and a run of each kind, whose ids become known."""
        async with Client(self.address) as client:
            for namespace in (ATTACKED, CLEAN):
                await client.create_namespace(namespace)
                there = client.in_namespace(namespace)
                for document in DOCUMENTS:
                    await there.register(from_value(document, document["workflow"]))
            await self._learn(client.in_namespace(ATTACKED))
        self._hold_tasks()

    async def _learn(self, client: Client) -> None:
        names = [document["workflow"] for document in DOCUMENTS]
        runs = [await client.start(name, {"n": 1}, workflow_id=f"the-{name}") for name in names]
        revisions = [each.revision async for each in client.definitions()]
        self.known = {
            "namespace": [ATTACKED],
            "workflow": names,
            "workflow_id": [f"the-{name}" for name in names],
            "run_id": [run.run_id for run in runs],
            "revision": revisions,
            "wait_id": ["1:"],
            "escalation_id": [f"{run.run_id}:1:" for run in runs],
            "incident_id": [f"{run.run_id}:{number}" for run in runs for number in (2, 3)],
            "name": ["tick", "set"],
            "worker_id": ["w-attack"],
            "text": [*names, "tick", ATTACKED, "sleep", "only"],
            "bytes": [b'{"n": 1}', b"1"],
        }

    def _hold_tasks(self) -> None:
        """Leases of a worker that does not work, so that their tokens can be played with."""
        with self.channel() as channel:
            stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
            session = register(stub, "w-attack")
            poll = worker_service_pb2.PollTasksRequest(session_id=session, max_tasks=4)
            tasks = stub.PollTasks(poll, timeout=10).tasks
        self.known["session_id"] = self.known["resume_session_id"] = [session]
        self.known["task_token"] = self.known["held_task_tokens"] = [task.task_token for task in tasks]
        self.known["bytes"] += [task.task_token for task in tasks]


def register(stub: worker_service_pb2_grpc.WorkerServiceStub, name: str) -> str:
    """A session that takes tasks of the handler that nobody else has."""
    return stub.RegisterWorker(registration(name)).session_id


def registration(name: str, *, slots: int = 4) -> worker_service_pb2.RegisterWorkerRequest:
    """What such a worker says of itself."""
    return worker_service_pb2.RegisterWorkerRequest(
        namespace=ATTACKED,
        worker_id=name,
        instance_id=name,
        slots=slots,
        runtimes=[common_pb2.RuntimeInfo(name="python", version="3")],
        handlers=[common_pb2.StepType(handler="nobody.has.it", runtime="python")],
    )


@contextlib.contextmanager
def target(folder: Path) -> Iterator[Target]:
    """An engine that expects the worst."""
    running = Engine(folder, "--log-level", "warning", "--lease-seconds", "20")
    worker = running.worker("w1", "--namespace", CLEAN, "--runtimes", "javascript")
    try:
        made = Target(running)
        asyncio.run(made.prepare())
        made.serves()
        yield made
    finally:
        worker.stop()
        running.stop()
