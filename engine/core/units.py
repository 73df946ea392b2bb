"""Units: what a worker has beside slots, and what a task takes of it while it is leased. Free names, whole amounts.

The canonical text of units (`gpu=1,memory=4096`, by name) is what queues and leases are told apart by; `{}` is "".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

#: Amounts by name, in the order of the names.
Units = tuple[tuple[str, int], ...]

NAME_MAX: Final = 24
#: Different units that one task may need: their text is part of a key of the store.
NEEDS_MAX: Final = 6
#: Different units that one worker may offer.
OFFER_MAX: Final = 32
AMOUNT_MAX: Final = 999_999_999

NAME_RULE: Final = f"a small letter, then small letters, digits, _ or -, at most {NAME_MAX} characters"
_NAME: Final = re.compile(rf"[a-z][a-z0-9_-]{{0,{NAME_MAX - 1}}}")
_TEXT: Final = re.compile(rf"{_NAME.pattern}=[1-9][0-9]{{0,8}}(?:,{_NAME.pattern}=[1-9][0-9]{{0,8}})*")


def flaw(name: str, amount: int) -> str:
    """What is wrong with so much of this unit, in words that go on after its name; "" if nothing is."""
    if not _NAME.fullmatch(name):
        return f"is not the name of a unit: {NAME_RULE}"
    if not 1 <= amount <= AMOUNT_MAX:
        return f"must be a whole number from 1 to {AMOUNT_MAX}, not {amount}"
    return ""


def text_of(units: Mapping[str, int]) -> str:
    """The canonical text."""
    return ",".join(f"{name}={amount}" for name, amount in sorted(units.items()))


@lru_cache(maxsize=4096)
def units_of(text: str) -> Units:
    """The canonical text read back."""
    if not text:
        return ()
    pairs = (part.partition("=") for part in text.split(","))
    return tuple((name, int(amount)) for name, _, amount in pairs)


@lru_cache(maxsize=4096)
def split_kind(kind: str) -> tuple[str, str]:
    """What a queue's kind is made of (`kind_of`): runtime or runtime:handler, and the needs' text."""
    base, plus, needs = kind.rpartition("+")
    return (base, needs) if plus and _TEXT.fullmatch(needs) else (kind, "")


def kind_of(runtime: str, handler: str, needs: str) -> str:
    """The kind of the queue in which a task waits: what a worker must be able to run, and must have free.

    Tasks of different needs wait in different queues, so none of them waits behind one that needs more.
    """
    kind = f"{runtime}:{handler}" if handler else runtime
    return f"{kind}+{needs}" if needs else kind
