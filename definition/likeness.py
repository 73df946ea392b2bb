""" "Did you mean …": the known name that is most like an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Collection

CANDIDATES_MAX = 500  #: comparing takes some microseconds each


def closest(name: str, known: Collection[str], cutoff: float = 0.6) -> str | None:
    """The nearest of the known names; None if none is near, or if there are too many to compare."""
    if len(known) > CANDIDATES_MAX or len(name) > 100:
        return None
    found = difflib.get_close_matches(name, known, 1, cutoff)
    return found[0] if found else None


def meant(name: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?`, or nothing: to be put behind a message."""
    near = closest(name, known)
    return f"; did you mean {near!r}?" if near else ""
