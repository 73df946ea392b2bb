"""Restate in the comparison: its server tuned to two partitions, and one service process of the TypeScript SDK."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from benchmarks.load import Loop
from benchmarks.peers.http_loop import HttpLoop
from benchmarks.peers.installing import SERVICE, restate_server
from benchmarks.processes import children, cpu_seconds, summed
from windlass.client.cli.children import free_port

PARTITIONS = 2
_READY_SECONDS = 60


class RestateSide:
    """See `Side`."""

    def __init__(self, ingress: int, server: int, service: int, task: str) -> None:
        self._ingress, self._server, self._service = ingress, server, service
        self.task = task
        self.system = f"Restate, {PARTITIONS} partitions, TypeScript"

    def loop(self, shape: str, in_flight: int) -> Loop | None:
        return HttpLoop(self._ingress, f"/Bench/{_handler(shape, self.task)}", b"1", in_flight)

    def cpu(self) -> dict[str, float]:
        return {
            "server": summed(cpu_seconds, children(self._server)),
            "worker": summed(cpu_seconds, children(self._service)),
            "client": time.process_time(),
        }


def _handler(shape: str, task: str) -> str:
    return shape + ("c" if task == "dispatched" else "")


def _start_server(directory: Path, installed: Path, ingress: int, admin: int) -> subprocess.Popen[bytes]:
    settings = {
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_DEFAULT_NUM_PARTITIONS": str(PARTITIONS),
        "RESTATE_INGRESS__BIND_PORT": str(ingress),
        "RESTATE_ADMIN__BIND_PORT": str(admin),
        "RESTATE_LOG_FILTER": "warn",
    }
    command = [str(restate_server(installed)), "--base-dir", str(directory / "data"), "--no-logo"]
    command += ["--bind-ip", "127.0.0.1", "--bind-port", str(free_port()), "--listen-mode", "tcp"]
    with (directory / "server.log").open("ab") as log:
        return subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)


def _start_service(directory: Path, installed: Path, port: int) -> subprocess.Popen[bytes]:
    settings = {"PORT": str(port), "NODE_ENV": "production", "RESTATE_LOGGING": "WARN"}
    with (directory / "service.log").open("ab") as log:
        return subprocess.Popen(
            ["node", SERVICE], cwd=installed, env={**os.environ, **settings}, stdout=log, stderr=log
        )


async def _check(ingress: int, admin: int, service: int) -> None:
    """Register the service and see that each workflow gives what it should. Raises TimeoutError, RuntimeError."""
    wanted = {"w1": 2, "w2": 1024, "w3": 9900, "w1c": 2, "w2c": 1024, "w3c": 9900}
    async with asyncio.timeout(_READY_SECONDS), httpx.AsyncClient(trust_env=False, timeout=30) as client:
        said = "nothing"
        while "id" not in said:
            try:
                deployment = {"uri": f"http://127.0.0.1:{service}"}
                said = (await client.post(f"http://127.0.0.1:{admin}/deployments", json=deployment)).text
            except httpx.TransportError:
                await asyncio.sleep(0.1)
        for name, value in wanted.items():
            answer = await client.post(f"http://127.0.0.1:{ingress}/Bench/{name}", json=1)
            if answer.status_code != 200 or json.loads(answer.text) != value:
                raise RuntimeError(f"Restate's {name} answered {answer.status_code} {answer.text}, not {value}")


@asynccontextmanager
async def restate(directory: Path, installed: Path) -> AsyncIterator[list[RestateSide]]:
    """The server with empty data, and the service."""
    ingress, admin, port = free_port(), free_port(), free_port()
    server, service = _start_server(directory, installed, ingress, admin), _start_service(directory, installed, port)
    try:
        await _check(ingress, admin, port)
        yield [RestateSide(ingress, server.pid, service.pid, task) for task in ("dispatched", "in-process")]
    finally:
        for process in (service, server):
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
