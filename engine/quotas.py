"""Quotas: what a namespace may use, looked at before a run is started.

Theory of operation
-------------------
Namespaces without limits cost a look into a dictionary. For one that has some, the engine keeps a *meter* in memory:
what was open and queued when it was last measured, and what it let in since then. A start takes no part in a count that
others write, so limits make no conflicts; the price is that they are soft. They may be passed by what other engines let
in within REFRESH_US, and the rate is that of each engine by itself. Measuring happens only after something was asked,
so an idle engine stays idle. Children are never refused: a run that is in must be able to get on.
"""

from __future__ import annotations

import logging
from typing import Final

from windlass.engine import keys
from windlass.engine.clock import Clock
from windlass.engine.core.definition import RetryPolicy
from windlass.engine.errors import EngineError
from windlass.engine.loops import Loop
from windlass.engine.records import NamespaceRecord, unpack
from windlass.storage.port import Row, Storage, StorageError, Transaction

log = logging.getLogger(__name__)

#: A meter is measured anew at most this often, and at least this long after it was last asked.
REFRESH_US: Final = 200_000
BATCH: Final = 100


class Meter:
    """One namespace with limits."""

    def __init__(self, record: NamespaceRecord) -> None:
        self.record = record
        self.open = 0  #: runs, when last measured
        self.queued: dict[str, int] = {}  #: tasks by queue, of the queues that were asked for
        self.let_in: set[str] = set()  #: runs since then
        self.tokens = max(1.0, record.starts_per_second)
        self.filled_us = 0

    def refill(self, now_us: int) -> None:
        """Starts that may be made now: a second's worth at most."""
        rate = self.record.starts_per_second
        elapsed_us = now_us - self.filled_us if self.filled_us else 0
        self.tokens = min(max(1.0, rate), self.tokens + elapsed_us * rate / 1e6)
        self.filled_us = now_us


class Quotas(Loop):
    """The limits and defaults of namespaces, as this engine knows them."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        super().__init__("quotas")
        self._storage, self._clock = storage, clock
        self._meters: dict[str, Meter] = {}
        self.look_us = 5_000_000  #: how often settings are read again on a store that other engines share
        self._asked = False
        self._measured_us = 0

    def retry_of(self, ns: str) -> RetryPolicy | None:
        """The namespace's default retry policy."""
        meter = self._meters.get(ns)
        return meter.record.retry if meter is not None else None

    def admit(self, ns: str, queue: str, run_id: str) -> None:
        """Let a run be started, or raise EngineError BACKLOG_FULL, RATE_LIMITED. Asking again for a run that was let in
        is free: a transaction may run more than once.
        """
        meter = self._meters.get(ns)
        if meter is None or run_id in meter.let_in:
            return
        self._ask()
        limits = meter.record
        if limits.open_runs and meter.open + len(meter.let_in) >= limits.open_runs:
            raise _full(ns, f"namespace {ns!r} has {limits.open_runs} open runs, as many as it may", limits.open_runs)
        if limits.queued_tasks and meter.queued.setdefault(queue, 0) >= limits.queued_tasks:
            message = f"queue {queue!r} holds {limits.queued_tasks} tasks that wait for a worker, as many as it may"
            raise _full(ns, message, limits.queued_tasks, queue)
        if limits.starts_per_second:
            self._take(ns, meter)
        meter.let_in.add(run_id)

    def _take(self, ns: str, meter: Meter) -> None:
        meter.refill(self._clock.now_us())
        if meter.tokens < 1.0:
            rate = meter.record.starts_per_second
            message = f"namespace {ns!r} may start {rate:g} runs a second at this engine"
            wait_us = int((1.0 - meter.tokens) / rate * 1e6) + 1
            raise EngineError("RATE_LIMITED", message, namespace=ns, limit=f"{rate:g}", retry_us=wait_us)
        meter.tokens -= 1.0

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self.wake()

    async def begin(self) -> None:
        """Know the settings before the first start comes, if the store answers."""
        try:
            await self.refresh()
        except StorageError as error:
            log.warning("the limits of namespaces are read later: %s", error)

    async def turn(self) -> float | None:
        """Measure, if something was asked; not too often."""
        wait_us = self._measured_us + REFRESH_US - self._clock.now_us()
        if self._asked and wait_us > 0:
            return wait_us / 1e6
        await self._look()
        return self.look_us / 1e6 if self._storage.shared else None

    async def refresh(self) -> None:
        """Know the settings of all namespaces as they are now, and measure those with limits."""
        async with self._alone:  # a look that began before a change would put the old settings back
            await self._look()

    async def _look(self) -> None:
        self._asked, self._measured_us = False, self._clock.now_us()
        records = await self._records()
        for name in self._meters.keys() - records.keys():
            del self._meters[name]
        for name, record in records.items():
            meter = self._meters.get(name)
            if meter is None or meter.record != record:
                before, meter = meter, Meter(record)
                meter.queued = before.queued if before is not None else {}
                self._meters[name] = meter
            await self._measure(name, meter)

    async def _records(self) -> dict[str, NamespaceRecord]:
        begin, end = keys.namespace(), keys.end(keys.namespace())
        found: dict[str, NamespaceRecord] = {}
        while rows := await self._read(begin, end, BATCH):
            for _, value in rows:
                record = unpack(NamespaceRecord, value)
                if record.asks_much():
                    found[record.name] = record
            begin = rows[-1][0] + b"\x00"
        return found

    async def _measure(self, ns: str, meter: Meter) -> None:
        if meter.record.open_runs:
            known = frozenset(meter.let_in)  # what is let in from now on may not be counted below
            head = keys.open_runs(ns, None)
            rows = await self._storage.read(lambda tr: tr.get_range(head, keys.end(head), snapshot=True))
            meter.open = sum(int.from_bytes(value, "little", signed=True) for _, value in rows)
            meter.let_in -= known
        else:
            meter.let_in.clear()
        for queue in tuple(meter.queued):  # others are asked for meanwhile
            head = keys.queue_named(ns, queue)
            if queued := len(await self._read(head, keys.end(head), meter.record.queued_tasks)):
                meter.queued[queue] = queued
            else:  # as if it were not asked for: queues that were used once must not be measured for ever
                del meter.queued[queue]

    async def _read(self, begin: bytes, end: bytes, limit: int) -> list[Row]:
        async def body(tr: Transaction) -> list[Row]:
            return await tr.get_range(begin, end, limit=limit, snapshot=True)

        return await self._storage.read(body)


def _full(ns: str, message: str, limit: int, queue: str = "") -> EngineError:
    where = {"queue": queue} if queue else {}
    return EngineError("BACKLOG_FULL", message, metadata={**where, "namespace": ns, "limit": str(limit)})
