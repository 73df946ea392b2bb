"""`decide`: one command in, one complete outcome out. (contract; session G completes it)

    decide(definition, state, view, command, now_us) -> Decision

* `state` is None only for `Start`.
* `view` gives what lives outside the run record; it may raise `NeedItems` or `NeedSignals`, which the shell answers by loading and
  calling again: decide is pure, so nothing is lost.
* raises `Rejection`, and then nothing changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from windlass.engine.core.effects import Effect
from windlass.engine.core.state import Node, RunState


class Rejection(Exception):
    """The command does not apply. `reason` is an ErrorInfo reason of the public error table (RUN_CLOSED, LEASE_LOST …)."""

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


class View(Protocol):
    """What lives outside the run record."""

    def item(self, path: str) -> Node | None: ...
    def items(self, prefix: str) -> Mapping[str, Node]: ...
    def signals(self, names: tuple[str, ...]) -> Mapping[str, tuple[bytes, bytes]]: ...  #: name -> (inbox key, payload), oldest


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The complete consequence of a command, committed as one: first state, items and events, then the effects in order."""

    state: RunState
    items: Mapping[str, Node | None]  #: changed item records; None = removed
    events: tuple[object, ...]  #: engine.core.events.Event, numbered state.seq - len + 1 … state.seq
    effects: tuple[Effect, ...]
    reply: bytes = b""  #: for ApplyUpdate
