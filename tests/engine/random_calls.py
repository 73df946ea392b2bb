"""Workers of unary calls that call whatever engine they like, in random order, and lose answers.

Nothing lapses and no attempt times out while they do, so whatever is done twice, or by nobody, is a defect.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable
from random import Random
from typing import Any, Final

import grpc

from tests.engine.served import Served, payload, seconds
from windlass.v1 import worker_service_pb2 as pb
from windlass.v1 import workflow_service_pb2 as run_pb

#: Of what a worker holds, these are not its own any more.
GONE: Final = (pb.CANCEL_REASON_LOST, pb.CANCEL_REASON_TIMED_OUT)
POLL_SECONDS: Final = 0.003

Step = tuple[str, str, str]


class Book:
    """What was started, and who began what."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.begun: defaultdict[Step, set[bytes]] = defaultdict(set)

    def begin(self, task: pb.Task) -> None:
        self.begun[task.run_id, task.state, task.path].add(task.task_token)

    def twice(self) -> list[Step]:
        """Steps that were done more than once."""
        return [step for step, tokens in self.begun.items() if len(tokens) > 1]


class Caller:
    """One worker. It repeats a numbered poll, or resumes, when an answer was lost; it tells a task by its token."""

    def __init__(self, name: str, engines: list[Served], rnd: Random, lossy: float, book: Book) -> None:
        self.name, self._engines, self._rnd, self._lossy, self._book = name, engines, rnd, lossy, book
        self.session, self._number = "", 0
        self.held: dict[bytes, pb.Task] = {}
        self._home = rnd.choice(engines)
        self._start_lost = False

    async def move(self) -> None:
        """On to another engine. That one does not know that nothing was heard of a first task: so resume."""
        self._home = self._anywhere()
        if self._start_lost:
            await self.register()

    def _anywhere(self) -> Served:
        return self._rnd.choice(self._engines)

    def _lost(self) -> bool:
        return self._rnd.random() < self._lossy

    async def register(self) -> None:
        request = pb.RegisterWorkerRequest(
            worker_id=self.name, slots=4, resume_session_id=self.session, held_task_tokens=list(self.held)
        )
        request.offered_units["gpu"] = 2
        request.runtimes.add(name="javascript", version="1")
        reply = await self._home.workers.RegisterWorker(request)
        assert reply.resumed == bool(self.session)
        self._start_lost = False
        self.session = reply.session_id
        for token in reply.lost_task_tokens:
            self.held.pop(token, None)

    def _take(self, tasks: Iterable[pb.Task], cancels: Iterable[pb.TaskCancel]) -> None:
        for task in tasks:
            assert task.task_token in self.held or self._is_new(task), f"{task} came again"
            self.held[task.task_token] = task
            self._book.begin(task)
        for cancel in cancels:
            if cancel.reason in GONE:
                self.held.pop(cancel.task_token, None)

    def _is_new(self, task: pb.Task) -> bool:
        return task.task_token not in self._book.begun[task.run_id, task.state, task.path]

    async def poll(self) -> None:
        self._number += 1
        most = self._rnd.randint(1, 4)
        request = pb.PollTasksRequest(session_id=self.session, max_tasks=most, number=self._number)
        request.wait_timeout.CopyFrom(seconds(POLL_SECONDS))
        reply = await self._home.workers.PollTasks(request)
        while self._lost():
            if self._rnd.random() < 0.3:
                await self.move()
            if self._rnd.random() < 0.3:
                await self.register()
                return
            reply = await self._home.workers.PollTasks(request)
        self._take(reply.tasks, reply.cancels)

    async def complete(self) -> None:
        done = self._rnd.sample(list(self.held), self._rnd.randint(1, len(self.held)))
        request = pb.CompleteTasksRequest(session_id=self.session)
        request.results.extend(pb.TaskResult(task_token=token, output=b"1") for token in done)
        polls = self._rnd.random() < 0.5
        if polls:
            self._number += 1
            request.max_tasks, request.number = self._rnd.randint(1, 3), self._number
        reply = await (self._home if polls else self._anywhere()).workers.CompleteTasks(request)
        while self._lost():
            if self._rnd.random() < 0.3:
                await self.move()
            reply = await (self._home if polls else self._anywhere()).workers.CompleteTasks(request)
        for token in done:
            self.held.pop(token, None)
        self._take(reply.tasks, reply.cancels)

    async def beat(self) -> None:
        request = pb.HeartbeatWorkerRequest(session_id=self.session)
        self._take((), (await self._anywhere().workers.HeartbeatWorker(request)).cancels)

    async def beat_task(self) -> None:
        beat = pb.TaskHeartbeat(task_token=self._rnd.choice(list(self.held)))
        if self._rnd.random() < 0.3:
            beat.extension.CopyFrom(seconds(4000))
        request = pb.HeartbeatTasksRequest(session_id=self.session, heartbeats=[beat])
        self._take((), (await self._anywhere().workers.HeartbeatTasks(request)).cancels)

    async def release(self) -> None:
        """It had not begun."""
        task = self.held.pop(self._rnd.choice(list(self.held)))
        self._book.begun[task.run_id, task.state, task.path].discard(task.task_token)
        releases = [pb.TaskRelease(task_token=task.task_token)]
        request = pb.ReleaseTasksRequest(session_id=self.session, releases=releases)
        await self._anywhere().workers.ReleaseTasks(request)

    async def start(self) -> None:
        request = run_pb.StartRunRequest(workflow=self._rnd.choice(["task", "gpu", "chain"]), input=payload({"n": 1}))
        if self._rnd.random() < 0.6:
            request.eager_session_id = self.session
        reply = await self._anywhere().runs.StartRun(request)
        self._book.runs.append(reply.run.run_id)
        if not self._lost():
            self._take([reply.task] if reply.HasField("task") else [], ())
        elif request.eager_session_id:
            self._start_lost = True
            if self._rnd.random() < 0.5:
                await self.register()

    async def stop(self) -> None:
        """A person stops one of the runs, which may be over already."""
        call = self._rnd.choice(["CancelRun", "TerminateRun"])
        request: Any = getattr(run_pb, f"{call}Request")(run_id=self._rnd.choice(self._book.runs))
        with contextlib.suppress(grpc.aio.AioRpcError):
            await getattr(self._anywhere().runs, call)(request)

    async def anything(self) -> None:
        """One call that makes sense now."""
        calls = [(25, self.start), (25, self.poll), (6, self.beat)]
        if self.held:
            calls += [(20, self.complete), (6, self.beat_task), (4, self.release)]
        if self._book.runs:
            calls += [(3, self.stop)]
        (call,) = self._rnd.choices([each for _, each in calls], [weight for weight, _ in calls])
        await call()

    async def settle(self) -> None:
        """What is left, with no answer lost."""
        self._lossy = 0
        await self.poll()
        if self.held:
            await self.complete()
