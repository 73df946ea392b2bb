"""The deep check: is everything in a store what its runs' histories say it must be?

Theory of operation. This program knows the key layout and the core's `fold`, and nothing of how the engine works: it
reads the rows of one snapshot and works everything out again. For each run it replays the history from its first event,
compares the result with the stored record, and compares what the record says is open (tasks queued and leased, timers,
buffered signals, people asked, incidents) with the index rows that lie there. Rows that belong to nothing are told too.
It is what `windlass storage check --deep` runs, and what the simulation runs after every storm.

`settled` asks for more: what is in order only once no engine is in the middle of something, such as leases whose
worker's session is gone and timers long overdue.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from windlass.engine import checking_history, keys, postponed
from windlass.engine.core import invariants
from windlass.engine.core.commands import Continue
from windlass.engine.core.events import AnyEvent, Compacted, decode_events
from windlass.engine.core.state import CLOSED, Node, RunState
from windlass.engine.records import LeaseRecord, OutboxRecord, unpack
from windlass.storage.port import Row, Storage, Transaction

#: Rows from begin to end, in key order, all of one snapshot.
Scan = Callable[[bytes, bytes], Iterable[Row]]
RunKey = tuple[str, str]

PAGE: Final = 2000
_NUMBERS: Final = {name: number for number, name in keys.TABLES.items()}


class Entry(NamedTuple):
    """A row with its key taken apart; the chunks of a large value are one entry."""

    parts: tuple[Any, ...]  #: the key's elements after the table's number
    value: bytes


async def check_store(storage: Storage, *, settled: bool = False) -> list[str]:
    """The problems found in a store that is small enough to be held in memory; [] when all is well.

    Read one page after the other: let nothing write meanwhile, or problems are seen that are not there.
    """
    rows: list[Row] = []
    begin = b"\x01"
    while page := await storage.read(_page(begin)):
        rows += page
        begin = page[-1][0] + b"\x00"
    return check_rows(scan_of(rows), settled=settled)


def scan_of(rows: Sequence[Row]) -> Scan:
    """A scan over rows in memory, which lie in key order."""

    def scan(begin: bytes, end: bytes) -> Iterator[Row]:
        at = bisect.bisect_left(rows, begin, key=lambda row: row[0])
        return itertools.takewhile(lambda row: row[0] < end, (rows[i] for i in range(at, len(rows))))

    return scan


def _page(begin: bytes) -> Callable[[Transaction], Any]:
    return lambda tr: tr.get_range(begin, b"\xff", limit=PAGE, snapshot=True)


def check_rows(scan: Scan, *, settled: bool = False, now_us: int = 0) -> list[str]:
    """The problems found in the rows of one snapshot. `now_us`, if given, is to judge whether timers are overdue."""
    problems: list[str] = []
    tables = Tables(scan)
    seen: set[RunKey] = set()
    open_runs: Counter[tuple[str, str, str]] = Counter()
    for entry in tables.entries("RUN", 2):
        ns, run_id = entry.parts
        seen.add((ns, run_id))
        try:
            state = unpack(RunState, entry.value)
            problems += [f"run {run_id}: {problem}" for problem in _run(tables, ns, run_id, state)]
        except (msgspec.MsgspecError, ValueError, LookupError, AttributeError) as error:
            problems.append(f"run {run_id}: its record or history cannot be read: {error!r}")
            continue
        if state.status not in CLOSED:
            open_runs[ns, state.workflow, state.revision] += 1
    problems += _orphans(tables, seen)
    problems += _counters(tables, open_runs)
    problems += _described(tables)
    if settled:
        problems += _unsettled(tables, now_us)
    return problems


class Tables:
    """The rows by table, and the small ones by run."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self.queued = self._by_run("QUEUE", lambda e: ((e.parts[0], e.parts[6]), (e.parts[7], e.parts[8])))
        self.leased = self._by_run(
            "LEASE", lambda e: ((e.parts[1], e.parts[2]), (e.parts[3], e.parts[4], _epoch(e), e.parts[0]))
        )
        self.timers: dict[RunKey, list[Any]] = defaultdict(list)
        self.deferred: dict[RunKey, list[Any]] = defaultdict(list)
        self.escalations = self._by_run("ESCALATION", _pending, 3)
        self.answered = self._by_run("ESCALATION", _answered, 3)
        self.incidents = self._by_run("INCIDENT", lambda e: ((e.parts[0], e.parts[1]), e.parts[2]))
        self.listed = self._by_run("LISTING", lambda e: ((e.parts[0], e.parts[3]), (e.parts[1], e.parts[2])))
        for entry in self.entries("TIMER", 5):
            self._timer(entry, entry.parts[2], entry.parts[3], entry.parts[4], entry.parts[1])
        for entry in self.entries("VIRTUAL", 4):
            self._timer(entry, entry.parts[0], entry.parts[2], entry.parts[3], entry.parts[1])

    def entries(self, table: str, parts: int, head: bytes = b"") -> Iterator[Entry]:
        """Rows of a table whose keys have `parts` elements, chunks joined."""
        begin = head or keys.integer(_NUMBERS[table])
        last: Entry | None = None
        for key, value in self._scan(begin, keys.end(begin)):
            elements = keys.unpack(key)[1:]
            if len(elements) > parts and last is not None:
                last = Entry(last.parts, last.value + value)
                continue
            if last is not None:
                yield last
            last = Entry(elements, value)
            if table in ("TIMER", "ESCALATION") and value[:1] == b"\1":
                last = Entry(elements, b"")
            elif table in ("RUN", "EVENTS", "ITEM", "INBOX", "OUTBOX"):
                last = Entry(elements, value[1:] if value[:1] == b"\0" else b"")
        if last is not None:
            yield last

    def _by_run(
        self, table: str, take: Callable[[Entry], tuple[RunKey, Any] | None], parts: int = 99
    ) -> dict[RunKey, list[Any]]:
        found: dict[RunKey, list[Any]] = defaultdict(list)
        for entry in self.entries(table, parts):
            taken = take(entry)
            if taken is not None:
                found[taken[0]].append(taken[1])
        return found

    def _timer(self, entry: Entry, ns: str, run_id: str, timer: str, due_us: int) -> None:
        if not entry.value:
            self.timers[ns, run_id].append((timer, due_us))
            return
        work = postponed.unpack(entry.value)
        self.deferred[ns, run_id].append(work.token if isinstance(work, Continue) else "")


