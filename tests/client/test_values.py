"""Python values and the wire."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from pydantic import BaseModel

from windlass.client import RunNotCompleted, RunResult, Started
from windlass.client.values import decode, encode, ids, instant, span, state_name, state_number
from windlass.v1 import common_pb2


class Order(BaseModel):
    """An order as somebody may have it."""

    id: UUID
    due: datetime


def test_what_json_can_say_and_what_is_turned_into_it() -> None:
    order = Order(id=UUID(int=7), due=datetime(2030, 1, 2, tzinfo=UTC))
    text = encode({"order": order, "name": "Łódź", "when": datetime(2030, 1, 2, tzinfo=UTC)})
    assert "Łódź".encode() in text
    assert decode(text)["order"]["id"] == "00000000-0000-0000-0000-000000000007"


@pytest.mark.parametrize("value", [math.nan, math.inf, {"deep": [-math.inf]}])
def test_json_has_no_nan_and_no_infinity(value: object) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        encode(value)


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError):
        encode({"file": object()})


def test_spans_are_seconds_or_timedeltas_and_instants_have_a_zone() -> None:
    short = span(1.5)
    assert short is not None
    assert short.ToMilliseconds() == 1500
    assert span(timedelta(seconds=1.5)) == short
    assert span(None) is None
    with pytest.raises(ValueError, match="time zone"):
        instant(datetime(2030, 1, 2))


def test_a_run_is_named_by_its_id_by_yours_or_by_what_start_gave() -> None:
    ref = common_pb2.RunRef(run_id="0" * 32, workflow_id="order-1")
    assert ids("0" * 32) == ("0" * 32, "")
    assert ids("order-1") == ("", "order-1")
    assert ids(ref) == ids(Started(ref, True)) == ("0" * 32, "")
    assert ids(common_pb2.RunRef(workflow_id="f" * 32)) == ("", "f" * 32)
    with pytest.raises(ValueError, match="empty"):
        ids("")


def test_states_have_names_both_ways_and_new_ones_are_shown_by_number() -> None:
    assert state_name(common_pb2.RUN_STATE_COMPLETED) == "completed"
    assert state_number("waiting") == common_pb2.RUN_STATE_WAITING
    assert state_name(99) == "99"
    with pytest.raises(ValueError, match="completed"):
        state_number("done")


def test_a_result_is_its_output_or_says_why_not() -> None:
    now = datetime(2030, 1, 2, tzinfo=UTC)
    assert RunResult("completed", 42, None, now).value() == 42
    failed = RunResult("failed", None, common_pb2.Failure(code="NO_CAR", message="no car in Lisbon"), now)
    with pytest.raises(RunNotCompleted, match="failed: NO_CAR: no car in Lisbon"):
        failed.value()
