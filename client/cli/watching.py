"""`windlass watch`: a run while it happens.

On a terminal a picture that is drawn anew; into a pipe one line per event.
"""

from __future__ import annotations

from datetime import UTC, datetime

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from windlass.client.cli.connected import connected
from windlass.client.cli.parameters import RunName
from windlass.client.cli.plain import plain
from windlass.client.cli.screen import COLOURS, Screen
from windlass.client.cli.story import Step, Story, detail_of, place_of
from windlass.client.cli.waiting import parked_at
from windlass.client.client import Client
from windlass.client.values import RunResult, result_of, state_name
from windlass.v1 import common_pb2, workflow_service_pb2

_LINES = 8  #: events shown under the picture


@click.command()
@click.argument("run", metavar="RUN", type=RunName())
@click.option("--from-now", is_flag=True, help="Skip what has happened so far.")
@connected
async def watch(client: Client, screen: Screen, run: str, from_now: bool) -> None:
    """Follow a run until it closes: its states, tasks and attempts as they happen."""
    shown = _Picture(screen, run) if screen.terminal else _Lines(screen)
    result: RunResult | None = None
    state = ""
    with shown:
        async for message in client.watch(run, full=True, from_now=from_now, idle=not screen.json):
            shown.show(message)
            before, state = state, state_name(message.state)
            if state != before:  # a person who watches should not have to ask `explain` what the run waits for
                shown.note(await parked_at(client, await client.run_id_of(run)) if state == "incident" else "")
            if message.HasField("result"):
                result = result_of(message.result)
    if result is not None:
        result.value()


class _Lines:
    """One line per event: JSON for programs, columns for a log."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, message: workflow_service_pb2.WatchRunResponse) -> None:
        """What the message says."""
        if self._screen.json:
            self._screen.value(plain(message), compact=True)
            return
        for event in message.events:
            self._screen.say(line_of(event))
        if message.HasField("result"):
            self._screen.say(state_name(message.result.state))

    def note(self, text: str) -> None:
        """What a person should know of the run's state."""
        if text and not self._screen.json:
            self._screen.say(text)


class _Picture:
    """States from top to bottom, each with its tasks, and the last events below."""

    def __init__(self, screen: Screen, run: str) -> None:
        self._run, self._story, self._state, self._note = run, Story(), "", ""
        self._recent: list[str] = []
        self._live = Live(console=screen.console, refresh_per_second=8)

    def __enter__(self) -> _Picture:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, message: workflow_service_pb2.WatchRunResponse) -> None:
        """Draws the run as it is after the message."""
        for event in message.events:
            self._story.add(event)
            self._recent.append(line_of(event))
        self._recent = self._recent[-_LINES:]
        self._state = state_name(message.result.state if message.HasField("result") else message.state)
        self._live.update(self._draw(), refresh=message.HasField("result"))

    def note(self, text: str) -> None:
        """What a person should know of the run's state; stays until it changes."""
        self._note = text
        self._live.update(self._draw())

    def _draw(self) -> RenderableType:
        title = Text.assemble(self._run, "  ", (self._state, COLOURS.get(self._state, "")))
        table = Table(box=None, pad_edge=False, show_header=False)
        for place, (state, visit) in enumerate(self._story.visits):
            here = place == len(self._story.visits) - 1 and not self._story.closed
            mark: RenderableType = Spinner("dots") if here else Text("✓", style="green")
            table.add_row(mark, Text(state, style="bold" if here else ""), _steps(self._story.steps_of(visit)))
        note = [Text(self._note)] if self._note else []
        return Group(title, table, *note, *(Text(line, style="dim") for line in self._recent))


def _steps(steps: list[Step]) -> Text:
    """The tasks of one visit; of many (a map) only how they stand."""
    if len(steps) > 12:
        done = sum(bool(step.outcome) for step in steps)
        return Text(f"{done} of {len(steps)} done")
    lines: list[str] = []
    for step in steps:
        tries = ", ".join(f"{each.end or 'running'} on {each.worker}" for each in step.attempts)
        lines.append(f"{step.path + ': ' if step.path else ''}{tries}")
    return Text("\n".join(lines))


def line_of(event: common_pb2.HistoryEvent) -> str:
    """An event in one line: time, kind, place, what."""
    time = datetime.fromtimestamp(event.time.seconds + event.time.nanos / 1e9, tz=UTC).astimezone()
    return f"{time:%H:%M:%S.%f}"[:-3] + f"  {event.type:<18} {place_of(event):<16} {detail_of(event)}".rstrip()


COMMANDS = (watch,)
