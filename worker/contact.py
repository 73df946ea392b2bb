"""Whether it is worth trying on: what a worker makes of an engine that it cannot reach, or that does not want it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from windlass.worker.answers import Refusal
from windlass.worker.transport import WireError

#: Registering again with the same settings cannot help.
_FATAL: Final = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"})


class Unreachable(Exception):
    """No engine could be reached in time, or the one that was reached refuses this worker. The message says which."""


def check_contact(engines: Sequence[str], error: WireError | None, *, too_late: bool) -> None:
    """Raise Unreachable if a worker that has never been registered should give up after `error`."""
    where = ", ".join(engines)
    if error is not None and (error.code in _FATAL or error.refusal.reason == "PAYLOAD_TOO_LARGE"):
        raise Unreachable(f"the engine at {where} refuses this worker: {error}")
    if too_late:
        raise Unreachable(f"no engine at {where} ({error or 'it ends the stream at once'}); is one running there?")


def no_answer() -> WireError:
    """Return the error for an engine that is not there, or does not say anything."""
    return WireError(Refusal("NO_ANSWER", "the engine does not answer", passing=True), "UNAVAILABLE")
