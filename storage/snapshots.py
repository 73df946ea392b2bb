"""Which snapshots are open, oldest first: what is older than all of them may be forgotten."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from windlass.storage.port import TRANSACTION_SECONDS_MAX


class Aged(Protocol):
    """A snapshot with its version and when it was taken, in seconds."""

    version: int
    taken_at: float


S = TypeVar("S", bound=Aged)


class OpenSnapshots(Generic[S]):
    """Snapshots are added in the order of their versions."""

    def __init__(self) -> None:
        self._open: dict[S, None] = {}

    def __contains__(self, snapshot: S) -> bool:
        return snapshot in self._open

    def add(self, snapshot: S) -> None:
        self._open[snapshot] = None

    def remove(self, snapshot: S) -> None:
        """Safe to call twice."""
        self._open.pop(snapshot, None)

    def outlived(self, now: float) -> list[S]:
        """Those too old to be of use: nothing may be read or committed through them."""
        old: list[S] = []
        for snapshot in self._open:
            if now - snapshot.taken_at <= TRANSACTION_SECONDS_MAX:
                break
            old.append(snapshot)
        return old

    def floor(self, present: int) -> int:
        """The version of the oldest, or the present one if none is open."""
        return next(iter(self._open)).version if self._open else present
