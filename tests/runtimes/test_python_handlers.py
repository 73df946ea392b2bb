"""The runtime "python": handlers with models, in the worker's own process."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import msgspec
import pydantic
import pytest

from tests.runtimes.guests import task
from windlass.runtimes import failures
from windlass.runtimes.builtin import standard_handlers
from windlass.runtimes.port import (
    Activation,
    Completion,
    Extension,
    Heartbeat,
    Limits,
    Progress,
    Route,
    Spawn,
    Suspend,
    TrustedNote,
)
from windlass.runtimes.python import THREADS_NAME, PythonHandlers
from windlass.runtimes.python_context import Deadline, TaskContext, TaskFailure
from windlass.runtimes.python_handlers import BadHandler, HandlerRegistry, handler


class Order(pydantic.BaseModel):
    """What is ordered."""

    item: str
    count: int = pydantic.Field(gt=0)


class Receipt(pydantic.BaseModel):
    """What was charged."""

    total: int


class Prices(pydantic.BaseModel):
    """What things cost."""

    price: int = 2


@handler("orders.charge", name="Charge", category="payment", stateful=True)
async def charge(input: Order, config: Prices, ctx: TaskContext) -> Receipt:
    """Charge for an order."""
    ctx.progress(0.5, "half")
    ctx.heartbeat({"seen": input.count})
    ctx.log("info", "charged", item=input.item)
    ctx.set("charged", True)
    return Receipt(total=input.count * config.price)


@handler("orders.count")
def count(input: list[int], ctx: TaskContext) -> int:
    """Count in a thread."""
    assert threading.current_thread() is not threading.main_thread()
    ctx.progress(1.0)
    return len(input)


@handler("orders.ask")
def ask(ctx: TaskContext) -> None:
    """Ask for this and that."""
    assert ctx.get("tenant") == "x"
    assert ctx.get("nothing", 5) == 5
    assert ctx.checkpoint == {"page": 3}
    assert ctx.resume_state == [1]
    ctx.spawn("child", {"a": 1}, id="c", detached=True)
    ctx.suspend({"job": 1}, after="5s")
    ctx.route("vip")


@handler("orders.fails")
def fails(input: str) -> Any:
    """Fail in the way that is asked for."""
    if input == "business":
        raise TaskFailure("CARD_DECLINED", "no", details={"bank": "x"}, retryable=False, next_delay="2s")
    if input == "bad output":
        return object()
    if input == "timeout":
        raise TimeoutError("of its own")
    if input == "exit":
        raise SystemExit(3)
    if input == "interrupt":
        raise KeyboardInterrupt
    raise ZeroDivisionError("oops")


def test_a_failure_has_a_code_that_a_definition_can_name() -> None:
    taken = TaskFailure("card.declined", "no").failure
    assert (taken.code, taken.message, taken.authored) == ("card.declined", "no", True)
    refused = TaskFailure("card declined", "no").failure
    assert (refused.code, refused.authored) == (failures.USER_ERROR, False)
    assert "1 to 100 letters, digits and _ . : -" in refused.message
    assert refused.message.endswith("the message was: no")


@handler("orders.where")
def where(ctx: TaskContext) -> list[object]:
    """Tell where it runs."""
    return [ctx.run_id, ctx.attempt, ctx.idempotency_key]


@handler("orders.shouts")
def shouts(ctx: TaskContext) -> None:
    """Log at a level that there is not."""
    ctx.log("fatal", "oh no")  # type: ignore[arg-type]  # the point of it


@handler("orders.unkept")
def unkept() -> Receipt:
    """Give something else than it says."""
    return {"sum": 1}  # type: ignore[return-value]  # the point of it


@handler("orders.sleeps")
async def sleeps() -> None:
    """Wait for ever."""
    await asyncio.Event().wait()


@handler("orders.extends")
async def extends(input: str, ctx: TaskContext) -> float:
    """Ask for more time; how much there is then."""
    timeout = ctx.deadline.timeout
    assert timeout is not None
    before = timeout.when()
    ctx.extend(input)
    await asyncio.sleep(0)
    if timeout.when() == before:
        await asyncio.Event().wait()
    return (timeout.when() or 0) - asyncio.get_running_loop().time()


@handler("orders.blocks")
def blocks(ctx: TaskContext) -> None:
    """Wait in a thread until somebody says that it is enough."""
    while not ctx.cancelled:
        threading.Event().wait(0.01)
    ctx.raise_if_cancelled()


@handler("orders.fails_later")
async def fails_later(input: str) -> Any:
    """The same on the loop."""
    return fails.function(input)


REGISTRY = HandlerRegistry([charge, count, ask, fails, fails_later, where, shouts, unkept, sleeps, extends, blocks])


async def run(type: str, input: object = None, notes: list[TrustedNote] | None = None, **fields: Any) -> Completion:
    """Run one handler."""
    python = PythonHandlers(REGISTRY, threads=2)
    activation = Activation(task=task(), runtime="python", entry=type, input=msgspec.json.encode(input), **fields)
    try:
        return await python.run(activation, notes.append if notes is not None else None)
    finally:
        await python.close()


def code_of(completion: Completion) -> str:
    """Return the failure's code."""
    return completion.failure.code if completion.failure else "OK"


