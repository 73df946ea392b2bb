"""What the sandbox refused to an attempt, counted: kept small however often it is tried.

An entry is a call with its first argument. Code that tries a million paths gets its first few written down; the rest
is counted by call. So an account has at most `TOTAL_MAX` entries, whatever runs.
"""

from __future__ import annotations

from typing import Final

from windlass.runtimes.port import Denial

#: What was reached for. Labels of a metric: nothing that task code chose is ever among them.
KINDS: Final = frozenset({"file", "network", "sleep", "process", "address", "other"})
#: Entries with an argument of their own.
ENTRIES_MAX: Final = 16
#: All entries, those without an argument included; the WASI calls that are denied are sixteen.
TOTAL_MAX: Final = 32
ARGUMENT_CHARACTERS: Final = 200
CALL_CHARACTERS: Final = 64
COUNT_MAX: Final = 1 << 53


class Denials:
    """The account of one attempt."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Denial] = {}

    def add(self, kind: str, call: str, argument: str = "") -> None:
        """Count one refusal. `kind` is one of `KINDS`."""
        key = call[:CALL_CHARACTERS], argument[:ARGUMENT_CHARACTERS]
        if key not in self._entries and len(self._entries) >= ENTRIES_MAX:
            key = key[0], ""
        if key not in self._entries and len(self._entries) >= TOTAL_MAX - 1:
            kind, key = "other", ("other", "")
        known = self._entries.get(key)
        self._entries[key] = Denial(kind, *key, known.count + 1 if known else 1)

    def all(self) -> tuple[Denial, ...]:
        """Return what was refused, in the order in which it was first tried."""
        return tuple(self._entries.values())


def cut(denials: tuple[Denial, ...]) -> tuple[Denial, ...]:
    """Return as much of an account as one of ours can hold: it may come from a child that was taken over."""
    return tuple(
        Denial(
            one.kind if one.kind in KINDS else "other",
            one.call[:CALL_CHARACTERS],
            one.argument[:ARGUMENT_CHARACTERS],
            min(max(one.count, 1), COUNT_MAX),
        )
        for one in denials[:TOTAL_MAX]
    )
