"""Windlass programs as child processes: for `windlass dev`, the demo, and whoever wants to see them live and die.

A child runs in a session of its own, so that ctrl-c reaches only the parent, which stops its children in order; if
the parent is killed, `tied.py` ends them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

STOP_SECONDS = 15.0  #: given to a child after SIGTERM, before it is killed
_PORTS_FIRST, _PORTS_TRIED = 10_000, 100
_KERNELS_FIRST_PORT = 32_768  #: where Linux does not say, or it is no Linux


class Child:
    """One `windlass …` process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, hear: Callable[[str], None]) -> None:
        self.name, self.process = name, process
        self._hearing = asyncio.create_task(self._hear(hear))

    @classmethod
    async def start(
        cls, name: str, *arguments: str, hear: Callable[[str], None], environment: Mapping[str, str] | None = None
    ) -> Child:
        """Starts `windlass ARGUMENTS`; `hear` gets each line that it writes."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "windlass.client.cli.tied",
            str(os.getpid()),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            start_new_session=True,
        )
        return cls(name, process, hear)

    async def ended(self) -> int:
        """Waits for its end and gives the exit code; negative: the signal that killed it."""
        code = await self.process.wait()
        await asyncio.shield(self._hearing)  # whoever gives up waiting does not end the listening
        return code

    async def stop(self) -> int:
        """SIGTERM, patience, SIGKILL. Gives the exit code."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
            except TimeoutError:
                self.kill()
        return await self.ended()

    def kill(self) -> None:
        """SIGKILL, and nothing before it: what a power cut looks like from inside."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGKILL)

    async def _hear(self, hear: Callable[[str], None]) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            hear(line.decode("utf-8", "replace").rstrip())


def free_port() -> int:
    """A TCP port of 127.0.0.1 for a program that this one starts; nobody else is given it as long as this one lives.

    It is below the ports that the kernel gives to whoever asks for any: those may be gone before the program listens.
    Others who ask here see the UDP socket of the same number, which is never closed.
    """
    for port in random.sample(range(_PORTS_FIRST, _kernels_first_port()), _PORTS_TRIED):
        with socket.socket(type=socket.SOCK_DGRAM) as claim, socket.socket() as probe, contextlib.suppress(OSError):
            claim.bind(("127.0.0.1", port))
            probe.bind(("127.0.0.1", port))
            claim.detach()
            return port
    raise OSError(f"none of {_PORTS_TRIED} ports of 127.0.0.1 was free")


def _kernels_first_port() -> int:
    """Or a higher one, where the kernel has been given them all."""
    told = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(told.read_text().split()[0]) if told.exists() else _KERNELS_FIRST_PORT
    return max(first, _PORTS_FIRST + 10 * _PORTS_TRIED)
