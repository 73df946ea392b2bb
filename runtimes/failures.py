"""The names that a failed attempt can have.

A code says who is to blame and whether trying again can help, so it is part of the contract: retry policies and
transitions match on it by exact text. Codes are added here, never renamed. Authors may throw codes of their own
(`throw ctx.fail("CARD_DECLINED", …)`); those must not be one of ours, so that a business error cannot pass for a crash
of the sandbox.
"""

from __future__ import annotations

import re
from typing import Final

TIMEOUT: Final = "TIMEOUT"
OUT_OF_MEMORY: Final = "OUT_OF_MEMORY"
OUT_OF_FUEL: Final = "OUT_OF_FUEL"
STACK_OVERFLOW: Final = "STACK_OVERFLOW"
USER_ERROR: Final = "USER_ERROR"
TRAP: Final = "TRAP"
BAD_CODE: Final = "BAD_CODE"
BAD_INPUT: Final = "BAD_INPUT"
BAD_OUTPUT: Final = "BAD_OUTPUT"
OUTPUT_TOO_LARGE: Final = "OUTPUT_TOO_LARGE"
SANDBOX_CRASHED: Final = "SANDBOX_CRASHED"
CANCELLED: Final = "CANCELLED"
NEVER_SETTLED: Final = "NEVER_SETTLED"
MODULE_MISSING: Final = "MODULE_MISSING"
HANDLER_MISSING: Final = "HANDLER_MISSING"
RUNTIME_UNSUPPORTED: Final = "RUNTIME_UNSUPPORTED"
ADDRESS_REFUSED: Final = "ADDRESS_REFUSED"
MODULE_UNTRUSTED: Final = "MODULE_UNTRUSTED"
REMOTE_ERROR: Final = "REMOTE_ERROR"

MEANINGS: Final[dict[str, str]] = {
    TIMEOUT: "the attempt ran past its wall or CPU limit and was stopped",
    OUT_OF_MEMORY: "the code needed more memory than its limit",
    OUT_OF_FUEL: "the module executed more instructions than its fuel",
    STACK_OVERFLOW: "the code recursed deeper than its stack limit",
    USER_ERROR: "the code threw, or ended with a non-zero exit code",
    TRAP: "the module executed an instruction that cannot go on (unreachable, out of bounds, division by zero, …)",
    BAD_CODE: "the code cannot be loaded: syntax, format, missing exports, unknown imports, too large",
    BAD_INPUT: "the input, config or context is not acceptable JSON for this runtime",
    BAD_OUTPUT: "the result is not exactly one JSON value, or lies outside the module's memory",
    OUTPUT_TOO_LARGE: "the result is larger than the output limit",
    SANDBOX_CRASHED: "the sandbox process died while it ran this code, twice",
    CANCELLED: "the attempt was interrupted because it was cancelled",
    NEVER_SETTLED: "the promise that the code returned can never settle",
    MODULE_MISSING: "the code of this digest is not on the worker",
    MODULE_UNTRUSTED: "the code has no valid signature by a key that the worker trusts",
    HANDLER_MISSING: "no handler of this name is registered on the worker",
    RUNTIME_UNSUPPORTED: "the worker has no runtime of this name",
    ADDRESS_REFUSED: "a network handler was pointed at an address that is not allowed",
    REMOTE_ERROR: "the remote system answered with an error",
}

#: What the engine calls failures and incidents of its own, by docs/failures.md (a test compares them).
OF_THE_ENGINE: Final = frozenset(
    {
        "START_TO_CLOSE_TIMEOUT",
        "HEARTBEAT_TIMEOUT",
        "SCHEDULE_TO_START_TIMEOUT",
        "SCHEDULE_TO_CLOSE_TIMEOUT",
        BAD_OUTPUT,
        "SCHEMA_MISMATCH",
        OUTPUT_TOO_LARGE,
        "ROUTE_UNKNOWN",
        "ROUTE_UNHANDLED",
        "INVALID_ASK",
        "CRASHED",
        "POLL_EXHAUSTED",
        "CONTEXT_TOO_LARGE",
        "UNREAD_SIGNALS",
        "INPUT_SCHEMA_MISMATCH",
        "OUTPUT_SCHEMA_MISMATCH",
        "LEASE_LOST",
        "MISSING_KEY",
        "NOT_A_TIME",
        "NOT_A_KEY",
        "EXPRESSION_ERROR",
        "CRASH_LOOP",
        "ENDLESS_LOOP",
        "ENGINE_AWAY",
    }
)

# Trying again cannot change these: the code or the data would have to change first. Everything else is for the retry
# policy to say. OUT_OF_MEMORY, OUT_OF_FUEL and STACK_OVERFLOW depend on the input alone, so they belong here too.
NOT_RETRYABLE: Final = frozenset(
    {
        OUT_OF_MEMORY,
        OUT_OF_FUEL,
        STACK_OVERFLOW,
        BAD_CODE,
        BAD_INPUT,
        BAD_OUTPUT,
        OUTPUT_TOO_LARGE,
        NEVER_SETTLED,
        RUNTIME_UNSUPPORTED,
        ADDRESS_REFUSED,
        MODULE_UNTRUSTED,
    }
)

# The alphabet of `codes` in definitions (`CODE` in definition/fields.py, which this package may not import; a test
# compares them). A narrower one here would make codes that a definition may name, and outside systems use, impossible
# to throw.
AUTHOR_CODE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,99}")


def refuse_author_code(code: str) -> str:
    """Say why an author may not throw `code`, or return "" when they may."""
    if code in MEANINGS or code in OF_THE_ENGINE:
        return f"{code} is one of the engine's own failure codes; choose another name for a business failure"
    if not AUTHOR_CODE.fullmatch(code):
        return "a failure code is 1 to 100 letters, digits and _ . : -, and starts with a letter or _"
    return ""
