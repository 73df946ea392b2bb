"""Reads of runs: one run, pages of runs, counts, history. Each answer comes from one snapshot; index rows and records
agree in it.
"""

from __future__ import annotations

import asyncio
import base64
import heapq
import zlib
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from windlass.engine import keys
from windlass.engine.core.events import AnyEvent, Compacted, StateEntered, decode_events
from windlass.engine.core.state import Node, RunState
from windlass.engine.errors import EngineError
from windlass.engine.records import get_large, joined, unpack
from windlass.storage.port import Storage, Transaction

PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 1000
#: Of histories and outboxes, whose rows are small.
PAGE_EVENTS: Final = 100

T = TypeVar("T")


class Numbered(msgspec.Struct, frozen=True):
    """An event of a run's history with its number, and the state and visit the run was in."""

    number: int
    event: AnyEvent
    state: str = ""
    visit: int = 0


def page_size(asked: int, default: int = PAGE_DEFAULT) -> int:
    """0 = `default`, too big is clamped. Raises EngineError INVALID_FIELD when negative."""
    if asked < 0:
        raise EngineError("INVALID_FIELD", "page_size must not be negative", field="page_size")
    return min(asked or default, PAGE_MAX)


def page_token(position: str) -> str:
    """An opaque token for a position, with a checksum: what was not made here is refused and not guessed at."""
    text = position.encode()
    return base64.urlsafe_b64encode(zlib.crc32(text).to_bytes(4, "big") + text).decode()


def page_position(token: str) -> str:
    """The position; "" for an empty token. Raises EngineError BAD_PAGE_TOKEN."""
    if not token:
        return ""
    try:
        whole = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        if zlib.crc32(whole[4:]).to_bytes(4, "big") != whole[:4]:
            raise ValueError("the checksum differs")
        return whole[4:].decode()
    except (ValueError, UnicodeError) as error:
        raise EngineError("BAD_PAGE_TOKEN", "the page token was not made by this engine", field="page_token") from error


def page_number(token: str) -> int:
    """A position that is a number; 0 for an empty token. Raises EngineError BAD_PAGE_TOKEN."""
    position = page_position(token) or "0"
    if not position.isdecimal() or len(position) > 18:
        raise EngineError("BAD_PAGE_TOKEN", "the page token was not made for this list", field="page_token")
    return int(position)


def page_key(token: str, head: bytes) -> bytes:
    """The key just after the last one of the page before; `head` itself for an empty token.

    Raises EngineError BAD_PAGE_TOKEN, also for a key outside the rows of `head`: a token must not read other tables.
    """
    if not token:
        return head
    position = page_position(token)
    try:
        key = bytes.fromhex(position)
    except ValueError:
        key = b""
    if not key.startswith(head):
        raise EngineError("BAD_PAGE_TOKEN", "the page token was not made for this list", field="page_token")
    return key + b"\x00"


async def find_run_id(tr: Transaction, ns: str, run_id: str, workflow_id: str) -> str:
    """The run meant: exactly `run_id`, or the newest with `workflow_id`. Raises EngineError RUN_NOT_FOUND,
    INVALID_FIELD.
    """
    if run_id:
        return run_id
    if not workflow_id:
        raise EngineError("INVALID_FIELD", "say which run: run_id or workflow_id", field="run_id")
    value = await tr.get(keys.workflow_id(ns, workflow_id))
    return workflow_id if value is None else value.decode()


async def get_run(tr: Transaction, ns: str, run_id: str) -> RunState:
    """The run as stored. Raises EngineError RUN_NOT_FOUND."""
    value = await get_large(tr, keys.run(ns, run_id))
    if value is None:
        raise EngineError(
            "RUN_NOT_FOUND", f"there is no run {run_id!r} in namespace {ns!r}", run_id=run_id, namespace=ns
        )
    return unpack(RunState, value)


async def get_items(tr: Transaction, state: RunState) -> dict[str, Node]:
    """The map items of a run's current visit."""
    begin = keys.items(state.namespace, state.run_id)
    rows = await tr.get_range(begin, keys.end(begin), snapshot=True)
    return {str(keys.unpack(key)[3]): unpack(Node, value) for key, value in joined(rows)}


async def workflows(tr: Transaction, ns: str) -> list[str]:
    """Names of workflows that have or had runs, by skipping through the index."""
    found: list[str] = []
    head = keys.listing(ns)
    begin = head
    while True:
        rows = await tr.get_range(begin, keys.end(head), limit=1, snapshot=True)
        if not rows:
            return found
        name = str(keys.unpack(rows[0][0])[2])
        found.append(name)
        begin = keys.end(keys.listing(ns, name))


async def list_runs(
    storage: Storage, ns: str, names: Sequence[str], states: Sequence[str], size: int, after: str, ascending: bool
) -> tuple[list[RunState], str]:
    """A page of runs by their start, newest first unless `ascending`, and where to go on from ("" at the end)."""

    async def body(tr: Transaction) -> tuple[list[RunState], str]:
        lists = [(name, status) for name in names or await workflows(tr, ns) for status in states or STATES]
        ids = await _side_by_side(storage, (_ids(tr, ns, *each, size + 1, after, ascending) for each in lists))
        merged = list(heapq.merge(*ids, reverse=not ascending))
        runs = await _side_by_side(storage, (get_run(tr, ns, run_id) for run_id in merged[:size]))
        return runs, runs[-1].run_id if len(merged) > size else ""

    return await storage.read(body)


