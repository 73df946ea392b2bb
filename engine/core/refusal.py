"""How `decide` says no, and how it asks for what it has not seen. Nothing has changed when one of these is raised."""

from __future__ import annotations


class Rejection(Exception):
    """The command does not apply.

    `reason` is an ErrorInfo reason of the public error table (RUN_CLOSED, LEASE_LOST …)."""

    def __init__(self, reason: str, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.reason, self.metadata = reason, metadata


class NeedItems(Exception):
    """`decide` must see map items that are not in the view: one path, or all items under a prefix ending in "#"."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class NeedSignals(Exception):
    """`decide` opens a wait and must see the oldest buffered signal of each of these names."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(names)
        self.names = names
