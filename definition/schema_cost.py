"""How much work a JSON Schema can cause, from its text.

A validator runs for hours, or builds gigabytes of messages, over what an author may write in a few lines. So this is
refused or bounded before a schema is used:

* references that double at each level (`a0: allOf [a1, a1]`, `a1: allOf [a2, a2]`, …), and `unevaluatedProperties` in
  each other, which look at all that lies in them once more: seen by the size of the schema with all of it written out;
* recursive schemas that apply themselves more than once (`allOf: [{properties: {x: {$ref: "#"}}}, …]` twice over):
  the work doubles with each level of the value, so the value's depth is bounded;
* many parts, or a long list to compare with, for each of many items; long patterns for long texts: bounded by what one
  place of a value is held against, times the size of the value.

What is counted here must be what the validator follows. So a reference is written from the document's root or with an
anchor, and no part has an `$id` of its own, against which references in it would count.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec

from windlass.definition.regex_weight import WIDE_COMPILED, WIDE_TAKEN, regex_weight

EXPANDED_MAX: Final = 200_000  #: parts of the schema with all references written out
WORK_MAX: Final = 1_000_000  #: how often a recursive schema may come to apply to one place of a value
TELLING_MAX: Final = 1_000  #: and when it is told what is wrong
DEPTH_MAX: Final = 200  #: levels of a value that any schema is applied to
CHECKS_MAX: Final = 100_000_000  #: parts held against values, or steps of patterns against characters; about 1 s
TOLD_MAX: Final = 200_000  #: parts held against values when it is told what is wrong
TOLD_CHARACTERS_MAX: Final = 50_000_000  #: of the messages, each of which quotes the value

_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_ANCHORS: Final = ("$anchor", "$dynamicAnchor")
#: What is no schema, and what is reached by references only.
_VALUES: Final = ("enum", "const", "default", "examples")
_DEFINITIONS: Final = ("$defs", "definitions")
#: By name, or by pattern: what is under them are schemas.
_NAMED: Final = ("patternProperties", "dependentSchemas", "dependencies")
_UNEVALUATED: Final = ("unevaluatedProperties", "unevaluatedItems")
_AGAIN: Final = 3
#: Characters in a schema that are as much work as a part, when they are quoted.
_QUOTED: Final = 100


class TooLarge(ValueError):
    """The schema written out is larger than EXPANDED_MAX."""


def pattern_steps(schema: Any) -> int:
    """How much there is to compile in the patterns of a schema, wherever they are."""
    if isinstance(schema, list):
        return sum(map(pattern_steps, schema))
    if not isinstance(schema, dict):
        return 0
    patterns = [schema.get("pattern"), *_names(schema.get("patternProperties"))]
    own = sum(regex_weight(pattern, WIDE_COMPILED) for pattern in patterns if isinstance(pattern, str))
    return own + sum(map(pattern_steps, schema.values()))


class Measure:
    """Of a value: its levels, its parts, and the characters in them. It is not looked into deeper than `limit` + 1."""

    __slots__ = ("characters", "depth", "nodes")

    def __init__(self, value: Any, limit: int = DEPTH_MAX) -> None:
        self.nodes = self.characters = 0
        self.depth = self._look(value, limit)

    def _look(self, value: Any, limit: int) -> int:
        self.nodes += 1
        if isinstance(value, str):
            self.characters += len(value)
        if limit < 0 or not isinstance(value, dict | list):
            return 0
        if isinstance(value, dict):
            self.characters += sum(map(len, value))
            value = value.values()
        return 1 + max([self._look(item, limit - 1) for item in value], default=0)


def surely_small(value: Any, cost: Cost) -> bool:
    """Whether the length of the value's JSON text, which is cheap to have, says that it can be checked."""
    try:
        text = msgspec.json.encode(value)
    except (ValueError, TypeError, OverflowError, RecursionError):  # then it is measured
        return False
    if (cost.parts + cost.steps) * len(text) > CHECKS_MAX:
        return False
    return text.count(b"{") + text.count(b"[") <= cost.checked


class Cost(NamedTuple):
    """What a schema costs. Telling costs a thousand times more: the library collects all that did not fit."""

    checked: int  #: levels of a value that it is applied to
    told: int  #: and those of which it is told what is wrong
    parts: int  #: parts of it that one place of a value may be held against
    steps: int  #: steps of patterns that one character may be held against

    def too_much(self, value: Measure) -> bool:
        """Whether the value is too large to be checked."""
        return self.parts * value.nodes + self.steps * value.characters > CHECKS_MAX

    def too_much_to_tell(self, value: Measure) -> bool:
        """Whether the value is too large to be told what is wrong with it."""
        quoted = self.parts * value.characters * (value.depth + 1)
        return self.parts * value.nodes > TOLD_MAX or quoted > TOLD_CHARACTERS_MAX