async def test_models_in_and_out() -> None:
    notes: list[TrustedNote] = []
    done = await run("orders.charge", {"item": "tea", "count": 3}, notes, config=b'{"price": 5}')
    assert done.failure is None
    assert done.output == b'{"total":15}'
    assert done.patch == {"charged": b"true"}
    assert done.checkpoint == b'{"seen":3}'
    assert [(line.message, line.metadata) for line in done.logs] == [("charged", b'{"item":"tea"}')]
    assert notes == [Progress(0.5, "half"), Heartbeat(b'{"seen":3}')]
    assert done.runtime.startswith("python 3")


async def test_a_log_level_that_there_is_not_is_the_handlers_mistake() -> None:
    done = await run("orders.shouts")
    assert code_of(done) == failures.USER_ERROR
    assert done.failure is not None
    assert "debug, info, warn, error, not 'fatal'" in done.failure.message
    assert done.logs == ()


@pytest.mark.parametrize("type", ["orders.fails", "orders.fails_later"])
@pytest.mark.parametrize(("way", "error"), [("exit", "SystemExit: 3"), ("interrupt", "KeyboardInterrupt: ")])
async def test_a_handler_that_exits_ends_its_attempt_and_not_the_worker(type: str, way: str, error: str) -> None:
    failure = (await run(type, way)).failure
    assert failure is not None
    assert (failure.code, failure.message) == (failures.USER_ERROR, error)


def test_a_wait_that_waits_for_nothing_is_the_authors_mistake() -> None:
    context = TaskContext(Activation(task=task(), runtime="python"), lambda note: None, Deadline())
    with pytest.raises(ValueError, match="at least one signal"):
        context.wait_for([])
    with pytest.raises(ValueError, match="any or all, not 'some'"):
        context.wait_for("go", mode="some")  # type: ignore[arg-type]  # the point of it
    assert context.asks == []


@pytest.mark.parametrize("type", ["orders.fails", "orders.fails_later"])
async def test_the_stack_of_a_failure_begins_at_the_handler(type: str) -> None:
    failure = (await run(type, "oops")).failure
    assert failure is not None
    first, place, *_ = failure.stack.splitlines()
    assert first.startswith("Traceback")
    assert f'File "{__file__}"' in place
    assert failure.stack.rstrip().endswith("ZeroDivisionError: oops")


async def test_synchronous_handler_runs_in_a_thread() -> None:
    notes: list[TrustedNote] = []
    done = await run("orders.count", [1, 2, 3], notes)
    assert done.output == b"3"
    await asyncio.sleep(0)
    assert notes == [Progress(1.0, "")]


async def test_context_and_asks() -> None:
    done = await run("orders.ask", context=b'{"tenant":"x"}', checkpoint=b'{"page":3}', resume=b"[1]")
    assert done.failure is None, done
    assert done.asks == (Spawn("child", b'{"a":1}', "c", True), Suspend(b'{"job":1}', 5_000_000), Route("vip"))


@pytest.mark.parametrize(
    ("type", "input", "code"),
    [
        ("orders.charge", {"item": "tea", "count": 0}, failures.BAD_INPUT),
        ("orders.charge", None, failures.BAD_INPUT),
        ("orders.nothing", None, failures.HANDLER_MISSING),
        ("orders.fails", "business", "CARD_DECLINED"),
        ("orders.fails", "bad output", failures.BAD_OUTPUT),
        ("orders.fails", "timeout", failures.USER_ERROR),
        ("orders.fails", "any", failures.USER_ERROR),
    ],
)
async def test_failures_have_names(type: str, input: object, code: str) -> None:
    done = await run(type, input, config=b"{}")
    assert code_of(done) == code, done
    assert done.failure is not None
    assert done.failure.message


async def test_what_an_outside_system_wants_to_know_is_at_hand() -> None:
    """The names that the documents give."""
    done = await run("orders.where")
    run_id, attempt, key = msgspec.json.decode(done.output or b"")
    assert (run_id, attempt, key.split(":")[0]) == (task().run_id, 1, task().run_id)


