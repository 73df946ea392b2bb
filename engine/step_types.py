"""What workers say of their handlers: a row for each, beside the session's record.

They are written once and read by people. The record is rewritten with every renewal and read by every engine every few
seconds, so it must stay small, and on FoundationDB a value has 100 kB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from windlass.engine import keys
from windlass.engine.errors import EngineError
from windlass.storage.port import Storage, Transaction
from windlass.v1 import common_pb2

#: Of one handler with its schemas: what one value may have.
ONE_BYTES_MAX: Final = 90_000
#: Of all handlers of a worker: they are written in one transaction.
ALL_BYTES_MAX: Final = 1_000_000


def check(offered: Sequence[common_pb2.StepType]) -> None:
    """Raises EngineError PAYLOAD_TOO_LARGE."""
    for each in offered:
        if (size := each.ByteSize()) > ONE_BYTES_MAX:
            what = f"the handler {each.handler!r} has {size} bytes with its schemas, {ONE_BYTES_MAX} are allowed"
            raise EngineError(
                "PAYLOAD_TOO_LARGE", f"{what}: make its schemas smaller", size=str(size), limit=str(ONE_BYTES_MAX)
            )
    if (size := sum(each.ByteSize() for each in offered)) > ALL_BYTES_MAX:
        what = f"the handlers have {size} bytes with their schemas, {ALL_BYTES_MAX} are allowed"
        raise EngineError(
            "PAYLOAD_TOO_LARGE", f"{what}: let several workers offer them", size=str(size), limit=str(ALL_BYTES_MAX)
        )


def put(tr: Transaction, session: str, offered: Sequence[common_pb2.StepType]) -> None:
    """Let these be the handlers of the session."""
    remove(tr, session)
    for each in offered:
        tr.set(keys.step_type(session, each.handler), each.SerializeToString())


def remove(tr: Transaction, session: str) -> None:
    """The session is gone."""
    begin = keys.step_types(session)
    tr.clear_range(begin, keys.end(begin))


async def offered_by(storage: Storage, sessions: Sequence[str]) -> dict[str, common_pb2.StepType]:
    """What these workers offer, by handler, with how many of them do."""

    async def body(tr: Transaction) -> list[bytes]:
        ranges = [keys.step_types(session) for session in sessions]
        return [value for begin in ranges for _, value in await tr.get_range(begin, keys.end(begin), snapshot=True)]

    found: dict[str, common_pb2.StepType] = {}
    workers: Counter[str] = Counter()
    for value in await storage.read(body):
        step_type = common_pb2.StepType.FromString(value)
        found[step_type.handler] = step_type
        workers[step_type.handler] += 1
    for name, step_type in found.items():
        step_type.workers = workers[name]
    return found