def _epoch(entry: Entry) -> int:
    return unpack(LeaseRecord, entry.value).epoch


def _pending(entry: Entry) -> tuple[RunKey, str] | None:
    ns, status, escalation_id = entry.parts
    return ((ns, escalation_id.split(":", 1)[0]), escalation_id) if status == "pending" else None


def _answered(entry: Entry) -> tuple[RunKey, str] | None:
    ns, status, escalation_id = entry.parts
    return ((ns, escalation_id.split(":", 1)[0]), escalation_id) if status != "pending" else None


def _run(tables: Tables, ns: str, run_id: str, state: RunState) -> Iterator[str]:
    """One run: its history, its record, its index rows."""
    items = {e.parts[2]: unpack(Node, e.value) for e in tables.entries("ITEM", 3, keys.items(ns, run_id))}
    inbox = [e.parts[2] for e in tables.entries("INBOX", 4, keys.inbox(ns, run_id))]
    decisions = [(e.parts[2], decode_events(e.value)) for e in tables.entries("EVENTS", 3, keys.events(ns, run_id))]
    events: list[AnyEvent] = []
    due = decisions[0][0] if decisions and isinstance(decisions[0][1][0], Compacted) else 1
    for first, batch in decisions:
        if first != due:
            yield f"history has a gap: event {due} should come, {first} does"
        events += batch
        due = first + len(batch)
    yield from checking_history.check_history(events, state, items, inbox)
    yield from _indexed(tables, (ns, run_id), state, items, inbox)