def cost_of(schema: Any) -> Cost:
    """What the schema costs. Raises TooLarge, and ValueError for a reference that cannot be followed here."""
    walk = _Walk(schema)
    parts, steps, _ = walk.weigh(schema)
    if walk.repeats == 1:
        return Cost(DEPTH_MAX, DEPTH_MAX, parts, steps)
    checked, told = (min(DEPTH_MAX, int(math.log(work) / math.log(walk.repeats))) for work in (WORK_MAX, TELLING_MAX))
    return Cost(checked, told, parts, steps)


class _Weight(NamedTuple):
    """Of a part, as in `Cost`; `loops`: how often it comes back to a reference that is being written out."""

    parts: int
    steps: int
    loops: dict[str, int]


class _Walk:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._anchors: dict[str, list[Any]] = {}
        self._ids = ["$id"]
        self._weights: dict[str, _Weight] = {}
        self._open: set[str] = set()
        self.repeats = 1  #: how often a schema refers to itself, at most
        self._find_anchors(root)

    def weigh(self, part: Any) -> _Weight:
        """What it is to hold a value against this, with references written out; a recursive one counts one."""
        if isinstance(part, list):
            return self._sum([self.weigh(item) for item in part])
        if not isinstance(part, dict):
            return _Weight(_size(part), 0, {})
        if part is not self._root and any(isinstance(part.get(key), str) for key in self._ids):
            raise ValueError("a part of a schema cannot have an $id of its own; use $anchor")
        whole = self._sum([self._member(key, inner) for key, inner in part.items()])
        return self._sum([whole] * _AGAIN) if any(key in part for key in _UNEVALUATED) else whole

    def _member(self, key: str, inner: Any) -> _Weight:
        if key in _REFERENCES and isinstance(inner, str):
            return self._reference(inner)
        if key in _VALUES:
            return _Weight(_size(inner), 0, {})
        if key == "pattern" and isinstance(inner, str):
            return _Weight(_size(inner), regex_weight(inner, WIDE_TAKEN), {})
        if key == "properties" and isinstance(inner, dict):
            # No value is under two names.
            weights = [self.weigh(schema) for schema in inner.values()] or [_Weight(0, 0, {})]
            parts, steps = max(weight.parts for weight in weights), max(weight.steps for weight in weights)
            return self._bounded(_Weight(len(inner) + parts, steps, _most([weight.loops for weight in weights])))
        if key in _NAMED and isinstance(inner, dict):
            steps = sum(regex_weight(name, WIDE_TAKEN) for name in inner) if key == "patternProperties" else 0
            return self._sum([_Weight(len(inner), steps, {}), *map(self.weigh, inner.values())])
        return _Weight(1, 0, {}) if key in _DEFINITIONS else self.weigh(inner)

    def _reference(self, reference: str) -> _Weight:
        if reference in self._open:
            return _Weight(1, 0, {reference: 1})
        if reference not in self._weights:
            self._open.add(reference)
            weight = self._sum([self.weigh(target) for target in self._targets(reference)])
            self._open.discard(reference)
            self.repeats = max(self.repeats, weight.loops.pop(reference, 1))
            self._weights[reference] = weight
        return self._weights[reference]

    def _targets(self, reference: str) -> list[Any]:
        if not reference.startswith("#"):
            raise ValueError(f"references to other documents are not followed ({reference}); put it under $defs")
        name = unquote(reference[1:])
        if name and not name.startswith("/"):
            return self._anchors.get(name, [])
        part: Any = self._root
        for step in name[1:].split("/") if name else ():
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(part, dict) and key in part:
                part = part[key]
            elif isinstance(part, list) and key.isdecimal() and int(key) < len(part):
                part = part[int(key)]
            else:
                raise ValueError(f"the reference {reference} leads to what does not exist")
        return [part]

    def _find_anchors(self, part: Any) -> None:
        if isinstance(part, dict):
            if "draft-04" in str(part.get("$schema")):
                self._ids.append("id")
            for key in _ANCHORS:
                if isinstance(part.get(key), str):
                    self._anchors.setdefault(part[key], []).append(part)
        for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            self._find_anchors(inner)

    def _sum(self, weights: list[_Weight]) -> _Weight:
        loops: dict[str, int] = {}
        for weight in weights:
            for reference, times in weight.loops.items():
                loops[reference] = loops.get(reference, 0) + times
        parts, steps = sum(weight.parts for weight in weights), sum(weight.steps for weight in weights)
        return self._bounded(_Weight(1 + parts, steps, loops))

    def _bounded(self, weight: _Weight) -> _Weight:
        if weight.parts > EXPANDED_MAX:
            raise TooLarge(f"with its references written out it has more than {EXPANDED_MAX:,} parts")
        return weight


def _names(value: Any) -> list[str]:
    return list(value) if isinstance(value, dict) else []


def _size(value: Any) -> int:
    """What a value in the schema counts: it is compared with, and quoted when it does not fit."""
    size = Measure(value)
    return size.nodes + size.characters // _QUOTED


def _most(several: list[dict[str, int]]) -> dict[str, int]:
    return {name: max(loops.get(name, 0) for loops in several) for name in set().union(*several)}
