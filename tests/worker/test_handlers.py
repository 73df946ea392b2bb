"""Trusted Python handlers through a worker: models checked, progress told, cancelled, described to the engine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.worker.conftest import StartWorker
from tests.worker.fake_engine import FakeEngine, Stored
from windlass.v1 import worker_service_pb2 as wire
from windlass.worker.handlers import registry_of, step_types
from windlass.worker.settings import BadSettings, WorkerSettings

MODULE = "tests.worker.sample_handlers"


async def done(*stored: Stored) -> None:
    for each in stored:
        await asyncio.wait_for(each.done.wait(), 30)


@pytest.fixture
async def handlers_only(engine: FakeEngine, start_worker: StartWorker) -> None:
    """A worker without a jail."""
    await start_worker(engine.address, runtimes=(), handlers=(MODULE,), slots=4)


@pytest.mark.usefixtures("handlers_only")
async def test_a_handler_gets_its_model_and_gives_its_own(engine: FakeEngine) -> None:
    good = engine.submit("python", handler="sample.charge", input=b'{"id": 7, "amount": 3}')
    refused = engine.submit("python", handler="sample.charge", input=b'{"id": 7, "amount": -1}')
    wrong = engine.submit("python", handler="sample.charge", input=b'{"id": "x"}')
    unknown = engine.submit("python", handler="sample.nothing")
    await done(good, refused, wrong, unknown)
    assert good.result is not None
    assert json.loads(good.result.output) == {"order": 7, "key": f"{good.task.run_id}:1:"}
    assert [line.message for line in good.result.logs] == ["charged"]
    failures = [each.result.failure for each in (refused, wrong, unknown) if each.result]
    assert [failure.code for failure in failures] == ["BAD_AMOUNT", "BAD_INPUT", "HANDLER_MISSING"]
    assert "id" in failures[1].message


@pytest.mark.usefixtures("handlers_only")
async def test_a_cancel_reaches_a_handler_and_its_checkpoint_is_kept(engine: FakeEngine) -> None:
    stored = engine.submit("python", handler="sample.slow")
    await engine.until(lambda: any(note.checkpoint for note in engine.notes))
    engine.cancel(stored, wire.CANCEL_REASON_CANCELLED)
    await done(stored)
    assert stored.result is not None
    assert stored.result.failure.code == "CANCELLED"


@pytest.mark.usefixtures("handlers_only")
async def test_a_blocking_handler_does_not_hold_up_the_worker(engine: FakeEngine) -> None:
    blocking = [engine.submit("python", handler="sample.blocking", input=b"1.0") for _ in range(3)]
    quick = engine.submit("python", handler="sample.charge", input=b'{"id": 1}')
    await done(quick)
    assert not any(each.done.is_set() for each in blocking)
    await done(*blocking)


@pytest.mark.usefixtures("handlers_only")
async def test_the_engine_is_told_what_there_is(engine: FakeEngine) -> None:
    await engine.until(lambda: engine.registers)
    profile = engine.registers[0]
    assert [runtime.name for runtime in profile.runtimes] == ["python"]
    told = {each.handler: each for each in profile.handlers}
    assert sorted(told) == ["sample.blocking", "sample.charge", "sample.hanging", "sample.slow"]
    charge = told["sample.charge"]
    assert (charge.display_name, charge.category, charge.description) == ("Charge", "payment", "Charge an order.")
    assert json.loads(charge.input_schema)["required"] == ["id"]
    assert "order" in json.loads(charge.output_schema)["properties"]


def test_the_ready_made_handlers_are_offered_on_request() -> None:
    names = [each.handler for each in step_types(registry_of(WorkerSettings(standard_handlers=True)))]
    assert {"http.request", "webhook.call", "email.send", "log.write"} <= set(names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (WorkerSettings(handlers=("no_such_module_here",)), "--handlers no_such_module_here: No module named"),
        (WorkerSettings(handlers=("no_such_module_here",)), "it is looked for in .* and where Python looks"),
        (
            WorkerSettings(handlers=("pay.py",)),
            "takes the name of a module, as pay or shop.pay, and no file; got pay.py",
        ),
        (WorkerSettings(handlers=("./pay",)), "takes the name of a module"),
        (WorkerSettings(handlers=("json",)), "--handlers json: the module json has no handlers"),
        (WorkerSettings(standard_handlers=True, allowed_networks=("everywhere",)), "allowed networks"),
    ],
)
def test_handlers_that_cannot_be_had_are_named(settings: WorkerSettings, message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        registry_of(settings)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def x(:", r"it cannot be imported: SyntaxError: .*\(theirs_\w+\.py, line 1\)"),
        ("import no_such_module_there", r"No module named 'no_such_module_there'$"),
        ("raise SystemExit(0)", r"SystemExit: 0 \(theirs_\w+\.py, line 1\)"),
        ("x = 1\nraise RuntimeError('no config')", r"RuntimeError: no config \(theirs_\w+\.py, line 2\)"),
        (
            "from windlass.runtimes.python_handlers import handler\nclass Odd: pass\n"
            "@handler('theirs.odd')\ndef odd(input: Odd): pass",
            r"theirs\.odd: the annotation of 'input', Odd, is neither a model nor a type that pydantic knows$",
        ),
    ],
    ids=["syntax", "imports", "exits", "raises", "annotation"],
)
def test_a_module_that_fails_by_itself_is_the_operators_and_no_defect(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    name = f"theirs_{request.node.callspec.id}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadSettings, match=message):
        registry_of(WorkerSettings(handlers=(name,)))