def _indexed(tables: Tables, run: RunKey, state: RunState, items: dict[str, Node], inbox: list[str]) -> Iterator[str]:
    leased = tables.leased[run]
    queued, timers = tables.queued[run], tables.timers[run]
    for name, rows in (("queue entries", queued), ("timers", timers), ("leases", [lease[:2] for lease in leased])):
        yield from (f"two {name} for {row}" for row, count in Counter(rows).items() if count > 1)
    outside = invariants.Outside(
        queued=set(queued),
        leased={((visit, path), epoch) for visit, path, epoch, _ in leased},
        timers=set(timers),
        inbox=len(inbox),
        deferred={token for token in tables.deferred[run] if token},
        incidents=set(tables.incidents[run]),
        escalations=set(tables.escalations[run]),
    )
    yield from invariants.check(state, items, outside)
    sessions = dict(invariants.live(state, items))
    for _, path, epoch, session in leased:
        node = sessions.get(path)
        if node is not None and node.epoch == epoch and node.session != session:
            yield f"{path!r} is leased to {node.session}, its lease row says {session}"
    if tables.listed[run] != [(state.workflow, state.status)]:
        yield f"it is {state.status}, and listed as {tables.listed[run]}"


def _orphans(tables: Tables, seen: set[RunKey]) -> Iterator[str]:
    """Rows of runs that do not exist."""
    for name in ("queued", "leased", "timers", "incidents", "listed", "escalations", "answered"):
        for run, rows in getattr(tables, name).items():
            if run not in seen and rows:
                yield f"run {run[1]} does not exist and has {name} rows: {rows[:3]}"
    for table in ("ITEM", "EVENTS", "INBOX"):
        lost = {e.parts[1] for e in tables.entries(table, 99) if (e.parts[0], e.parts[1]) not in seen}
        yield from (f"run {run_id} does not exist and has {table} rows" for run_id in sorted(lost))
    for entry in tables.entries("SUBSCRIPTION", 5):
        if (entry.parts[0], entry.parts[3]) not in seen:
            yield f"run {entry.parts[3]} does not exist and is subscribed to message {entry.parts[1]}"
    for entry in tables.entries("WORKFLOW_ID", 2):
        if (entry.parts[0], entry.value.decode()) not in seen:
            yield f"workflow id {entry.parts[1]} belongs to run {entry.value.decode()}, which does not exist"
    yield from _outbox(tables, seen)


def _outbox(tables: Tables, seen: set[RunKey]) -> Iterator[str]:
    """Outbox rows and their index; those of a deleted run may wait for the sweeper."""
    going = {e.parts[2:] for e in tables.entries("EXPIRY", 99) if e.parts[1] == "emitted"}
    indexed = {(ns, run_id, stamp) for ns, run_id, stamp in (e.parts for e in tables.entries("EMITTED", 3))}
    rows = {(e.parts[0], unpack(OutboxRecord, e.value).run_id, e.parts[1]) for e in tables.entries("OUTBOX", 2)}
    yield from (f"run {row[1]} has an index row for no outbox row" for row in sorted(indexed - rows))
    gone = {row[:2] for row in rows} - seen - going
    yield from (f"run {run_id} does not exist and has outbox rows" for _, run_id in sorted(gone))


def _counters(tables: Tables, open_runs: Counter[tuple[str, str, str]]) -> Iterator[str]:
    """The counters of open runs."""
    counted = {e.parts: int.from_bytes(e.value, "little", signed=True) for e in tables.entries("OPEN", 3)}
    for key in sorted({*counted, *open_runs}):
        if counted.get(key, 0) != open_runs[key]:
            yield f"open runs of {key[1]} counted as {counted.get(key, 0)}, there are {open_runs[key]}"


def _described(tables: Tables) -> Iterator[str]:
    """What workers said of their handlers goes with their sessions."""
    said = {e.parts[0] for e in tables.entries("STEP_TYPE", 2)}
    gone = said - {e.parts[0] for e in tables.entries("SESSION", 1)}
    yield from (f"session {session} does not exist and has step types" for session in sorted(gone))


def _unsettled(tables: Tables, now_us: int) -> Iterator[str]:
    """What only an engine in the middle of something may leave so."""
    sessions = {e.parts[0] for e in tables.entries("SESSION", 1)}
    for (_, run_id), leases in tables.leased.items():
        for visit, path, _, session in leases:
            if session not in sessions:
                yield f"run {run_id}: task {path!r} of visit {visit} is leased to session {session}, which is gone"
    for (_, run_id), timers in tables.timers.items():
        yield from (f"run {run_id}: timer {timer} was due at {due}" for timer, due in timers if due < now_us)
    for (_, run_id), work in tables.deferred.items():
        if work and now_us:
            yield f"run {run_id}: work put off was never done: {work}"
