"""The storage port: ordered bytes and serializable transactions, with FoundationDB's semantics.

Everything durable in Windlass goes through the two protocols in this file, so that the domain layers are written once
and what holds on a laptop holds on a cluster. A backend is a class with `Storage`'s methods; `tests/storage` is the
list of what it must do, and all backends run it.

What a caller may rely on
-------------------------
* **Serializable.** The outcome of all committed transactions is that of some serial order, which is the order of
  their commit versions. Only real reads (not `snapshot=True`) take part in conflict detection; blind writes and `add`
  never conflict.
* **Atomic and durable.** `transact` returns after the commit is on disk (in memory backends: after it is applied),
  never before.
* **The body may run more than once.** `transact(body)` retries conflicts with backoff, and after an unknown commit it
  runs the body again with `maybe_committed` set. So make ids outside the body, let the body look for its own effect
  first, and have no side effects in it except through the transaction.
* **The body awaits only its transaction.** The embedded backend runs bodies to completion without ever suspending, so
  awaiting anything else in a body raises `BodySuspended` there (strict mode and the other backends do suspend).
* **Own writes are seen** by gets and ranges (snapshot reads too), except versionstamped keys, whose place is unknown
  until the commit: do not read a range in which your own versionstamped key may fall (`Unreadable`, and nothing is
  committed).
* **Keys** are 1 to KEY_BYTES_MAX bytes and their first byte is below 0xff; what lies above belongs to the store. A
  range may end at the key 0xff.
* **The same limits everywhere**, so that a size mistake shows on a laptop: see the constants. They are enforced with
  the named errors below, at the latest at commit; a refused transaction changes nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")
Row = tuple[bytes, bytes]
Rows = list[Row]

#: Longest key in bytes. FoundationDB allows 10,000; LMDB 511. The lower one holds for all backends.
KEY_BYTES_MAX: Final = 480
#: Longest value in bytes (FoundationDB's).
VALUE_BYTES_MAX: Final = 100_000
#: Largest transaction in bytes: keys and values written, plus the ranges read (FoundationDB's).
TRANSACTION_BYTES_MAX: Final = 10_000_000
#: Oldest age of a transaction, from its first read to its commit, in seconds (FoundationDB's).
TRANSACTION_SECONDS_MAX: Final = 5.0


class StorageError(Exception):
    """The storage refused or failed an operation."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or type(self).__doc__)


class Unavailable(StorageError):
    """The store did not answer within the deadline; nothing was committed. Try again later."""


class CommitUnknown(StorageError):
    """A commit was sent and no answer came: it may have happened, or may happen yet. Settle it before acting on it."""


class Refused(StorageError):
    """The store takes no such writes, today or later: only other writes, or fewer at once, can succeed."""


class KeyTooLarge(Refused):
    """A key is longer than KEY_BYTES_MAX."""


class ValueTooLarge(Refused):
    """A value is longer than VALUE_BYTES_MAX."""


class KeyIllegal(Refused):
    """A key is empty, or its first byte is 0xff."""


class Unreadable(Refused):
    """A transaction read where its own versionstamped key may fall, whose place is unknown until the commit."""


class TransactionTooLarge(Refused):
    """The transaction is larger than TRANSACTION_BYTES_MAX. Split the work."""


class TransactionTooOld(StorageError):
    """The transaction ran longer than TRANSACTION_SECONDS_MAX, in every attempt. Do less in one transaction."""


class BodySuspended(StorageError):
    """A transaction body awaited something other than its transaction."""


class StoreLocked(StorageError):
    """Another process has this store open."""


class StoreFull(StorageError):
    """The disk has no room for this commit; nothing was changed and the store stays usable."""


class StoreReadOnly(StorageError):
    """The store's directory cannot be written."""


class StoreFormat(StorageError):
    """This is not a Windlass store, or one of a format version this program does not know."""


