"""`windlass dev`: an engine and a worker in one command, for people trying it out.

Both are child processes of this one, as they would be in earnest; their lines are passed on with their names before
them. Ctrl-c stops the worker first, so that it gives back what it holds, then the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from windlass.client.cli.extras import load
from windlass.client.cli.failures import UNAVAILABLE, Stop
from windlass.client.client import Client
from windlass.client.connection import DEFAULT_TARGET
from windlass.client.errors import WindlassError

STOP_SECONDS = 15.0  #: given to a child after SIGTERM, before it is killed
_COLOURS = {"engine": "cyan", "worker": "magenta", "dev": "bold"}


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path(".windlass"), show_default=True)
@click.option("--listen", metavar="HOST:PORT", default=DEFAULT_TARGET, show_default=True)
@click.option("--slots", type=click.IntRange(1), default=4, show_default=True, help="Tasks the worker runs at once.")
@click.option("--handlers", multiple=True, metavar="MODULE", help="Python handlers for the worker; may be repeated.")
def dev(data_dir: Path, listen: str, slots: int, handlers: tuple[str, ...]) -> None:
    """Run an engine and a worker here, data in ./.windlass, until ctrl-c."""
    load("windlass.engine", "engine")
    load("windlass.worker", "worker")
    engine = ["engine", "--data-dir", str(data_dir), "--listen", listen]
    worker = ["worker", "--engine", listen, "--slots", str(slots)]
    if handlers:
        worker += ["--handlers", ",".join(handlers)]
    asyncio.run(_Dev(listen).run(engine, worker))


class _Child:
    """One child process, its lines passed on with its name."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, console: Console) -> None:
        self.name, self.process = name, process
        self._console = console
        self._passing = asyncio.create_task(self._pass_on())

    async def _pass_on(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            say(self._console, self.name, line.decode("utf-8", "replace").rstrip())

    async def stop(self) -> None:
        """SIGTERM, patience, SIGKILL."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            try:
                await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        await self._passing


class _Dev:
    """Both children and the way they start and end."""

    def __init__(self, listen: str) -> None:
        self._listen = listen
        self._console = Console(highlight=False, soft_wrap=True)
        self._children: list[_Child] = []
        self._stopped = asyncio.Event()

    async def run(self, engine: Sequence[str], worker: Sequence[str]) -> None:
        """Until ctrl-c, or until a child ends by itself, which is an error."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopped.set)
        try:
            await self._start("engine", engine)
            await self._ready()
            await self._start("worker", worker)
            say(
                self._console,
                "dev",
                f"ready at {self._listen}; try: windlass register examples/hello.yaml; stop with ctrl-c",
            )
            await self._until_stopped()
        finally:
            for child in reversed(self._children):
                await child.stop()

    async def _start(self, name: str, arguments: Sequence[str]) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "windlass.client.cli",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # ctrl-c goes to this process alone, which stops its children in order
        )
        self._children.append(_Child(name, process, self._console))

    async def _ready(self) -> None:
        """Waits until the engine answers, or is gone."""
        async with Client(self._listen, retry_for=60.0) as client:
            asking = asyncio.create_task(client.info())
            ending = asyncio.create_task(self._ended())
            await asyncio.wait({asking, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                asking.cancel()
                await ending  # raises with what happened
            ending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                try:
                    await asking
                except WindlassError as error:
                    raise Stop(f"the engine does not answer: {error}", UNAVAILABLE) from error

    async def _until_stopped(self) -> None:
        waits = {asyncio.create_task(self._stopped.wait()), asyncio.create_task(self._ended())}
        done, open_ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in open_:
            task.cancel()
        if self._stopped.is_set():
            say(self._console, "dev", "stopping")
            return
        for task in done:
            task.result()

    async def _ended(self) -> None:
        """Raises as soon as a child has ended by itself."""
        ends = {asyncio.create_task(child.process.wait()): child.name for child in self._children}
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        task = done.pop()
        raise Stop(f"the {ends[task]} ended with exit code {task.result()}; its last lines say why", UNAVAILABLE)


def say(console: Console, name: str, line: str) -> None:
    """One line with the name of who says it."""
    console.print(Text.assemble((f"{name:<7}│ ", _COLOURS.get(name, "")), line))


COMMANDS = (dev,)
