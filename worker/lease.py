"""The session's lease as the worker sees it: until when may the tasks it holds go on?

The engine renews the lease when a heartbeat ARRIVES; the worker counts from when it was SENT, so its own view always
ends first, whatever the network does in between. It stops its tasks a margin before that. All times are seconds of
the event loop's monotonic clock: wall clocks jump. (A machine that sleeps stops that clock as well; then the engine's
refusal of the old lease epoch is what protects, not this.)
"""

from __future__ import annotations

from typing import Final

#: Share of the lease, and most seconds, that are kept for stopping tasks before it ends.
MARGIN_SHARE: Final = 0.2
MARGIN_MOST_S: Final = 2.0


#: Share of the lease within which a worker that lost its engine tries again, as long as the lease stands.
TRY_SHARE: Final = 0.2


class Lease:
    """One lease over everything that a worker holds."""

    def __init__(self) -> None:
        self.duration_s = 0.0
        self.interval_s = 0.0
        self.until_s = float("-inf")
        self.beat_due_s = float("inf")
        self._sent: dict[int, float] = {}
        self._last_number = 0

    @property
    def stop_at_s(self) -> float:
        """When tasks that are still running must be stopped."""
        return self.until_s - min(self.duration_s * MARGIN_SHARE, MARGIN_MOST_S)

    def try_within_s(self, now_s: float) -> float:
        """The longest pause before the next try to be heard: several fit into what is left of a lease that stands."""
        return self.duration_s * TRY_SHARE if now_s < self.until_s else float("inf")

    def granted(self, sent_s: float, now_s: float, duration_s: float, interval_s: float) -> None:
        """The session is registered by a message sent at `sent_s`."""
        self.duration_s = duration_s
        # An engine that forgets to say how often gets a third of the lease, so that two heartbeats may be lost.
        self.interval_s = interval_s if 0 < interval_s < duration_s else duration_s / 3
        self.until_s = sent_s + duration_s
        self.beat_due_s = now_s + self.interval_s

    def beat(self, now_s: float) -> int:
        """Note that a heartbeat is sent now. Returns its number."""
        self._last_number += 1
        self._sent[self._last_number] = now_s
        self.beat_due_s = now_s + self.interval_s
        return self._last_number

    def acknowledged(self, number: int, duration_s: float) -> None:
        """The engine has heard heartbeat `number`; earlier ones need no answer any more."""
        sent_s = self._sent.get(number)
        if sent_s is None:
            return
        self._sent = {later: when for later, when in self._sent.items() if later > number}
        self.duration_s = duration_s or self.duration_s
        self.until_s = max(self.until_s, sent_s + self.duration_s)

    def silent(self, now_s: float) -> bool:
        """True if the engine has left a heartbeat unanswered for so long that the connection must be dead."""
        oldest_s = min(self._sent.values(), default=now_s)
        return now_s - oldest_s >= self.patience_s

    @property
    def patience_s(self) -> float:
        """How long a heartbeat may stay unanswered. Short enough to reconnect before tasks must be stopped."""
        return max(self.interval_s, self.duration_s / 3)

    def silent_at_s(self) -> float:
        """When `silent` becomes true if nothing is heard; infinity if nothing is unanswered."""
        return min(self._sent.values(), default=float("inf")) + self.patience_s

    def disconnected(self) -> None:
        """Answers to what was sent on the old stream will never come."""
        self._sent.clear()
        self.beat_due_s = float("inf")