class Watch(Protocol):
    """Fires after the watched key's value was changed by a commit later than the one that armed it.

    It only says "look again": it may fire without a change and may miss a change there and back, and it always needs a
    bounded poll behind it. After arming, read the state once more, or a change made just before is missed.
    """

    async def wait(self) -> None:
        """Return once fired. Raises `Unavailable` if the watch was lost. Cancelling the waiter leaves it armed."""
        ...

    def cancel(self) -> None:
        """Give it up and free its place. Harmless when fired or cancelled before."""
        ...


class Transaction(Protocol):
    """One attempt of one transaction. Reads start when called: call all of them, then await the first."""

    #: 1 for the first run of the body, rising with each retry.
    attempt: int
    #: An earlier attempt of this body may have committed: its effect may be there already.
    maybe_committed: bool
    #: Its place in the serial order, rising, once `transact` has returned; 0 before, and if it wrote nothing.
    commit_version: int

    def get(self, key: bytes, *, snapshot: bool = False) -> Awaitable[bytes | None]:
        """The value of `key`, or None. `snapshot` reads without taking part in conflict detection."""
        ...

    def get_range(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False, snapshot: bool = False
    ) -> Awaitable[Rows]:
        """Rows with begin <= key < end in key order (from the end if `reverse`), at most `limit` of them if not 0.

        Conflicts only as far as it read: with a limit, up to the last row returned. Await it before you write into the
        range: a cluster gives a long one in parts, and asks for the later ones when it is awaited.
        """
        ...

    def set(self, key: bytes, value: bytes) -> None:
        """Write a key."""
        ...

    def clear(self, key: bytes) -> None:
        """Remove a key, if it is there."""
        ...

    def clear_range(self, begin: bytes, end: bytes) -> None:
        """Remove all keys with begin <= key < end."""
        ...

    def add(self, key: bytes, number: int) -> None:
        """Add to a signed 64-bit little-endian counter (missing counts as 0), without a conflict."""
        ...

    def set_versionstamped_key(self, prefix: bytes, suffix: bytes, value: bytes) -> None:
        """Write `prefix + stamp + suffix`, where stamp is 10 bytes known at commit: unique, in commit order.

        Two such writes of one transaction share the stamp; tell them apart by the suffix.
        """
        ...

    def add_read_conflict_key(self, key: bytes) -> None:
        """Make this transaction conflict with changes of `key`, as if it had read it for real."""
        ...

    def add_write_conflict_key(self, key: bytes) -> None:
        """Make transactions that read `key` conflict with this one, as if it had been written."""
        ...

    def watch(self, key: bytes) -> Watch:
        """Armed by this transaction's commit; made in the body and returned from it. A retry cancels it."""
        ...


class Storage(Protocol):
    """A store, opened, used and closed on one event loop."""

    #: True if other processes may open the same store: then changes by others are learnt through watches and polls.
    shared: bool

    async def transact(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `body` and commit, again and again until it holds; returns the last run's result.

        Raises what the body raises (then nothing is committed); `Unavailable` when the store does not answer in time;
        `CommitUnknown` when a commit was under way at that time; the size and age errors above.
        """
        ...

    async def read(self, body: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run a body that only reads, on one consistent snapshot. Never blocks writers and never conflicts."""
        ...

    async def settle(self, key: bytes) -> bytes | None:
        """After `CommitUnknown`: what `key` holds for good.

        The lost transaction must have read `key` and meant to write it. A look alone is not enough, as a lost
        commit may land after it: this one makes it conflict instead.
        """
        ...

    async def close(self) -> None:
        """Finish commits under way, cancel watches, release the store. Safe to call twice."""
        ...


@runtime_checkable
class Counted(Protocol):
    """A store that counts its work, for operators and benchmarks."""

    def counts(self) -> dict[str, int]:
        """Since it was opened: `transactions` that wrote and were committed, `commits` that made them durable."""
        ...
