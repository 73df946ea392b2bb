"""Sweeping: what has outlived its time is removed in small transactions: remembered requests, kept messages, closed
runs.

Remembered requests and messages have an EXPIRY row each. Closed runs are found by their index rows, oldest start first,
so retention costs nothing per run until it is removed.
"""

from __future__ import annotations

import logging
from typing import Final

from windlass.engine import keys
from windlass.engine.clock import Clock
from windlass.engine.loops import SOON_SECONDS, Loop
from windlass.engine.reading import workflows
from windlass.engine.records import (
    MessageRecord,
    NamespaceRecord,
    RequestRecord,
    clear_large,
    get_large,
    unpack,
)
from windlass.engine.requests import TTL_US, still_open
from windlass.engine.run_rows import EMITTED_BATCH, clear_emitted, clear_run
from windlass.engine.transition import Transition
from windlass.engine.unit import Unit
from windlass.storage.port import Row, Transaction

log = logging.getLogger(__name__)

BATCH: Final = 100
CLOSED_STATES: Final = ("completed", "failed", "cancelled", "terminated")


class Sweeper(Loop):
    """Removes what has expired."""

    def __init__(self, transition: Transition, clock: Clock, sweep_us: int) -> None:
        super().__init__("sweeper")
        self._transition, self._clock, self._sweep_us = transition, clock, sweep_us
        self._cursors: dict[bytes, bytes] = {}  #: where a pass over the closed runs of one head of keys goes on

    async def turn(self) -> float | None:
        """One pass; soon again while there is more."""
        full = await self._expired()
        for record in await self._namespaces():
            if record.retention_us:
                full |= await self._retention(record)
        return SOON_SECONDS if full else self._sweep_us / 1e6

    async def _expired(self) -> bool:
        begin = keys.expiries()
        until = begin + keys.integer(self._clock.now_us())
        rows = await self._read(begin, until)
        outboxes = [key for key, _ in rows if keys.unpack(key)[2] == "emitted"]
        rest = [row for row in rows if row[0] not in outboxes]
        if rest:
            self.done["records_removed"] += await self._transition.run(lambda unit: self._remove(unit, rest))
        for key in outboxes:
            await self._clear_outbox(key)
        return len(rows) == BATCH

    async def _clear_outbox(self, expiry: bytes) -> None:
        """Remove what a deleted run left in the outbox."""
        _, _, _, ns, run_id = map(str, keys.unpack(expiry))

        async def work(unit: Unit) -> bool:
            more = await clear_emitted(unit, ns, run_id)
            if not more:
                unit.tr.clear(expiry)
            return more

        while await self._transition.run(work):
            self.done["records_removed"] += EMITTED_BATCH

    async def _read(self, begin: bytes, end: bytes) -> list[Row]:
        async def body(tr: Transaction) -> list[Row]:
            return await tr.get_range(begin, end, limit=BATCH, snapshot=True)

        return await self._transition.storage.read(body)

    async def _remove(self, unit: Unit, rows: list[Row]) -> int:
        removed = 0
        for key, _ in rows:
            _, _, kind, *parts = keys.unpack(key)
            target = keys.request(*map(str, parts)) if kind == "request" else keys.messages(*map(str, parts))
            value = await get_large(unit.tr, target)
            unit.tr.clear(key)
            if value is None or _expires_us(str(kind), value) > unit.now_us:
                continue
            if kind == "request" and await still_open(unit, str(parts[0]), unpack(RequestRecord, value)):
                unit.tr.set(keys.expiry(unit.now_us + TTL_US, "request", *map(str, parts)), b"")  # look again then
            else:
                clear_large(unit.tr, target, len(value))
                removed += 1
        return removed

    async def _namespaces(self) -> list[NamespaceRecord]:
        begin, end = keys.namespace(), keys.end(keys.namespace())
        found: list[NamespaceRecord] = []
        while rows := await self._read(begin, end):
            found += [unpack(NamespaceRecord, value) for _, value in rows]
            begin = rows[-1][0] + b"\x00"
        return found

    async def _retention(self, record: NamespaceRecord) -> bool:
        now = record.virtual_now_us if record.virtual_time else self._clock.now_us()
        limit_us = now - record.retention_us
        full = False
        for name in await self._transition.storage.read(lambda tr: workflows(tr, record.name)):
            for status in CLOSED_STATES:
                head = keys.listing(record.name, name, status)
                # Ids tell of real time: of virtual time nothing.
                end = keys.end(head) if record.virtual_time else head + keys.text(f"{limit_us // 1000:012x}")
                rows = await self._read(self._cursors.pop(head, head), end)
                if rows:
                    removed = await self._transition.run(lambda unit, rows=rows: self._delete(unit, rows, limit_us))  # type: ignore[misc]
                    self.done["runs_removed"] += removed
                if len(rows) == BATCH:  # behind runs that closed late, others may have expired
                    self._cursors[head] = rows[-1][0] + b"\x00"
                    full = True
        return full

    async def _delete(self, unit: Unit, rows: list[Row], limit_us: int) -> int:
        removed = 0
        for key, _ in rows:
            _, ns, _, _, run_id = keys.unpack(key)
            state = await unit.peek(str(ns), str(run_id))
            if state is not None and 0 < state.closed_us <= limit_us:
                await clear_run(unit, state)
                removed += 1
        return removed


def _expires_us(kind: str, value: bytes) -> int:
    if kind == "request":
        return unpack(RequestRecord, value).expires_us
    return unpack(MessageRecord, value).expires_us
