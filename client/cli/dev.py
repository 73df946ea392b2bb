"""`windlass dev`: an engine and a worker in one command, for people trying it out.

Both are child processes of this one, as they would be in earnest; their lines are passed on with their names before
them. Ctrl-c, SIGTERM and the end of the terminal stop the worker first, so that it gives back what it holds, then the
engine. That the engine serves is taken from its own line and not from an answer on the port: that may be another one's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import signal
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from windlass.client.cli.children import Child
from windlass.client.cli.connected import wrong
from windlass.client.cli.extras import load
from windlass.client.cli.failures import UNAVAILABLE, Stop
from windlass.client.cli.parameters import address_option
from windlass.client.cli.screen import Console
from windlass.client.connection import DEFAULT_TARGET

_COLOURS = {"engine": "cyan", "worker": "magenta", "dev": "bold"}
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SERVES = re.compile(r"engine \S+ serves on ")
_DEATHS, _DEATHS_SECONDS = 5, 60.0  #: a worker that is killed more often than this within this is not started again


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path(".windlass"),
    show_default=True,
    envvar="WINDLASS_DATA_DIR",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=DEFAULT_TARGET,
    show_default=True,
    envvar="WINDLASS_LISTEN",
    callback=address_option,
)
@click.option("--slots", type=click.IntRange(1), default=4, show_default=True, help="Tasks the worker runs at once.")
@click.option("--handlers", multiple=True, metavar="MODULE", help="Python handlers for the worker; may be repeated.")
def dev(data_dir: Path, listen: str, slots: int, handlers: tuple[str, ...]) -> None:
    """Run an engine and a worker here, data in ./.windlass, until ctrl-c."""
    load("windlass.engine", "engine")
    load("windlass.worker", "worker")
    if data_dir.exists() and not data_dir.is_dir():
        raise wrong(f"--data-dir: {data_dir} is not a directory")
    # Its line that it serves is waited for, so it must be written.
    level = "debug" if os.environ.get("WINDLASS_LOG_LEVEL") == "debug" else "info"
    engine = ["engine", "--data-dir", str(data_dir), "--listen", listen, "--log-level", level]
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
        self._stopped, self._serves = asyncio.Event(), asyncio.Event()
        self._deaths: list[float] = []  #: when the worker was killed, lately

    async def run(self, engine: Sequence[str], worker: Sequence[str]) -> None:
        """Until ctrl-c, or until a child ends by itself, which is an error."""
        loop = asyncio.get_running_loop()
        for number in _STOPS:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stopped.set))
        try:
            await self._start("engine", engine)
            if await self._meanwhile(self._serves.wait()):
                await self._start("worker", worker)
                self._say(f"ready at {self._listen}; try: windlass register examples/hello.yaml; stop with ctrl-c")
                while await self._meanwhile(self._children[-1].ended()):
                    await self._again(worker)
            self._say("stopping")
        finally:
            for child in reversed(self._children):
                await child.stop()
            for number in _STOPS:  # impatience must not turn the exit code into the signal's
                signal.signal(number, signal.SIG_IGN)

    async def _start(self, name: str, arguments: Sequence[str]) -> None:
        self._children.append(await Child.start(name, *arguments, hear=functools.partial(self._hear, name)))

    async def _again(self, arguments: Sequence[str]) -> None:
        """Starts the worker anew if it was killed, as somebody who tries things out may do. Raises Stop if not."""
        ended = self._children.pop()
        now = asyncio.get_running_loop().time()
        self._deaths = [each for each in self._deaths if now - each < _DEATHS_SECONDS] + [now]
        if (ended.process.returncode or 0) >= 0 or len(self._deaths) > _DEATHS:
            raise _end_of(ended)
        self._say(f"the worker was killed by {_signal_of(ended)}; starting it again")
        await self._start("worker", arguments)

    async def _meanwhile(self, work: Coroutine[Any, Any, object]) -> bool:
        """Waits for `work`: True when it is done, False on ctrl-c. Raises Stop when the engine ends by itself."""
        engine = self._children[0]
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stopped.wait())
        ending = asyncio.create_task(engine.ended())
        done, others = await asyncio.wait({working, stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        if stopping in done:
            return False
        if ending in done:
            raise _end_of(engine)
        working.result()
        return True

    def _hear(self, name: str, line: str) -> None:
        if name == "engine" and _SERVES.search(line):
            self._serves.set()
        say(self._console, name, line)

    def _say(self, line: str) -> None:
        say(self._console, "dev", line)


def _end_of(child: Child) -> Stop:
    """What to say of a child that should not have ended, with its own exit code where it has one."""
    code = child.process.returncode or 0
    if code < 0:
        return Stop(f"the {child.name} was killed by {_signal_of(child)}", UNAVAILABLE)
    return Stop(f"the {child.name} ended with exit code {code}; its last lines say why", code or UNAVAILABLE)


def _signal_of(child: Child) -> str:
    number = -(child.process.returncode or 0)
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have numbers only
        return f"signal {number}"


def say(console: Console, name: str, line: str) -> None:
    """One line with the name of who says it. A terminal that is gone hears nothing; the children are stopped then."""
    with contextlib.suppress(OSError):
        console.print(Text.assemble((f"{name:<7}│ ", _COLOURS.get(name, "")), line))


COMMANDS = (dev,)
