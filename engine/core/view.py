"""What was loaded for a decision so far. The shell gives an empty one first and adds what `decide` asks for."""

from __future__ import annotations

from collections.abc import Mapping

from windlass.engine.core.refusal import NeedItems, NeedSignals
from windlass.engine.core.state import Node


class Loaded:
    """A `View` over loaded records; asks (NeedItems, NeedSignals) for what it has not."""

    def __init__(self) -> None:
        self._items: dict[str, Node | None] = {}
        self._prefixes: dict[str, dict[str, Node]] = {}
        self._signals: dict[str, tuple[bytes, bytes] | None] = {}

    def add_item(self, path: str, node: Node | None) -> None:
        self._items[path] = node

    def add_items(self, prefix: str, nodes: Mapping[str, Node]) -> None:
        """Every item record whose path begins with this prefix."""
        self._prefixes[prefix] = dict(nodes)
        self._items.update(nodes)

    def add_signals(self, names: tuple[str, ...], found: Mapping[str, tuple[bytes, bytes]]) -> None:
        """The oldest entry of each of these names: inbox key and payload; absent if there is none."""
        for name in names:
            self._signals[name] = found.get(name)

    def item(self, path: str) -> Node | None:
        if path not in self._items:
            raise NeedItems(path)
        return self._items[path]

    def items(self, prefix: str) -> Mapping[str, Node]:
        if prefix not in self._prefixes:
            raise NeedItems(prefix)
        return self._prefixes[prefix]

    def signals(self, names: tuple[str, ...]) -> Mapping[str, tuple[bytes, bytes]]:
        unknown = tuple(name for name in names if name not in self._signals)
        if unknown:
            raise NeedSignals(unknown)
        found = [(entry[0], name, entry) for name in names if (entry := self._signals[name]) is not None]
        return {name: entry for _, name, entry in sorted(found)}
