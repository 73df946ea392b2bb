"""The cluster of the FoundationDB stand-in: versions, conflict checks, watches, and the faults it injects.

It keeps every value a key ever had, and every commit's write conflict ranges, and looks through them all: dumb on
purpose.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from tests.storage.fdb_fake_network import Future, Network

MAX_AGE_SECONDS = 5.0
Range = tuple[bytes, bytes]


@dataclass
class Faults:
    """Probabilities, each from 0 to 1, of what goes wrong at a read or a commit; and how late a lost commit lands."""

    reads: dict[int, float] = field(default_factory=dict)
    #: The error alone: nothing landed. Codes 1020, 1009, 1037, 1042, 1078.
    commits: dict[int, float] = field(default_factory=dict)
    unknown_landed: float = 0.0  # 1021
    unknown_lost: float = 0.0  # 1021
    timed_out_landed: float = 0.0  # 1031
    timed_out_lost: float = 0.0  # 1031
    timed_out_late: float = 0.0  # 1031, lands up to late_seconds later unless it conflicts then
    late_seconds: float = 5.0
    false_rings: float = 0.0


@dataclass
class Commit:
    """What a transaction sends."""

    mutations: list[tuple[str, bytes, bytes]]
    read_version: int | None
    reads: list[Range]
    writes: list[Range]


@dataclass
class ArmedWatch:
    key: bytes
    value: bytes | None
    fired: Future


class InFlight(Protocol):
    """A transaction whose commit is under way."""

    def restart(self) -> None: ...


class Cluster:
    """Shared by all clients of a test."""

    def __init__(self, seed: int = 0, *, delay_seconds: float = 0.0005, faults: Faults | None = None) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.network = Network(Random(seed + 1), delay_seconds)
        self.faults = faults or Faults()
        self.reachable = True
        self.watches: list[ArmedWatch] = []
        self._values: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self._keys: list[bytes] = []
        self._commits: list[tuple[int, list[Range]]] = []
        self._version = 1_000
        self._place = 0
        self._sealed = True  # somebody knows of the newest version: the next commit must be later
        self.in_flight: list[InFlight] = []
        #: Set when the first commit has been sent.
        self.commit_sent = threading.Event()

    def read_version(self) -> int:
        self.seal()
        return self._version

    def seal(self) -> None:
        self._sealed = True

    def value(self, key: bytes, version: int) -> bytes | None:
        history = self._values.get(key, [])
        return next((value for at, value in reversed(history) if at <= version), None)

    def rows(self, begin: bytes, end: bytes, version: int) -> Iterator[tuple[bytes, bytes]]:
        first, last = bisect.bisect_left(self._keys, begin), bisect.bisect_left(self._keys, end)
        for key in self._keys[first:last]:
            if (value := self.value(key, version)) is not None:
                yield key, value

    def conflicts(self, commit: Commit) -> bool:
        """True if it read what was written after its read version. Without writes or reads it never does."""
        if commit.read_version is None:
            return False
        for version, written in reversed(self._commits):
            if version <= commit.read_version:
                return False
            if any(begin < last and first < end for begin, end in commit.reads for first, last in written):
                return True
        return False

    def land(self, commit: Commit) -> int:
        """Apply it. Its version, which commits that are under way at the same time may share."""
        if self._sealed or self.random.random() < 0.3:
            self._version += self.random.randint(1, 50)
            self._place, self._sealed = 0, False
        else:
            self._place += 1
        written = list(commit.writes)
        for kind, key, operand in commit.mutations:
            written.append(self._apply(kind, key, operand))
        self._commits.append((self._version, written))
        self._ring(written)
        return self._version

    def land_late(self, commit: Commit) -> None:
        """A commit that somebody gave up: it lands some time later, unless it conflicts by then."""

        def arrive() -> None:
            if not self.conflicts(commit):
                self.land(commit)

        self.network.later(self.random.uniform(0, self.faults.late_seconds), arrive)

    def _apply(self, kind: str, key: bytes, operand: bytes) -> Range:
        if kind == "clear":
            for gone in [row for row, _ in self.rows(key, operand, self._version)]:
                self._put(gone, None)
            return key, operand
        if kind == "stamp":
            offset = int.from_bytes(key[-4:], "little")
            stamp = self._version.to_bytes(8, "big") + self._place.to_bytes(2, "big")
            key = key[:offset] + stamp + key[offset + 10 : -4]
        elif kind == "add":
            operand = added(self.value(key, self._version), operand)
        self._put(key, operand)
        return key, key + b"\0"

    def _put(self, key: bytes, value: bytes | None) -> None:
        if key not in self._values:
            self._values[key] = []
            bisect.insort(self._keys, key)
        self._values[key].append((self._version, value))

    def arm(self, watch: ArmedWatch) -> None:
        self.watches.append(watch)
        self._ring([(watch.key, watch.key + b"\0")])

    def _ring(self, written: Iterable[Range]) -> None:
        """Look at the watched keys a little later: a change there and back in between is missed."""
        ranges = list(written)
        touched = [w for w in self.watches if any(begin <= w.key < end for begin, end in ranges)]
        for watch in touched:
            self.network.soon(lambda watch=watch: self._look(watch))  # type: ignore[misc]

    def _look(self, watch: ArmedWatch) -> None:
        changed = self.value(watch.key, self._version) != watch.value
        if watch in self.watches and (changed or self.random.random() < self.faults.false_rings):
            self.watches.remove(watch)
            watch.fired.settle(0)

    def pick(self, chances: dict[int, float]) -> int:
        """One of these errors, or 0."""
        for code, chance in chances.items():
            if self.random.random() < chance:
                return code
        return 0

    # A test's hand on it.

    def go_away(self) -> None:
        """From now on silence."""
        with self.network.lock:
            self.reachable = False

    def come_back(self) -> None:
        with self.network.lock:
            self.reachable = True

    def restart(self) -> None:
        """Kill the server and start it again: commits under way are unknown, reads wait, watches stay."""
        with self.network.lock:
            interrupted, self.in_flight = self.in_flight, []
            for transaction in interrupted:
                self.network.soon(transaction.restart)

    def close(self) -> None:
        self.network.stop()


def added(held: bytes | None, operand: bytes) -> bytes:
    """Little-endian addition in as many bytes as the operand has; a missing value counts as zero."""
    size = len(operand)
    before = int.from_bytes((held or b"")[:size], "little")
    return ((before + int.from_bytes(operand, "little")) % (1 << 8 * size)).to_bytes(size, "little")
