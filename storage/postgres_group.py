"""Many transactions folded into one commit: who may go together, and the arguments of the one call that commits them.

Theory of operation: every member read a snapshot of its own and knows nothing of the others. In the order of the
group each is checked against what the members before it write; whoever read such a key must run again. What remains
has a serial order, the group's, and any member can be left out without harm to the others. Their writes are laid over
each other in that order, so that the server applies each key once.

A range clear may meet a versionstamped key of a member before it, whose place is not known before the commit. Such a
member waits for the next group.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from windlass.storage.backoff import Conflict
from windlass.storage.conflicts import WriteSet
from windlass.storage.own_writes import OwnWrites
from windlass.storage.postgres_conflicts import Written
from windlass.storage.postgres_schema import GROUP_BITS
from windlass.storage.postgres_transaction import PostgresTransaction
from windlass.storage.postgres_watches import Listener, PostgresWatch

GROUP_MEMBERS_MAX: Final = 1_000
GROUP_BYTES_MAX: Final = 4_000_000
_STAMP_TAIL: Final = b"\0\0"
_HALF, _SPAN = 1 << 63, 1 << 64


class Member:
    """A transaction that waits for its commit. `done` gives its commit version, 0 if it wrote nothing."""

    __slots__ = ("done", "reads_from", "sent", "tx")

    def __init__(self, tx: PostgresTransaction, done: asyncio.Future[int]) -> None:
        self.tx = tx
        self.done = done
        #: A call with it is under way or has been: its caller may not be told any more that nothing happened.
        self.sent = False
        #: The version it read at, or None if nothing it read is to be checked.
        checked = tx.snapshot is not None and (tx.reads.keys or tx.reads.ranges)
        self.reads_from = tx.snapshot.version if tx.snapshot is not None and checked else None

    def succeed(self, version: int) -> None:
        if not self.done.done():
            self.done.set_result(version)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # its caller may be gone

    def conflicted(self) -> None:
        """What it read was written since. If it only watches, that is what it wanted to know."""
        if self.tx.writes:
            self.fail(Conflict("what it read was written since"))
            return
        for watch in self.tx.watches:
            watch.fire()
        self.succeed(0)

    @property
    def boot(self) -> bytes | None:
        return self.tx.snapshot.boot if self.tx.snapshot is not None and self.reads_from is not None else None


class Group:
    """Members in their order, with the writes of all of them together."""

    def __init__(self, last_version: int) -> None:
        """`last_version` is that of an earlier commit; the group's will be higher."""
        self.members: list[Member] = []
        self._own = OwnWrites()
        self._stamped: dict[tuple[bytes, bytes, int], bytes] = {}
        self._touched: set[bytes] = set()
        self._written = Written(commit_version(last_version, 0).to_bytes(8, "big"))
        #: Watches of members whose keys a member after them writes: they fire with the commit that would arm them.
        self.rung: set[PostgresWatch] = set()
        self._watches: list[PostgresWatch] = []

    def full(self) -> bool:
        return len(self.members) >= GROUP_MEMBERS_MAX or self._own.weight >= GROUP_BYTES_MAX

    def must_wait(self, member: Member) -> bool:
        """True if it clears a range in which a stamped key of this group may fall."""
        return any(self._written.may_stamp(begin, end) for begin, end in member.tx.own.cleared)

    def add(self, member: Member) -> bool:
        """Take it in, unless it read what a member before it writes."""
        tx = member.tx
        if member.reads_from is not None and self._written.meets(tx.reads):
            return False
        self._ring(tx.own)
        self._watches += tx.watches
        number = len(self.members)
        self.members.append(member)
        self._lay_over(tx.own)
        self._touched |= tx.write_conflicts
        for prefix, suffix, value in tx.own.stamped:
            self._stamped[prefix, suffix, number] = value
        if tx.writes:
            keys = (*tx.own.values, *tx.own.added, *tx.write_conflicts)
            self._written.add(keys, tx.own.cleared, [prefix for prefix, _, _ in tx.own.stamped])
        return True

    def _ring(self, own: OwnWrites) -> None:
        self.rung.update(watch for watch in self._watches if own.knows(watch.key) or watch.key in own.added)

    def again(self, last_version: int) -> Group:
        """A new group of those who have no answer yet."""
        group = Group(last_version)
        for member in self.members:
            if not member.done.done():
                group.add(member)  # was in a group with the same ones before it, or fewer
        return group

    def fail(self, error: Exception) -> None:
        for member in self.members:
            member.fail(error)

    def withdraw_watches(self, listener: Listener) -> None:
        """The call did not arm them."""
        for member in self.members:
            for watch in member.tx.watches:
                listener.withdraw(watch)

    def _lay_over(self, later: OwnWrites) -> None:
        own = self._own
        for begin, end in later.cleared:
            own.clear_range(begin, end)
        own.values.update(later.values)
        if own.added:
            for key in later.values:
                own.added.pop(key, None)
        for key, number in later.added.items():
            own.add(key, number)
        own.weight += later.weight

    def arguments(self, listener: Listener) -> tuple[object, ...]:
        """For `commit_group`, after the session."""
        points = [(n, key, m.reads_from) for n, m in self._checked() for key in m.tx.reads.keys]
        spans = [(n, s.begin, s.end, m.reads_from) for n, m in self._checked() for s in m.tx.reads.ranges]
        oldest = min((m.reads_from for _, m in self._checked() if m.reads_from is not None), default=None)
        values = sorted(self._own.values.items())
        sets = [(key, value) for key, value in values if value is not None]
        stamps = [(prefix, n, suffix, value) for (prefix, suffix, n), value in self._stamped.items()]
        watches = [w for m in self.members for w in m.tx.watches if w not in self.rung and listener.enlist(w)]
        return (
            oldest,
            *_columns(points, 3),
            *_columns(spans, 4),
            *_columns(self._own.cleared, 2),
            [key for key, value in values if value is None],
            *_columns(sets, 2),
            *_columns(sorted((key, _signed(n)) for key, n in self._own.added.items()), 2),
            *_columns(stamps, 4),
            list(self._touched),
            listener.name,
            [watch.id for watch in watches],
            [watch.key for watch in watches],
        )

    def _checked(self) -> list[tuple[int, Member]]:
        return [(n, member) for n, member in enumerate(self.members) if member.reads_from is not None]

    def written(self, version: int) -> WriteSet:
        """What the group's commit `version` wrote."""
        own = self._own
        stamped = (
            prefix + commit_version(version, n).to_bytes(8, "big") + _STAMP_TAIL + suffix
            for prefix, suffix, n in self._stamped
        )
        keys = frozenset((*own.values, *own.added, *self._touched, *stamped))
        return WriteSet(version, keys, tuple(own.cleared))


def commit_version(group_version: int, number: int) -> int:
    """The version of a member: unique, and rising with the order of commits."""
    return group_version << GROUP_BITS | number


def _columns(rows: Iterable[tuple[object, ...]], width: int) -> list[list[object]]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(width)]


def _signed(number: int) -> int:
    return (number + _HALF) % _SPAN - _HALF
