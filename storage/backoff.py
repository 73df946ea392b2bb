"""Waiting between the attempts of one transaction:

Random, doubling, bounded, like the FoundationDB client's `on_error`.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Final

from windlass.storage.port import TRANSACTION_SECONDS_MAX, CommitUnknown, TransactionTooOld, Unavailable

FIRST_SECONDS: Final = 0.01
LONGEST_SECONDS: Final = 0.1
#: A body that was too slow this many times will be so the next time.
TOO_OLD_ATTEMPTS: Final = 3


class Conflict(Exception):
    """The attempt read what another commit has changed since. Never leaves `transact`."""


class Forgotten(Exception):
    """The commit's answer was lost, and the commit is settled: it happened or never will. Never leaves `transact`."""


class TooOld(Exception):
    """The attempt outlived TRANSACTION_SECONDS_MAX. Never leaves `transact`."""


class Backoff:
    """The retries of one call of `transact`. It gives up after `deadline_seconds` on the loop's clock."""

    __slots__ = ("_ends", "_longest", "_random", "_too_old", "attempt", "maybe_committed")

    def __init__(self, random: Random, deadline_seconds: float) -> None:
        self.attempt = 1
        self.maybe_committed = False
        self._random = random
        self._longest = FIRST_SECONDS
        self._too_old = 0
        self._ends = asyncio.get_running_loop().time() + deadline_seconds

    async def wait(self, error: Exception) -> None:
        """Sleep before the next attempt.

        Raises what ends the call: `TransactionTooOld`, `Unavailable`, `CommitUnknown`.
        """
        if isinstance(error, Forgotten):
            self.maybe_committed = True
        if isinstance(error, TooOld):
            self._count_too_old(error)
        if asyncio.get_running_loop().time() >= self._ends:
            raise self.given_up(f"the transaction was tried {self.attempt} times within its deadline") from error
        await asyncio.sleep(self._random.uniform(0, self._longest))
        self._longest = min(2 * self._longest, LONGEST_SECONDS)
        self.attempt += 1

    def given_up(self, why: str) -> Unavailable | CommitUnknown:
        """The error for a caller who will not get an answer: an earlier attempt may have committed."""
        return CommitUnknown(why) if self.maybe_committed else Unavailable(why)

    def _count_too_old(self, error: Exception) -> None:
        self._too_old += 1
        if self._too_old >= TOO_OLD_ATTEMPTS:
            message = (
                f"the transaction took over {TRANSACTION_SECONDS_MAX} s in {self._too_old} attempts: do less in it"
            )
            raise CommitUnknown(message) if self.maybe_committed else TransactionTooOld(message) from error
