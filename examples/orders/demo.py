"""The demo: an engine, two workers, twenty orders, and one worker killed while it works.

    python examples/orders/demo.py        (or: make demo)

Everything runs as it would in earnest: three processes that speak gRPC, a store on disk, task code in its jail. The
worker is killed with SIGKILL, which no program can prepare for. What is claimed at the end was read back from the
engine's history; if any of it was not really there, the exit code is 1.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from windlass.client import Client, RunResult, Started
from windlass.client.cli.children import Child, free_port
from windlass.client.cli.story import Attempt, Step, Story

HERE = Path(__file__).parent
ORDERS = 20
LARGE = (3, 8, 13)  #: orders that are inspected for a while: one of them is in a worker's hands when it dies
WORKERS = ("north", "south")
PATIENCE = 90.0  #: seconds until the demo gives up


def order(number: int) -> dict[str, object]:
    """An order like any other; the large ones take a close look."""
    quantity = 300 if number in LARGE else 1 + number % 3
    return {"id": f"order-{number:02}", "items": [{"sku": "rope", "price": 250 + number, "quantity": quantity}]}


class Demo:
    """What has been seen so far, and how it is shown."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.stories = {f"order-{number:02}": Story() for number in range(1, ORDERS + 1)}
        self.results: dict[str, RunResult] = {}
        self.begun = time.monotonic()
        self.killed = ""  #: worker
        self.victim = ""  #: order whose task it held
        self.heir = ""  #: worker that ran that task again
        self.live: Live | None = None
        self.logs: list[str] = []

    def say(self, line: str, style: str = "") -> None:
        """A line of the demo's own."""
        self.console.print(Text.assemble((f"{time.monotonic() - self.begun:5.1f} s  ", "dim"), (line, style)))

    def taken_over(self, story: Story) -> None:
        """Says, once, that the killed worker's task has begun again elsewhere."""
        step = list(story.steps.values())[-1]
        if not self.heir and step.state == "inspect" and step.attempts[-1].worker != self.killed:
            self.heir = step.attempts[-1].worker
            self.say(f"the lease of {self.killed} has run out: {self.heir} inspects {self.victim} anew", "bold yellow")

    def hear(self, line: str) -> None:
        """A line of a child's log: kept, and shown only if the demo fails."""
        self.logs.append(line)

    def draw(self) -> Group:
        """All orders at once."""
        table = Table(box=None, pad_edge=False, show_header=False)
        for name, story in self.stories.items():
            done = story.closed
            mark = Text("✓", "green") if done == "completed" else Text("✗", "red") if done else Text("·", "dim")
            style = "bold red" if name == self.victim and not done else ""
            table.add_row(mark, Text(name, style), Text(trail(story), no_wrap=True, overflow="ellipsis"))
        return Group(table, Text(f"{len(self.results)} of {ORDERS} orders are through"))


#: How an attempt ended, in one sign; a lost one was in the hands of a worker that died.
SIGNS = {"completed": "", "": "…", "crashed": "†"}
LEGEND = "! = failed, tried again   † = lost with its worker"


def trail(story: Story) -> str:
    """An order's way so far: each task with the workers that tried it."""
    return " · ".join(f"{step.state} {_tries(step)}" for step in story.steps.values() if step.attempts)


def begun(step: Step) -> list[Attempt]:
    """The attempts of a task without those that a worker gave back unbegun because its slots were busy."""
    return [each for each in step.attempts if each.end != "returned"]


def _tries(step: Step) -> str:
    return " ".join(each.worker + SIGNS.get(each.end, "!") for each in begun(step))


async def follow(demo: Demo, client: Client, name: str, started: Started) -> None:
    """Keeps the picture of one order up to date until it is through."""
    story = demo.stories[name]
    async for message in client.watch(started, full=True):
        for event in message.events:
            story.add(event)
            if name == demo.victim and event.type == "AttemptStarted":
                demo.taken_over(story)
        if demo.live is not None:
            demo.live.update(demo.draw())
    demo.results[name] = await client.wait(started, timeout=PATIENCE)
    if demo.live is None:
        demo.say(f"{name} {demo.results[name].state}: {trail(story)}")


async def kill_one(demo: Demo, client: Client, runs: dict[str, Started], workers: dict[str, Child]) -> None:
    """Waits until a worker holds the slow task of a large order, then kills that worker with SIGKILL."""
    while len(demo.results) < ORDERS:
        for number in LARGE:
            name = f"order-{number:02}"
            work = (await client.get(runs[name])).open_work
            held = [each for each in work if each.phase == "leased" and each.worker_id in workers]
            if held and "inspect" in [step.state for step in demo.stories[name].steps.values()]:
                workers[held[0].worker_id].kill()
                demo.killed, demo.victim = held[0].worker_id, name
                demo.say(f"kill -9 {demo.killed}, which is inspecting {name}", "bold red")
                return
        await asyncio.sleep(0.05)


async def run(demo: Demo, folder: Path) -> bool:
    """The whole demo; True if everything promised was seen."""
    address = f"127.0.0.1:{free_port()}"
    engine = await Child.start(
        "engine", "engine", "--data-dir", str(folder), "--listen", address, "--lease-seconds", "3", hear=demo.hear
    )
    workers: dict[str, Child] = {}
    try:
        async with Client(address) as client:
            info = await client.info()
            demo.say(
                f"engine {info.version} answers at {address}, its store is {info.storage.partition(':')[0]}, on disk"
            )
            for name in WORKERS:
                arguments = ("worker", "--engine", address, "--id", name, "--slots", "2")
                workers[name] = await Child.start(name, *arguments, hear=demo.hear)
            await present(client)
            demo.say("two workers are here: north and south, each with two jailed slots")
            return await orders(demo, client, workers)
    finally:
        for child in (*workers.values(), engine):
            await child.stop()