@pytest.mark.parametrize(
    ("type", "input", "config", "message"),
    [
        ("orders.charge", {"item": "tea", "count": 0}, b"{}", "the input does not fit: count: Input should be gr"),
        ("orders.charge", {"item": "tea", "count": 1}, b'{"price":"x"}', "the config does not fit: price: Input sho"),
        ("orders.unkept", None, b"{}", "the result does not fit: total: Field required"),
    ],
)
async def test_what_does_not_fit_is_said_with_its_place(type: str, input: object, config: bytes, message: str) -> None:
    done = await run(type, input, config=config)
    assert done.failure is not None
    assert done.failure.message.startswith(message), done.failure.message
    assert "pydantic" not in done.failure.message


async def test_business_failure_keeps_its_wishes() -> None:
    done = await run("orders.fails", "business")
    assert done.failure is not None
    assert (done.failure.retryable, done.failure.next_delay_us, done.failure.authored) == (False, 2_000_000, True)
    assert done.failure.details == b'{"bank":"x"}'


@pytest.mark.parametrize("type", ["orders.sleeps", "orders.blocks"])
async def test_deadline_and_cancel(type: str) -> None:
    assert code_of(await run(type, limits=Limits(wall_us=50_000))) == failures.TIMEOUT
    python = PythonHandlers(REGISTRY)
    activation = Activation(task=task(), runtime="python", entry=type)
    answer = python.submit(activation)
    await asyncio.sleep(0)
    assert python.cancel(activation.task.key)
    assert code_of(await answer) == failures.CANCELLED
    assert not python.cancel(activation.task.key)
    await python.close()


async def test_an_attempt_that_came_back_can_be_cancelled_though_an_older_one_still_cleans_up() -> None:
    cleaned = asyncio.Event()

    @handler("orders.lingers")
    async def lingers() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()

    python = PythonHandlers(HandlerRegistry([lingers]))
    activation = Activation(task=task(), runtime="python", entry="orders.lingers")
    older = python.submit(activation)
    await asyncio.sleep(0)
    assert python.cancel(activation.task.key)
    await asyncio.sleep(0)
    newer = python.submit(activation)
    cleaned.set()
    assert code_of(await older) == failures.CANCELLED
    assert python.cancel(activation.task.key)
    assert code_of(await newer) == failures.CANCELLED
    await python.close()


async def test_an_attempt_gets_the_time_that_it_asks_for() -> None:
    notes: list[TrustedNote] = []
    done = await run("orders.extends", "60s", notes, limits=Limits(wall_us=5_000_000))
    assert 50 < msgspec.json.decode(done.output) <= 60
    assert notes == [Extension(60_000_000)]


async def test_an_attempt_that_is_over_leaves_nothing_to_the_garbage_collector() -> None:
    """A circle in each of them costs a third of what the worker has to do for a short task."""
    gc.collect()
    gc.disable()
    try:
        await run("orders.count", [1])
        for thread in threading.enumerate():
            if thread.name.startswith(THREADS_NAME):  # it has answered, and may still hold what it was given
                thread.join()
        assert not [each for each in gc.get_objects() if isinstance(each, TaskContext)]
    finally:
        gc.enable()


async def test_an_end_never_comes_nearer() -> None:
    done = await run("orders.extends", "1ms", limits=Limits(wall_us=50_000))
    assert done.failure is not None
    assert (done.failure.code, done.failure.message) == ("TIMEOUT", "no end after 50 ms")


async def test_a_span_that_is_none_is_the_handlers_failure() -> None:
    done = await run("orders.extends", "soon")
    assert done.failure is not None
    assert "cannot read the duration" in done.failure.message


async def test_too_large_output_is_refused() -> None:
    done = await run("orders.count", [1], limits=Limits(output_bytes=0))
    assert code_of(done) == failures.OUTPUT_TOO_LARGE


def test_descriptions_carry_the_schemas() -> None:
    described = {one.type: one for one in REGISTRY.descriptions()}["orders.charge"]
    assert (described.name, described.category, described.stateful) == ("Charge", "payment", True)
    assert described.description == "Charge for an order."
    assert msgspec.json.decode(described.input_schema)["properties"]["count"]["exclusiveMinimum"] == 0
    assert msgspec.json.decode(described.output_schema)["required"] == ["total"]


def test_registry_takes_modules_and_refuses_doubles() -> None:
    registry = HandlerRegistry()
    assert registry.add_module(__name__) == 11
    assert len(registry) == 11
    with pytest.raises(BadHandler, match=r"orders\.charge"):
        registry.add(handler("orders.charge")(lambda: None))
    with pytest.raises(BadHandler, match="no handlers"):
        registry.add_module("json")
    with pytest.raises(BadHandler, match="surprise"):
        handler("x")(lambda surprise: None)


def test_ready_made_handlers_are_described() -> None:
    registry = HandlerRegistry(standard_handlers())
    assert [one.type for one in registry.descriptions()] == ["email.send", "http.request", "log.write", "webhook.call"]
    assert all(one.description and one.input_schema for one in registry.descriptions())
