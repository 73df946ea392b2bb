"""Definitions that were right once: keys lost, values swapped, spans and sizes without measure."""

from __future__ import annotations

import copy
from random import Random
from typing import Any, Final

from tests.acceptance.chaos.workloads import DEFINITIONS
from tests.acceptance.hostile.target import DOCUMENTS

_VALUES: Final[tuple[Any, ...]] = (
    None, True, 0, -1, 10**18, 1e308, "", "x", "only", "0s", "-5s", "999999999d", "PT1e9S", "${", "${a.b.c ?? }", "$.x",
    "a" * 5000, "\x00", [], {}, [[]], [None], {"": ""}, {"key": 1}, {"items": {"static": [1]}}, {"max_attempts": -1},
    {"multiplier": 1e300, "initial_delay": "9999d", "max_delay": "1ms"}, "[x, x, x].map(y, [y, y].map(z, z))",
    "1 +" * 500 + "1", "(" * 300 + "1" + ")" * 300, {"a": {"b": {"c": {"d": {}}}}},
)  # fmt: skip


class Mutator:
    """Makes definitions from the ones that the other tests run."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def mutated(self) -> Any:
        """A document with one to five changes, sometimes joined with parts of another one."""
        document = copy.deepcopy(self._random.choice((*DEFINITIONS, *DOCUMENTS)))
        for _ in range(self._random.randint(1, 5)):
            document = self._changed(document)
        return document

    def _changed(self, document: Any) -> Any:
        places = list(_places(document))
        if not places:
            return self._random.choice(_VALUES)
        holder, key = self._random.choice(places)
        kind = self._random.random()
        if kind < 0.2:
            del holder[key]
        elif kind < 0.6:
            holder[key] = copy.deepcopy(self._random.choice(_VALUES))
        elif kind < 0.8:
            other, name = self._random.choice(list(_places(self._random.choice((*DEFINITIONS, *DOCUMENTS)))))
            holder[key] = copy.deepcopy(other[name])
        elif isinstance(holder, dict):
            holder[str(self._random.choice(_VALUES))[:50]] = holder[key]
        else:
            holder.extend([holder[key]] * 50)
        return document


def _places(value: Any) -> Any:
    """Every place in a document, as what holds it and under which key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield value, key
            yield from _places(inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield value, index
            yield from _places(inner)
