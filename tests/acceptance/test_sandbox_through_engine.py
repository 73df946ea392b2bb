"""Every hostile program as a run: a real engine process, real worker processes, and a clean run right after each.

Each worker has a queue of its own and one slot, so the clean run is done by the worker, and in the slot, that has just
had the hostile one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.acceptance.programs import Engine, engine
from tests.runtimes.guests import ECHO, assemble
from tests.runtimes.hostile_javascript import INVENTED as INVENTED_SCRIPTS
from tests.runtimes.hostile_javascript import LISTED as LISTED_SCRIPTS
from tests.runtimes.hostile_javascript import OK
from tests.runtimes.hostile_wasm import LISTED as LISTED_MODULES
from tests.runtimes.hostile_wasm_invented import INVENTED as INVENTED_MODULES
from windlass.client import Client, WindlassError
from windlass.definition.source import from_value
from windlass.runtimes.failures import BAD_CODE, SANDBOX_CRASHED, TIMEOUT
from windlass.v1 import common_pb2, workflow_service_pb2, workflow_service_pb2_grpc

QUEUES: Final = ("left", "right")
#: How the engine names a task whose slot died under it each time; the run is an incident then, and stays open.
CRASH_LOOP: Final = "CRASH_LOOP"
#: How the engine refuses bad code when it is stored, before any worker sees it.
REFUSED: Final = ("BAD_DEFINITION", "BAD_MODULE", "MODULE_TOO_LARGE")
#: For what must end by something else than the clock, on however busy a machine.
PATIENT: Final = "20s"
SHORT: Final = "300ms"


class Program(NamedTuple):
    """A program of the lists, whatever its runtime."""

    name: str
    runtime: str
    code: bytes
    ends: tuple[str, ...]


def programs() -> list[Program]:
    """All of the lists."""
    scripts = [
        Program(f"js-{each.name}", "javascript", _bytes(each.source), each.ends)
        for each in LISTED_SCRIPTS + INVENTED_SCRIPTS
    ]
    modules = [
        Program(
            f"wasm-{each.name}", "wasm", assemble(each.code) if isinstance(each.code, str) else each.code, each.ends
        )
        for each in LISTED_MODULES + INVENTED_MODULES
    ]
    return scripts + modules


def _bytes(source: str | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.encode()


def document(name: str, runtime: str, file: str, *, timeout: str) -> dict[str, Any]:
    """A run of one task, tried once."""
    task = {"runtime": runtime, "code_file": file, "limits": {"memory": "16MiB", "output": "1MiB"}}
    state = {"task": task, "input": {"key": "n"}, "output": "n", "timeout": timeout, "retry": {"max_attempts": 1}}
    return {"workflow": name, "initial": "only", "states": {"only": state}, "output": {"key": "n"}}


class Line:
    """One worker's queue: runs go through it one after another."""

    def __init__(self, client: Client, queue: str, folder: Path) -> None:
        self._client, self._queue, self._folder = client, queue, folder
        self.wrong: list[str] = []
        self.refused = 0

    async def through(self, given: Iterator[Program]) -> None:
        """Each program, and a clean run after each."""
        for number, program in enumerate(given):
            end = await self._hostile(program)
            if end not in program.ends:
                self.wrong.append(f"{program.name} ended with {end}, not with {' or '.join(program.ends)}")
            clean = ("clean-script", 42) if number % 2 else ("clean-module", 41)
            ended = await self._client.start_and_wait(clean[0], {"n": 41}, queue=self._queue, wait=60)
            if (ended.state, ended.output) != ("completed", clean[1]):
                self.wrong.append(f"after {program.name} {clean[0]} was {ended}")

    async def _hostile(self, program: Program) -> str:
        """How it ended: OK, or the code of its failure."""
        file = f"{program.name}.{'js' if program.runtime == 'javascript' else 'wasm'}"
        (self._folder / file).write_bytes(program.code)
        timeout = SHORT if TIMEOUT in program.ends else PATIENT
        made = document(program.name, program.runtime, f"./{file}", timeout=timeout)
        try:
            await self._client.register(from_value(made, program.name, folder=self._folder))
        except WindlassError as refusal:
            self.refused += 1
            return BAD_CODE if refusal.reason in REFUSED else refusal.reason
        run = await self._client.start(program.name, {"n": 41}, queue=self._queue)
        return await self._end(run.run_id)

    async def _end(self, run_id: str) -> str:
        """Follows the run until it is closed, or an incident."""
        stub = workflow_service_pb2_grpc.WorkflowServiceStub(self._client.connection.channel)
        watch: Any = stub.WatchRun(workflow_service_pb2.WatchRunRequest(run_id=run_id))
        async for message in watch:
            if message.HasField("result"):
                return message.result.failure.code if message.result.HasField("failure") else OK
            if message.state == common_pb2.RUN_STATE_INCIDENT:
                watch.cancel()
                return await self._incident(run_id)
        raise AssertionError(f"the watch of run {run_id} ended before the run")

    async def _incident(self, run_id: str) -> str:
        stub = workflow_service_pb2_grpc.WorkflowServiceStub(self._client.connection.channel)
        listed: Any = stub.ListIncidents(workflow_service_pb2.ListIncidentsRequest(run_id=run_id))
        code = (await listed).incidents[0].code
        await self._client.terminate(run_id, reason="its slot died each time")
        return SANDBOX_CRASHED if code == CRASH_LOOP else str(code)


@pytest.mark.long(32)
def test_each_hostile_program_ends_in_its_way_and_its_worker_goes_on(tmp_path: Path) -> None:
    with engine(tmp_path, "--log-level", "warning") as running:
        workers = [running.worker(each, "--queue", each, "--slots", "1") for each in QUEUES]
        try:
            lines = asyncio.run(_all_through(running, tmp_path))
            assert all(worker.process.poll() is None for worker in workers), workers[0].said + workers[1].said
        finally:
            for worker in workers:
                worker.stop()
    wrong = [each for line in lines for each in line.wrong]
    assert not wrong, "\n".join(wrong)
    assert "Traceback" not in running.said, running.said
    refused = sum(line.refused for line in lines)
    assert refused < len(programs()) / 3  # most are for the worker to end


async def _all_through(running: Engine, folder: Path) -> list[Line]:
    async with running.client() as client:
        (folder / "clean.js").write_text("input + 1")
        (folder / "clean.wasm").write_bytes(assemble(ECHO))
        for name, runtime, file in (("clean-script", "javascript", "clean.js"), ("clean-module", "wasm", "clean.wasm")):
            await client.register(
                from_value(document(name, runtime, f"./{file}", timeout=PATIENT), name, folder=folder)
            )
        lines = [Line(client, queue, folder) for queue in QUEUES]
        given = iter(programs())  # both take the next one from here
        async with asyncio.TaskGroup() as both:
            for line in lines:
                both.create_task(line.through(given))
    return lines
