"""How much work a JSON Schema can cause, from its references.

Two kinds of schema make a validator run for hours on a small value, and both are refused or bounded before they are
used:

* references that double at each level (`a0: allOf [a1, a1]`, `a1: allOf [a2, a2]`, …): seen by the size of the schema
  with all references written out;
* recursive schemas that apply themselves more than once (`allOf: [{properties: {x: {$ref: "#"}}}, …]` twice over):
  the work doubles with each level of the value, so the value's depth is bounded.
"""

from __future__ import annotations

import math
from typing import Any

EXPANDED_MAX = 20_000  #: parts of the schema with all references written out
WORK_MAX = 1_000_000  #: parts applied to one value when it is checked
TELLING_MAX = 1_000  #: and when it is told what is wrong
DEPTH_MAX = 200  #: levels of a value that any schema is applied to

_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


class TooLarge(ValueError):
    """The schema written out is larger than EXPANDED_MAX."""


def depth_limits(schema: Any) -> tuple[int, int]:
    """How deep a value may be to be checked, and to be told what is wrong with it. Raises TooLarge.

    Telling costs a thousand times more than checking: the library collects all that was tried and did not fit.
    """
    walk = _Walk(schema)
    walk.size(schema)
    repeats = max([1, *walk.recursions.values()])
    if repeats == 1:
        return DEPTH_MAX, DEPTH_MAX
    checked, told = (min(DEPTH_MAX, int(math.log(work) / math.log(repeats))) for work in (WORK_MAX, TELLING_MAX))
    return checked, told


def depth_of(value: Any, limit: int) -> int:
    """How deep the value is; it is not looked into deeper than `limit` + 1."""
    if limit < 0 or not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max((depth_of(item, limit - 1) for item in inner), default=0)


class _Walk:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._anchors: dict[str, Any] = {}
        self._sizes: dict[str, int] = {}
        self._open: list[str] = []
        self.recursions: dict[str, int] = {}  #: how often a schema refers to itself, by reference
        self._find_anchors(root)

    def size(self, part: Any) -> int:
        """The number of parts with references written out; a recursive reference counts one."""
        if isinstance(part, list):
            return self._bounded(1 + sum(self.size(item) for item in part))
        if not isinstance(part, dict):
            return 1
        total = 1
        for key, inner in part.items():
            if key in _REFERENCES and isinstance(inner, str):
                total += self._reference(inner)
            elif key not in ("$defs", "definitions", "enum", "const", "default", "examples"):
                total += self.size(inner)
        return self._bounded(total)

    def _reference(self, reference: str) -> int:
        if reference in self._open:
            self.recursions[reference] = self.recursions.get(reference, 0) + 1
            return 1
        if reference not in self._sizes:
            self._open.append(reference)
            self._sizes[reference] = self.size(self._target(reference))
            self._open.pop()
        return self._bounded(self._sizes[reference])

    def _target(self, reference: str) -> Any:
        name = reference.removeprefix("#")
        if not name:
            return self._root
        if not name.startswith("/"):
            return self._anchors.get(name)
        part: Any = self._root
        for step in name[1:].split("/"):
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(part, dict):
                part = part.get(key)
            elif isinstance(part, list) and key.isdigit() and int(key) < len(part):
                part = part[int(key)]
            else:
                return None
        return part

    def _find_anchors(self, part: Any) -> None:
        if isinstance(part, dict):
            for key in ("$anchor", "$dynamicAnchor"):
                if isinstance(part.get(key), str):
                    self._anchors.setdefault(part[key], part)
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            self._find_anchors(inner)

    def _bounded(self, size: int) -> int:
        if size > EXPANDED_MAX:
            raise TooLarge(f"with its references written out it has more than {EXPANDED_MAX:,} parts")
        return size
