"""Every example does what its first lines say, on a real engine with real workers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.programs import EXAMPLES, Engine, engine
from windlass.client import RunNotCompleted
from windlass.client.cli.story import attributes_of
from windlass.definition.compile import compile_document
from windlass.definition.source import load


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine(tmp_path_factory.mktemp("examples"), workers=2) as started:
        yield started


@pytest.mark.parametrize("file", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_example_is_valid_without_a_warning(file: Path) -> None:
    assert compile_document(load(file)).warnings == ()


def test_the_wasm_module_is_what_its_source_says() -> None:
    specification = importlib.util.spec_from_file_location("build", EXAMPLES / "orders" / "build.py")
    assert specification is not None
    assert specification.loader is not None
    build = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(build)
    made = (EXAMPLES / "orders" / "charge.wasm").read_bytes()
    assert build.build() == made, "charge.wat has changed: run examples/orders/build.py"


async def test_hello(running: Engine) -> None:
    async with running.client() as client:
        await client.register(EXAMPLES / "hello.yaml")
        assert (await client.start_and_wait("hello", {"name": "Ada"}, wait=60)).value() == {"greeting": "Hello, Ada!"}


async def test_an_order_is_priced_reserved_charged_and_shipped(running: Engine) -> None:
    order = {
        "id": "A-1",
        "items": [{"sku": "rope", "price": 250, "quantity": 2}, {"sku": "hook", "price": 99, "quantity": 1}],
    }
    async with running.client() as client:
        await client.register(EXAMPLES / "orders" / "order.yaml")
        value = (await client.start_and_wait("process-order", {"order": order}, wait=60)).value()
    assert value["order"] == "A-1"
    assert value["total"] == 599
    assert len(value["authorization"]) == 8


async def test_an_order_for_nothing_is_rejected(running: Engine) -> None:
    order = {"id": "A-2", "items": [{"sku": "air", "price": 0, "quantity": 1}]}
    async with running.client() as client:
        await client.register(EXAMPLES / "orders" / "order.yaml")
        result = await client.start_and_wait("process-order", {"order": order}, wait=60)
    with pytest.raises(RunNotCompleted, match="ORDER_REJECTED"):
        result.value()


async def test_an_approval_waits_for_its_person(running: Engine) -> None:
    async with running.client() as client:
        await client.register(EXAMPLES / "approval" / "expense.yaml")
        small = await client.start_and_wait("expense", {"who": "ada", "amount": 12, "for": "pencils"}, wait=60)
        assert small.state == "completed"
        large = await client.start("expense", {"who": "ada", "amount": 4200, "for": "a desk"})
        (question,) = [each async for each in client.escalations(run_id=large.run_id)]
        await client.reject(question.escalation_id, {"reason": "nice", "note": "next year"}, by="bob")
        with pytest.raises(RunNotCompleted, match="REFUSED"):
            (await client.wait(large, timeout=60)).value()


async def test_a_fan_out_counts_in_the_order_of_the_items(running: Engine) -> None:
    async with running.client() as client:
        await client.register(EXAMPLES / "fanout" / "wordcount.yaml")
        texts = ["a b a", "b", "", "c c c"] * 10
        assert (await client.start_and_wait("wordcount", {"texts": texts}, wait=60)).value() == {
            "a": 20,
            "b": 20,
            "c": 30,
        }


async def test_a_saga_undoes_what_it_did_last_first(running: Engine) -> None:
    async with running.client() as client:
        await client.register(EXAMPLES / "saga" / "trip.yaml")
        assert (await client.start_and_wait("trip", {"trip": "Oslo"}, wait=60)).state == "completed"
        run = await client.start("trip", {"trip": "Lisbon", "car_available": False})
        with pytest.raises(RunNotCompleted, match="NO_CAR"):
            (await client.wait(run, timeout=60)).value()
        outputs = [attributes_of(event).get("output") async for event in client.history(run)]
    undone = [output["cancelled"] for output in outputs if isinstance(output, dict) and "cancelled" in output]
    assert undone == ["hotel in Lisbon", "flight to Lisbon"]


async def test_a_delivery_follows_its_signals(running: Engine) -> None:
    async with running.client() as client:
        await client.register(EXAMPLES / "signals" / "delivery.yaml")
        run = await client.start("delivery", {"parcel": "P-9"})
        await client.signal(run, "delivered", {"to": "the neighbour"})  # before anything waits for it: it is kept
        await client.signal(run, "picked_up", {"by": "van 7"})
        value = (await client.wait(run, timeout=60)).value()
    assert value["delivery"] == {"delivered": {"to": "the neighbour"}}