async def _side_by_side(storage: Storage, reads: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All their answers, asked for at once where each is a journey to another machine; elsewhere none ever waits."""
    if storage.shared:
        return await asyncio.gather(*reads)
    return [await each for each in reads]


STATES: Final = (
    "pending",
    "running",
    "waiting",
    "paused",
    "incident",
    "cancelling",
    "completed",
    "failed",
    "cancelled",
    "terminated",
)


async def _ids(tr: Transaction, ns: str, name: str, status: str, limit: int, after: str, ascending: bool) -> list[str]:
    head = keys.listing(ns, name, status)
    begin, end = head, keys.end(head)
    if after and ascending:
        begin = keys.listing(ns, name, status, after) + b"\x00"
    elif after:
        end = keys.listing(ns, name, status, after)
    rows = await tr.get_range(begin, end, limit=limit, reverse=not ascending, snapshot=True)
    return [str(keys.unpack(key)[4]) for key, _ in rows]


async def open_runs(tr: Transaction, ns: str, name: str) -> dict[str, int]:
    """Open runs per revision of a workflow, from the counters."""
    head = keys.open_runs(ns, name)
    rows = await tr.get_range(head, keys.end(head))
    return {str(keys.unpack(key)[3]): int.from_bytes(value, "little", signed=True) for key, value in rows}


#: Of stored events that one reading takes, about; what follows is read with the next page.
HISTORY_BYTES: Final = 2 << 20


async def history(
    tr: Transaction, ns: str, run_id: str, *, after: int = 0, before: int = 0, limit: int, reverse: bool = False
) -> list[Numbered]:
    """Events with after < number (and < before if not 0), in order, at most `limit`; from the newest if `reverse`.

    Fewer, and at least one, once HISTORY_BYTES have been read.
    """
    head = keys.events(ns, run_id)
    begin, end = head, keys.end(head)
    if after:  # the batch that holds `after` may also hold what follows it
        rows = await tr.get_range(head, keys.event(ns, run_id, after) + b"\xff", limit=1, reverse=True, snapshot=True)
        begin = keys.event(ns, run_id, _number(rows[0][0])) if rows else head
    if before:
        end = keys.event(ns, run_id, before)
    found: list[Numbered] = []
    size = 0
    while len(found) < limit and (not found or size < HISTORY_BYTES):
        rows = await tr.get_range(begin, end, limit=100, reverse=reverse, snapshot=True)
        if not rows:
            break
        for key, value in rows:
            size += len(value)
            if len(keys.unpack(key)) > 4:
                continue  # a chunk of a large batch
            found += _wanted(await _batch(tr, key), after, before, reverse)
            if found and size >= HISTORY_BYTES:
                break
        if reverse:
            end = rows[-1][0]
        else:
            begin = rows[-1][0] + b"\x00"
    return await _placed(tr, ns, run_id, found[:limit])


async def oldest_number(tr: Transaction, ns: str, run_id: str) -> int:
    """Number of the oldest event that is kept: more than 1 if the log was begun afresh since."""
    head = keys.events(ns, run_id)
    rows = await tr.get_range(head, keys.end(head), limit=1, snapshot=True)
    return _number(rows[0][0]) if rows else 1


def compacted(oldest: int) -> EngineError:
    """The refusal for a reader who asks for events that are no longer kept."""
    return EngineError(
        "HISTORY_COMPACTED", f"events before number {oldest} are no longer kept; begin there", oldest=str(oldest)
    )


async def _placed(tr: Transaction, ns: str, run_id: str, found: list[Numbered]) -> list[Numbered]:
    """The same events, in the same order, each with the state and visit it belongs to."""
    ordered = sorted(found, key=lambda each: each.number)
    state, visit = await _entered_before(tr, ns, run_id, ordered[0].number) if ordered else ("", 0)
    places: dict[int, Numbered] = {}
    for each in ordered:
        if isinstance(each.event, StateEntered):
            state, visit = each.event.state, each.event.visit
        places[each.number] = Numbered(each.number, each.event, state, visit)
    return [places[each.number] for each in found]


async def _entered_before(tr: Transaction, ns: str, run_id: str, number: int) -> tuple[str, int]:
    """The state the run was in just before event `number`: the last one it had entered."""
    begin, end = keys.events(ns, run_id), keys.event(ns, run_id, number) + b"\xff"
    while rows := await tr.get_range(begin, end, limit=20, reverse=True, snapshot=True):
        for key, _ in rows:
            if len(keys.unpack(key)) > 4:
                continue
            for each in reversed(await _batch(tr, key)):
                if each.number < number and isinstance(each.event, StateEntered):
                    return each.event.state, each.event.visit
                if isinstance(each.event, Compacted):
                    return each.event.state.state, each.event.state.visit
        end = rows[-1][0]
    return "", 0


async def _batch(tr: Transaction, key: bytes) -> list[Numbered]:
    value = await get_large(tr, key, snapshot=True)
    assert value is not None
    return [Numbered(number, event) for number, event in enumerate(decode_events(value), start=_number(key))]


def _wanted(batch: list[Numbered], after: int, before: int, reverse: bool) -> list[Numbered]:
    wanted = [each for each in batch if each.number > after and (not before or each.number < before)]
    return wanted[::-1] if reverse else wanted


def _number(key: bytes) -> int:
    return int(str(keys.unpack(key)[3]))
