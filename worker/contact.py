"""Whether it is worth trying on: what a worker makes of an engine that it cannot reach, or that does not want it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from windlass.worker.answers import Refusal
from windlass.worker.transport import WireError

#: Registering again with the same settings cannot help.
_FATAL: Final = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED"})
#: And it is the settings: a namespace that is not there, a name that is too long.
_WRONG: Final = frozenset({"INVALID_ARGUMENT", "NOT_FOUND"})


class Unreachable(Exception):
    """No engine could be reached in time, or the one that was reached refuses this worker. The message says which."""


class Refused(Unreachable):
    """An engine is there, and does not take what this worker says of itself: whoever set it up must change that."""


def check_contact(engines: Sequence[str], error: WireError | None, *, too_late: bool) -> None:
    """Raise Unreachable if a worker that has never been registered should give up after `error`."""
    where = ", ".join(engines)
    if error is not None and is_final(error):
        kind = Unreachable if error.code in _FATAL else Refused
        raise kind(f"the engine at {where} refuses this worker: {error}")
    if too_late:
        raise Unreachable(f"no engine at {where} ({error or 'it ends the stream at once'}); is one running there?")


def is_final(error: WireError) -> bool:
    """True if this engine will never take this worker as it is."""
    return error.code in _FATAL | _WRONG or error.refusal.reason == "PAYLOAD_TOO_LARGE"


def no_answer() -> WireError:
    """Return the error for an engine that is not there, or does not say anything."""
    return WireError(Refusal("NO_ANSWER", "the engine does not answer", passing=True), "UNAVAILABLE")
