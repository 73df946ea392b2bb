"""`make demo` itself, as a newcomer runs it, and the worse case: the engine killed in the middle of the same load."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.acceptance.programs import EXAMPLES, ROOT, Engine, Program
from windlass.client import Client, Started
from windlass.engine.checking import check_rows
from windlass.storage.offline import Reader

ORDERS = 20


def test_the_demo_shows_what_it_promises() -> None:
    done = subprocess.run(
        [sys.executable, "examples/orders/demo.py"], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for seen in ("kill -9", "inspects", "✓ a WebAssembly task", "✓ 20 orders completed", "all of it was seen"):
        assert seen in done.stdout, f"{seen!r} is missing in:\n{done.stdout}"
    assert "✗" not in done.stdout


def order(number: int) -> dict[str, object]:
    quantity = 150 if number % 5 == 0 else 1
    return {"order": {"id": f"{number}", "items": [{"sku": "rope", "price": 400, "quantity": quantity}]}}


async def test_kill_9_of_the_engine_loses_no_accepted_order_and_records_nothing_twice(tmp_path: Path) -> None:
    first = Engine(tmp_path)
    programs: list[Program] = [first, first.worker("w1"), first.worker("w2")]
    try:
        async with first.client() as client:
            await client.register(EXAMPLES / "orders" / "order.yaml")
            started = [await client.start("process-order", order(number)) for number in range(ORDERS)]
            await some_are_through_and_some_are_not(client, started)
            first.kill()
            programs.append(Engine(tmp_path, port=int(first.address.rpartition(":")[2])))
            results = await asyncio.gather(*(client.wait(each, timeout=80) for each in started))
            assert [each.state for each in results] == ["completed"] * ORDERS
            for each in started:
                await nothing_is_there_twice(client, each)
    finally:
        for program in programs[1:] + programs[:1]:
            program.stop()
    with Reader(tmp_path / "data") as reader:
        assert check_rows(reader.rows) == []


async def some_are_through_and_some_are_not(client: Client, started: list[Started]) -> None:
    """Follows all runs until a quarter of them is through: the rest is in every possible stage."""
    ends = [asyncio.create_task(client.wait(each)) for each in started]
    for count, end in enumerate(asyncio.as_completed(ends)):
        await end
        if count == ORDERS // 4:
            break
    open_ = sum(not end.done() for end in ends)
    for end in ends:
        end.cancel()
    await asyncio.gather(*ends, return_exceptions=True)
    assert open_, "the load was through before the engine could be killed in the middle of it"


async def nothing_is_there_twice(client: Client, started: Started) -> None:
    """A history without gaps, each task's result in it once, one start, one end."""
    events = [event async for event in client.history(started)]
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    visit, results = 0, Counter[tuple[int, str]]()
    for event in events:
        visit += event.type == "StateEntered"
        if event.type == "TaskCompleted":
            results[visit, event.path] += 1
    assert set(results.values()) == {1}, results
    kinds = Counter(event.type for event in events)
    assert kinds["RunStarted"] == kinds["RunClosed"] == 1