async def present(client: Client) -> None:
    """Waits until both workers are registered."""
    while True:
        if {each.worker_id async for each in client.workers()} >= set(WORKERS):
            return
        await asyncio.sleep(0.05)


async def orders(demo: Demo, client: Client, workers: dict[str, Child]) -> bool:
    """Registers the workflow, runs the orders, kills a worker, and looks at what the engine recorded."""
    registered = await client.register(HERE / "order.yaml")
    demo.say(f"registered {registered.workflow}, revision {registered.revision[:12]}")
    names = dict(zip(demo.stories, range(1, ORDERS + 1), strict=True))
    runs = {
        name: await client.start("process-order", {"order": order(number)}, workflow_id=name)
        for name, number in names.items()
    }
    demo.say(f"started {len(runs)} orders")
    if demo.console.is_terminal:
        demo.live = Live(demo.draw(), console=demo.console, refresh_per_second=10)
        demo.live.start()
    try:
        following = [follow(demo, client, name, started) for name, started in runs.items()]
        await asyncio.gather(kill_one(demo, client, runs, workers), *following)
    finally:
        if demo.live is not None:
            demo.live.update(demo.draw())
            demo.live.stop()
    if not demo.killed:
        demo.say("the orders were through before a worker could be killed in the middle of one", "bold red")
        return False
    code = await workers[demo.killed].ended()
    recorded = {name: await read_back(client, started) for name, started in runs.items()}
    return report(demo, recorded, code)


async def read_back(client: Client, started: Started) -> tuple[Story, Counter[str]]:
    """What the engine's history says of a run, and how often each task's result was recorded."""
    story, results = Story(), Counter[str]()
    async for event in client.history(started):
        story.add(event)
        if event.type == "TaskCompleted":
            results[f"{len(story.visits)}:{event.path}"] += 1
    return story, results


def report(demo: Demo, recorded: dict[str, tuple[Story, Counter[str]]], killed_code: int) -> bool:
    """The table and the list of what was seen; True if nothing is missing."""
    steps = [step for story, _ in recorded.values() for step in story.steps.values() if step.attempts]
    completed = [step for step in steps if step.attempts[-1].end == "completed"]
    table(demo, recorded)
    lost = [step for step in recorded[demo.victim][0].steps.values() if step.state == "inspect"]
    tries = begun(lost[0]) if lost else []
    taken = len(tries) > 1 and tries[0].worker == demo.killed and tries[0].end != "completed"
    seen = {
        "an engine and two workers, three processes": len({each.worker for step in steps for each in step.attempts})
        == 2,
        "JavaScript tasks ran in their sandbox": any(step.state == "price" for step in completed),
        "a WebAssembly task charged every order": sum(step.state == "charge" for step in completed) == ORDERS,
        "tasks that failed the first time were tried again": any(
            step.state == "reserve" and "STOCK_BUSY" in [each.end for each in step.attempts] for step in completed
        ),
        f"the worker {demo.killed} was killed with SIGKILL": killed_code == -9,
        f"its task of {demo.victim} was run again by the other": taken and tries[-1].worker != demo.killed,
        f"{ORDERS} orders completed": sum(each.state == "completed" for each in demo.results.values()) == ORDERS,
        "every result was recorded exactly once": all(set(counts.values()) == {1} for _, counts in recorded.values()),
    }
    for claim, true in seen.items():
        demo.console.print(Text.assemble(("✓ ", "green") if true else ("✗ ", "bold red"), claim))
    return all(seen.values())


def table(demo: Demo, recorded: dict[str, tuple[Story, Counter[str]]]) -> None:
    """One row per order: how it ended, its attempts, and who worked on it."""
    shown = Table(box=None, pad_edge=False, header_style="dim")
    for header, width in (("ORDER", 8), ("STATE", 9), ("TASKS", 5), ("ATTEMPTS", 8)):
        shown.add_column(header, min_width=width, no_wrap=True)
    shown.add_column("WAY", overflow="fold")
    for name, (story, _) in recorded.items():
        tasks = [step for step in story.steps.values() if step.attempts]
        attempts = sum(len(begun(step)) for step in tasks)
        style = "bold" if name == demo.victim else ""
        shown.add_row(name, demo.results[name].state, str(len(tasks)), str(attempts), trail(story), style=style)
    demo.console.print()
    demo.console.print(shown, Text(f"\n{LEGEND}\n", "dim"))


async def main() -> int:
    """Runs the demo; the exit code."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    demo = Demo(console)
    with tempfile.TemporaryDirectory(prefix="windlass-demo-") as folder:
        try:
            good = await asyncio.wait_for(run(demo, Path(folder)), PATIENCE)
        except TimeoutError:
            demo.say(f"gave up after {PATIENCE:g} s with {len(demo.results)} of {ORDERS} orders through", "bold red")
            good = False
    if not good:
        console.print(
            "\nthe last lines of the engine's and the workers' logs:", *demo.logs[-30:], sep="\n", markup=False
        )
    demo.say("all of it was seen" if good else "something promised was not seen", "bold green" if good else "bold red")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
