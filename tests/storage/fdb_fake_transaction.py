"""A transaction of the FoundationDB stand-in: what the client library does, as observed on a real cluster."""

from __future__ import annotations

from collections.abc import Callable

from tests.storage.fdb_fake_cluster import MAX_AGE_SECONDS, ArmedWatch, Cluster, Commit, Range
from tests.storage.fdb_fake_network import Future
from tests.storage.fdb_fake_writes import OwnWrites

KEY_BYTES_MAX, VALUE_BYTES_MAX, SIZE_MAX = 10_000, 100_000, 10_000_000
WATCH_LIMIT_ERROR = 1032
RETRYABLE = frozenset({1007, 1009, 1020, 1021, 1037, 1038, 1042, 1051, 1078, 1213, 1223})
_RETRIED_SOON = frozenset({1007, 1009})
Row = tuple[bytes, bytes]


class FakeTransaction:
    """Operations give futures at once and are answered on the network thread."""

    def __init__(self, cluster: Cluster, timeout_seconds: float, retry_delay_seconds: float, watches_max: int) -> None:
        self._cluster, self._network = cluster, cluster.network
        self._retry_delay, self._watches_max = retry_delay_seconds, watches_max
        self._backoff = 0.01
        self._began = self._network.now()
        self._dead = 0  # every operation answers with this
        self.committed_version = -1
        self._open: set[Future] = set()
        self._commit_future: Future | None = None
        self._sent: Commit | None = None
        self._reset()
        self.set_timeout(timeout_seconds)

    def _reset(self) -> None:
        self._own = OwnWrites()
        self._reads: list[Range] = []
        self._conflicts: list[Range] = []
        self._read_version: int | None = None
        self._read_at = 0.0
        self._size = 0
        self._refused = 0  # a size or key error, told at the next read or commit
        self._used_wrongly = False
        self._failed = False
        self._committing = False
        self._watches: list[tuple[bytes, Future]] = []

    def set_timeout(self, seconds: float) -> None:
        """From the creation on, over all attempts."""
        self._timeout = seconds
        if seconds:
            self._network.later(self._began + seconds - self._network.now(), self._time_out)

    def _time_out(self) -> None:
        if self._timeout and self._network.now() >= self._began + self._timeout and not self._dead:
            self._dead = 1031
            self._interrupt(1031)

    def die(self, code: int) -> None:
        """Unless 0, every operation answers with this: the cluster file was unusable."""
        self._dead = code

    def _interrupt(self, code: int) -> None:
        """Answer all that is open. A commit under way lands or not, whatever its future says."""
        for future in list(self._open):
            future.settle(code)
        self._open.clear()

    # Reads.

    def get(self, key: bytes, snapshot: bool) -> Future:
        own = self._own.of(key)
        if own.unreadable:
            return self._poisoned()
        if not snapshot and not own.known:
            self._reads.append((key, key + b"\0"))
            self._size += 2 * len(key) + 27
        return self._read(lambda version: own.over(self._cluster.value(key, version)), [key])

    def get_range(self, begin: bytes, end: bytes, limit: int, mode: int, snapshot: bool, reverse: bool) -> Future:
        if mode == 0 and not limit:
            return self._answered(2210)
        if begin >= end:
            return self._read(lambda _: ([], False), [])
        own = self._own.between(begin, end)
        if own.unreadable:
            return self._poisoned()
        place = len(self._reads)
        if not snapshot:
            self._reads.append((begin, end))
            self._size += len(begin) + len(end) + 26

        def chunk(version: int) -> tuple[list[Row], bool]:
            rows = own.over(self._cluster.rows(begin, end, version))
            rows = rows[::-1] if reverse else rows
            cut, more = self._cut(rows, limit, mode)
            if not snapshot and more and cut:
                self._reads[place] = (cut[-1][0], end) if reverse else (begin, cut[-1][0] + b"\0")
            return cut, more

        return self._read(chunk, [begin, end])

    def _cut(self, rows: list[Row], limit: int, mode: int) -> tuple[list[Row], bool]:
        """Exact gives all that was asked for; else as many as the server feels like. `more` may be true at the end."""
        random = self._cluster.random
        if mode == 0:
            return rows[:limit], len(rows) >= limit
        count = random.choice((1, 3, 32, 690))
        if limit:
            count = min(count, limit)
        return rows[:count], len(rows) > count or (len(rows) == count and random.random() < 0.5)

    def _read(self, evaluate: Callable[[int], object], keys: list[bytes]) -> Future:
        if (code := self._state()) or (code := self._refused):
            return self._answered(code)
        if any(key > b"\xff" for key in keys):
            return self._answered(2004)
        future = self._opened()

        def answer() -> None:
            if future.ready:
                return
            if not self._cluster.reachable:
                self._network.later(0.01, answer)
                return
            if self._read_version is None:
                self._read_version, self._read_at = self._cluster.read_version(), self._network.now()
            code = self._cluster.pick(self._cluster.faults.reads)
            if code == 1031:
                self._dead = 1031
            if self._network.now() - self._read_at > MAX_AGE_SECONDS:
                code = 1007
            self._close(future, code, None if code else evaluate(self._read_version))

        self._network.soon(answer)
        return future

    def _poisoned(self) -> Future:
        self._refused = 1036
        return self._answered(1036)

    # Writes. They never fail; what is wrong with them shows later.

    def set(self, key: bytes, value: bytes) -> None:
        if self._may_write(key, value):
            self._own.set(key, value)

    def add(self, key: bytes, operand: bytes) -> None:
        if self._may_write(key, operand):
            self._own.add(key, operand)

    def stamp(self, template: bytes, value: bytes) -> None:
        if self._may_write(template, value):
            self._own.stamp(template, value)

    def clear_range(self, begin: bytes, end: bytes) -> None:
        if self._may_write(begin):
            self._own.clear_range(begin, end)
            self._size += len(end)
            self._refused = self._refused or (2005 if begin > end else 0)

    def _may_write(self, key: bytes, value: bytes = b"") -> bool:
        self._state()
        self._size += 3 * len(key) + len(value) + 69
        if len(key) > KEY_BYTES_MAX or len(value) > VALUE_BYTES_MAX or key >= b"\xff":
            code = 2004 if key >= b"\xff" else 2102 if len(key) > KEY_BYTES_MAX else 2103
            self._refused = self._refused or code
        return not self._committing

    def add_conflict(self, begin: bytes, end: bytes, write: bool) -> int:
        if self._state() or begin > end:
            return 2005 if begin > end else 0
        (self._conflicts if write else self._reads).append((begin, end))
        self._size += len(begin) + len(end) + 26
        return 0

    def watch(self, key: bytes) -> Future:
        if code := self._state():
            return self._answered(code)
        future = Future(self._network)
        self._watches.append((key, future))
        return future

    # Commit.

    def commit(self) -> Future:
        if code := self._state() or self._refused:
            self._failed = True
            return self._answered(code)
        if self._size > SIZE_MAX:
            self._failed = True
            return self._answered(2101)
        self._committing = True
        self._commit_future = self._opened()
        reads = list(self._reads)
        if self._watches and (self._own or self._conflicts):
            reads += [(key, key + b"\0") for key, _ in self._watches]
        self._sent = Commit(self._own.mutations(), self._read_version, reads, self._conflicts)
        self._cluster.in_flight.append(self)
        self._cluster.commit_sent.set()
        self._network.soon(self._commit_arrives)
        return self._commit_future

    def _commit_arrives(self) -> None:
        commit = self._sent
        if commit is None or self not in self._cluster.in_flight:
            return  # a restart decides on it
        if not self._cluster.reachable:
            self._network.later(0.01, self._commit_arrives)
            return
        self._cluster.in_flight.remove(self)
        self._sent = None
        if not commit.mutations and not commit.writes:
            self._finish(0)
        elif commit.read_version is not None and self._network.now() - self._read_at > MAX_AGE_SECONDS:
            self._finish(1007)
        else:
            self._decide(commit)

    def _decide(self, commit: Commit) -> None:
        faults = self._cluster.faults
        if code := self._cluster.pick(faults.commits):
            self._finish(code)
        elif self._cluster.conflicts(commit):
            self._finish(1020)
        elif self._cluster.pick({1: faults.unknown_landed}):
            self._land(commit, 1021)
        elif self._cluster.pick({1: faults.unknown_lost}):
            self._finish(1021)
        elif self._cluster.pick({1: faults.timed_out_landed}):
            self._land(commit, 1031)
        elif self._cluster.pick({1: faults.timed_out_lost}):
            self._finish(1031)
        elif self._cluster.pick({1: faults.timed_out_late}):
            self._cluster.land_late(commit)
            self._finish(1031)
        else:
            self._land(commit, 0)

    def restart(self) -> None:
        """The server was killed with this commit in its hands."""
        commit, self._sent = self._sent, None
        if commit is not None:
            landed = not self._cluster.conflicts(commit) and self._cluster.random.random() < 0.5
            self._land(commit, 1021) if landed else self._finish(1021)

    def _land(self, commit: Commit, code: int) -> None:
        """It is done; the answer travels back, and until it arrives others may join the same version."""
        self.committed_version = self._cluster.land(commit)

        def told() -> None:
            self._cluster.seal()
            self._finish(code)

        self._network.soon(told)

    def _finish(self, code: int) -> None:
        """`code` is the commit's answer, but for one who touched the transaction meanwhile."""
        self._dead = 1031 if code == 1031 else self._dead
        code = 2017 if self._used_wrongly else code
        self._failed = bool(code)
        assert self._commit_future is not None
        self._close(self._commit_future, code)
        for key, fired in self._watches:
            if code:
                fired.settle(1020 if code == 1020 else 1025)
            elif len(self._cluster.watches) >= self._watches_max:
                fired.settle(WATCH_LIMIT_ERROR)
            elif not fired.ready:
                version = self._read_version if self._read_version is not None else self._cluster.read_version()
                value = self._own.of(key).over(self._cluster.value(key, version))
                self._cluster.arm(ArmedWatch(key, value, fired))
        self._watches = []

    def on_error(self, code: int) -> Future:
        if self._dead or code not in RETRYABLE:
            answer = self._dead or (2017 if self._used_wrongly else code)
            self._dead = self._dead or 1025
            return self._answered(answer)
        self._interrupt(1025)
        for _, fired in self._watches:
            fired.settle(1025)
        future = self._opened()
        wait = 0.01 if code in _RETRIED_SOON else self._cluster.random.uniform(0, min(self._backoff, self._retry_delay))
        self._backoff *= 2

        def again() -> None:
            if not future.ready:
                self._reset()
                self._close(future, 0)

        self._network.later(wait, again)
        return future

    def destroy(self) -> None:
        """A commit that was sent lands all the same; armed watches live on."""
        self._timeout = 0
        self._dead = self._dead or 1025
        self._interrupt(1025)
        for _, fired in self._watches:
            fired.settle(1025)

    def _state(self) -> int:
        """The error of any operation now, or 0. An operation during the commit spoils the commit's answer as well."""
        if self._dead:
            return self._dead
        if self._committing:
            self._used_wrongly = True
            return 2017
        return 0

    def _opened(self) -> Future:
        future = Future(self._network)
        self._open.add(future)
        return future

    def _answered(self, code: int) -> Future:
        future = self._opened()
        self._network.soon(lambda: self._close(future, code))
        return future

    def _close(self, future: Future, code: int, value: object = None) -> None:
        self._open.discard(future)
        future.settle(code, value)
