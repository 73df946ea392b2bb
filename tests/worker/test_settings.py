"""Settings that cannot work are refused by name, and the log says what happened in one line."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from windlass.engine.core import units
from windlass.runtimes.jail_frames import RuntimeInfo
from windlass.runtimes.jail_isolation import Layer
from windlass.runtimes.jail_settings import JailReport
from windlass.v1 import common_pb2
from windlass.worker.backoff import Backoff
from windlass.worker.journal import NAME, Journal, log_to
from windlass.worker.profile import profile_of
from windlass.worker.settings import AMOUNT_MAX, OFFER_MAX, BadSettings, WorkerSettings, offer_of


class Chance:
    """Always the longest delay."""

    def uniform(self, low: float, high: float) -> float:
        assert low < high
        return high


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"engines": ()}, "--engine takes host:port"),
        ({"engines": ("localhost",)}, "--engine takes host:port"),
        ({"engines": ("localhost:99999",)}, "--engine takes host:port"),
        ({"slots": 0}, "--slots must be between"),
        ({"prefetch": 0}, "prefetch must be between"),
        ({"runtimes": ("ruby",)}, "no runtime 'ruby'"),
        ({"runtimes": ("python",)}, "needs --handlers"),
        ({"runtimes": ()}, "nothing to do"),
        ({"queues": ()}, "--queue"),
        ({"log_level": "loud"}, "--log-level must be one of"),
        ({"offer": {"GPU": 1}}, "--offer: 'GPU' is not the name of a unit"),
        ({"offer": {"gpu": 0}}, "--offer gpu: give a whole number from 1"),
        ({"offer": {f"u{n}": 1 for n in range(33)}}, "--offer: at most 32"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        WorkerSettings(**wrong).check()


def test_settings_that_work() -> None:
    WorkerSettings().check()
    WorkerSettings(engines=("[::1]:7711", "b:7712"), runtimes=("javascript", "python"), handlers=("m",)).check()
    assert WorkerSettings(worker_id="w").name() == "w"
    assert WorkerSettings().name() == WorkerSettings().name()


def test_the_profile_says_what_the_worker_has_and_lacks() -> None:
    layers = (Layer("seccomp", True, ""), Layer("landlock", False, "no such system call"))
    runtimes = (RuntimeInfo("javascript", "quickjs 1", False), RuntimeInfo("wasm", "", True, "not installed"))
    counts = dict.fromkeys(("busy", "idle", "spare", "starting", "queued"), 0)
    counts |= dict.fromkeys(("children_started", "children_crashed", "children_killed", "tasks_done"), 0)
    report = JailReport(layers=layers, runtimes=runtimes, **counts)
    handler = common_pb2.StepType(handler="mail", runtime="python")
    profile = profile_of(WorkerSettings(queues=("a", "b"), labels={"zone": "x"}), report, [handler])
    assert [runtime.name for runtime in profile.runtimes] == ["javascript", "python"]
    assert list(profile.active_guards) == ["seccomp"]
    assert list(profile.missing_guards) == ["landlock: no such system call"]
    assert list(profile.queues) == ["a", "b"]
    assert profile.instance_id != profile_of(WorkerSettings(), report, []).instance_id


def test_an_offer_is_read_from_flags_that_may_hold_several() -> None:
    assert offer_of(()) == {}
    assert offer_of(("gpu=2", "memory=16384, cpu=8000")) == {"gpu": 2, "memory": 16384, "cpu": 8000}
    assert dict(profile_of(WorkerSettings(offer={"gpu": 2}), None, []).offered_units) == {"gpu": 2}


@pytest.mark.parametrize(
    "wrong", ["gpu", "gpu=", "gpu=two", "gpu=1.5", "gpu=-1", "gpu=16Gi", "gpu=1,", "=1,", "gpu=1,gpu=2"]
)
def test_an_offer_that_cannot_be_read_is_quoted(wrong: str) -> None:
    with pytest.raises(BadSettings, match="--offer"):
        offer_of((wrong,))


def test_the_worker_and_the_engine_agree_on_what_a_unit_is() -> None:
    names = ("a", "gpu", "a-b_9", "x" * 24, "x" * 25, "", "Gpu", "1a", "a=b", "a,b", "é")
    for offer in ({name: amount} for name in names for amount in (0, 1, AMOUNT_MAX, AMOUNT_MAX + 1)):
        ((name, amount),) = offer.items()
        if units.flaw(name, amount):
            with pytest.raises(BadSettings):
                WorkerSettings(offer=offer).check()
        else:
            WorkerSettings(offer=offer).check()
    assert units.OFFER_MAX == OFFER_MAX


def test_delays_double_up_to_a_bound_and_start_again_after_success() -> None:
    backoff = Backoff(Chance(), first_s=0.1, most_s=1.0)  # type: ignore[arg-type]
    assert [round(backoff.next_s(), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert backoff.next_s(0.3) == 0.3
    backoff.reset()
    assert backoff.next_s() == 0.1


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(autouse=True)
def _logging_as_before() -> Any:
    logger = logging.getLogger(NAME)
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before[0], before[1], before[2]


def test_text_lines_name_their_values(stream: io.StringIO) -> None:
    log_to(stream)
    Journal().warning("task stopped", why="lease lost", run="r1")
    Journal().debug("too much")
    line = stream.getvalue()
    assert line.rstrip().endswith('WARNING task stopped why="lease lost" run=r1')
    assert line.count("\n") == 1


def test_json_lines_are_json(stream: io.StringIO) -> None:
    log_to(stream, as_json=True)
    Journal().info("registered", engine="e", resumed=False, why=ValueError("odd"))
    line = json.loads(stream.getvalue())
    assert (line["level"], line["event"], line["engine"], line["resumed"], line["why"]) == (
        "info",
        "registered",
        "e",
        False,
        "odd",
    )
