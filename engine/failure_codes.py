"""Codes of failures as workers give them. Windlass's own worker lets only good ones through; others are less careful.

A failed attempt has failed, whatever it is called: what cannot be a code is not refused, it becomes USER_ERROR as an
author's bad code does, and stays to be read in the message.
"""

from __future__ import annotations

import re
from typing import Final

#: The alphabet of `codes` in definitions (a test compares them).
CODE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,99}")
#: What stands for a code that cannot be one, or for none at all.
INSTEAD: Final = "USER_ERROR"
#: What only the engine can know. From a worker these would pass for what they are not: a business error for a crash.
ENGINE_ONLY: Final = frozenset({
    "CRASHED", "CRASH_LOOP", "ENGINE_AWAY", "LEASE_LOST", "ENDLESS_LOOP", "START_TO_CLOSE_TIMEOUT", "HEARTBEAT_TIMEOUT",
    "SCHEDULE_TO_START_TIMEOUT", "SCHEDULE_TO_CLOSE_TIMEOUT", "ROUTE_UNHANDLED", "POLL_EXHAUSTED", "UNREAD_SIGNALS",
    "INPUT_SCHEMA_MISMATCH", "OUTPUT_SCHEMA_MISMATCH", "MISSING_KEY", "NOT_A_TIME", "NOT_A_KEY", "EXPRESSION_ERROR",
})  # fmt: skip
_SHOWN: Final = 100


def code_in(code: str, message: str) -> tuple[str, str]:
    """A worker's code and message, as they are kept."""
    if CODE.fullmatch(code) and code not in ENGINE_ONLY:
        return code, message
    if not code:
        return INSTEAD, message
    why = "is the engine's own failure code" if code in ENGINE_ONLY else "is not a failure code"
    return INSTEAD, f"{code[:_SHOWN]!r} {why}: {message}"
