"""`windlass dev`: an engine and a worker in one command, for people trying it out.

Both are child processes of this one, as they would be in earnest; their lines are passed on with their names before
them. Ctrl-c stops the worker first, so that it gives back what it holds, then the engine.
"""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from windlass.client.cli.children import Child
from windlass.client.cli.extras import load
from windlass.client.cli.failures import UNAVAILABLE, Stop
from windlass.client.client import Client
from windlass.client.connection import DEFAULT_TARGET

_COLOURS = {"engine": "cyan", "worker": "magenta", "dev": "bold"}


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default=Path(".windlass"), show_default=True)
@click.option("--listen", metavar="HOST:PORT", default=DEFAULT_TARGET, show_default=True, envvar="WINDLASS_LISTEN")
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


class _Dev:
    """Both children and the way they start and end."""

    def __init__(self, listen: str) -> None:
        self._listen = listen
        self._console = Console(highlight=False, soft_wrap=True)
        self._children: list[Child] = []
        self._stopped = asyncio.Event()

    async def run(self, engine: Sequence[str], worker: Sequence[str]) -> None:
        """Until ctrl-c, or until a child ends by itself, which is an error."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopped.set)
        try:
            await self._start("engine", engine)
            async with Client(self._listen, retry_for=60.0) as client:
                going = await self._meanwhile(client.info())
            if going:
                await self._start("worker", worker)
                self._say(f"ready at {self._listen}; try: windlass register examples/hello.yaml; stop with ctrl-c")
                await self._meanwhile(asyncio.Event().wait())
            self._say("stopping")
        finally:
            for child in reversed(self._children):
                await child.stop()

    async def _start(self, name: str, arguments: Sequence[str]) -> None:
        hear = functools.partial(say, self._console, name)
        self._children.append(await Child.start(name, *arguments, hear=hear))

    async def _meanwhile(self, work: Coroutine[Any, Any, object]) -> bool:
        """Waits for `work`: True when it is done, False on ctrl-c. Raises Stop when a child ends by itself."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stopped.wait())
        ends = {asyncio.create_task(child.process.wait()): child.name for child in self._children}
        done, others = await asyncio.wait({working, stopping, *ends}, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        if stopping in done:
            return False
        for task, name in ends.items():
            if task in done:
                raise Stop(f"the {name} ended with exit code {task.result()}; its last lines say why", UNAVAILABLE)
        working.result()
        return True

    def _say(self, line: str) -> None:
        say(self._console, "dev", line)


def say(console: Console, name: str, line: str) -> None:
    """One line with the name of who says it."""
    console.print(Text.assemble((f"{name:<7}│ ", _COLOURS.get(name, "")), line))


COMMANDS = (dev,)
