"""Remembered requests: the same mutating call, repeated with the same request id, gets the same answer for a stated
time.

The record is written in the transaction that does the work, so there is no phase in which a request is half done.
"""

from __future__ import annotations

import hashlib
from typing import Final

from windlass.engine import keys
from windlass.engine.core.state import CLOSED
from windlass.engine.errors import EngineError
from windlass.engine.records import RequestRecord, clear_large, get_large, pack, set_record, unpack
from windlass.engine.unit import Unit

#: How long an answer is remembered unless the caller says otherwise: one day.
TTL_US: Final = 86_400_000_000


def digest(message: bytes) -> bytes:
    """Hash of a request's arguments."""
    return hashlib.sha256(message).digest()


async def recall(unit: Unit, ns: str, request_id: str, method: str, digest: bytes) -> bytes | None:
    """The answer given before, or None. Raises EngineError REQUEST_ID_REUSED if it was given to another question."""
    value = await get_large(unit.tr, keys.request(ns, request_id))
    if value is None:
        return None
    record = unpack(RequestRecord, value)
    if record.expires_us <= unit.now_us and not await still_open(unit, ns, record):
        clear_large(unit.tr, keys.request(ns, request_id), len(value))  # the next answer takes its place, not its parts
        return None
    if record.method != method or record.digest != digest:
        raise EngineError(
            "REQUEST_ID_REUSED",
            f"request id {request_id!r} was used before, for {record.method} with other arguments",
            request_id=request_id,
        )
    return record.reply


async def still_open(unit: Unit, ns: str, record: RequestRecord) -> bool:
    """True if the answer must outlive its time, because the run that it is about is open."""
    state = await unit.peek(ns, record.run_id) if record.run_id else None
    return state is not None and state.status not in CLOSED


def remember(
    unit: Unit,
    ns: str,
    request_id: str,
    method: str,
    digest: bytes,
    reply: bytes,
    *,
    ttl_us: int = TTL_US,
    run_id: str = "",
) -> None:
    """Keep the answer for `ttl_us`, and as long as the run `run_id` is open; note when to sweep it."""
    expires = unit.now_us + ttl_us
    set_record(unit.tr, keys.request(ns, request_id), pack(RequestRecord(method, digest, reply, expires, run_id)))
    unit.tr.set(keys.expiry(expires, "request", ns, request_id), b"")
