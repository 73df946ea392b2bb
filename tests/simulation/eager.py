"""Programs that start runs beside a worker of their own: now and then a start names one's session."""

from __future__ import annotations

from functools import partial
from random import Random

from tests.simulation.virtual_loop import Host
from tests.simulation.worker_host import WorkerHost, calling
from windlass.engine.leases import parse_token
from windlass.v1 import workflow_service_pb2 as pb

#: The process that asked: its task dies with it.
Asker = tuple[WorkerHost, Host]


class Eager:
    """Hands the first tasks of runs to the workers that asked for them, unless the answer is lost."""

    def __init__(self, workers: list[WorkerHost], random: Random) -> None:
        self.workers, self.random = workers, random

    def ask(self, request: pb.StartRunRequest) -> Asker | None:
        """Perhaps name a worker that has room."""
        machine = self.random.choice(self.workers)
        if self.random.random() < 0.5 and machine.up and not machine.running.done():
            request.eager_session_id = machine.worker.offer()
        return (machine, machine.host) if request.eager_session_id else None

    def bring(self, asker: Asker | None, request: pb.StartRunRequest, reply: pb.StartRunResponse | None) -> None:
        """The start is over; one task in four is dropped on the way from the program to its worker."""
        if asker is None:
            return
        brought = reply.task if reply is not None and reply.HasField("task") else None
        if brought is not None and self.random.random() < 0.25:
            brought = None
        machine, process = asker
        if process.dead or machine.host is not process:
            return
        if brought is not None:
            _, run_id, visit, path, epoch = parse_token(brought.task_token)
            machine.work.delivered.add((run_id, visit, path, epoch, request.eager_session_id))
        process.spawn(calling(partial(machine.worker.take, brought)))
