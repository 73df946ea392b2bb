"""When a worker that has never been registered gives up, and what it says then."""

from __future__ import annotations

import pytest

from windlass.worker.answers import Refusal
from windlass.worker.contact import Unreachable, check_contact
from windlass.worker.transport import WireError


def refused(reason: str, code: str) -> WireError:
    return WireError(Refusal(reason, "so many bytes"), code)


@pytest.mark.parametrize(
    ("reason", "code"), [("INVALID_FIELD", "INVALID_ARGUMENT"), ("PAYLOAD_TOO_LARGE", "RESOURCE_EXHAUSTED")]
)
def test_a_registration_that_the_engine_will_never_take_ends_the_worker_at_once(reason: str, code: str) -> None:
    with pytest.raises(Unreachable, match=f"the engine at a:1 refuses this worker: {reason}: so many bytes"):
        check_contact(["a:1"], refused(reason, code), too_late=False)


def test_an_engine_that_has_no_room_now_is_waited_for() -> None:
    check_contact(["a:1"], refused("STORE_FULL", "RESOURCE_EXHAUSTED"), too_late=False)
    with pytest.raises(Unreachable, match="is one running there"):
        check_contact(["a:1"], refused("STORE_FULL", "RESOURCE_EXHAUSTED"), too_late=True)
