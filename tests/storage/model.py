"""The dumb twin of every backend: a dict, sorted when asked, one transaction after another."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import strategies as st

from windlass.storage.own_writes import counter_sum
from windlass.storage.port import Rows, Transaction


class Operation(NamedTuple):
    """One call on a transaction. Which fields matter depends on `name`."""

    name: str
    key: bytes = b""
    end: bytes = b""
    value: bytes = b""
    number: int = 0
    limit: int = 0
    reverse: bool = False
    snapshot: bool = False


def operations(keys: st.SearchStrategy[bytes]) -> st.SearchStrategy[Operation]:
    """Any operation on these keys."""
    values = st.sampled_from([b"", b"x", b"yy"])
    return st.one_of(
        st.builds(Operation, st.just("get"), key=keys, snapshot=st.booleans()),
        st.builds(
            Operation,
            st.just("get_range"),
            key=keys,
            end=keys,
            limit=st.integers(0, 4),
            reverse=st.booleans(),
            snapshot=st.booleans(),
        ),
        st.builds(Operation, st.just("set"), key=keys, value=values),
        st.builds(Operation, st.just("clear"), key=keys),
        st.builds(Operation, st.just("clear_range"), key=keys, end=keys),
        st.builds(Operation, st.just("add"), key=keys, number=st.integers(-3, 3)),
    )


async def play(tx: Transaction, prefix: bytes, step: Operation) -> object:
    """Do it for real, below `prefix`; returns what was read."""
    key, end = prefix + step.key, prefix + step.end
    if step.name == "get":
        return await tx.get(key, snapshot=step.snapshot)
    if step.name == "get_range":
        return await tx.get_range(key, end, limit=step.limit, reverse=step.reverse, snapshot=step.snapshot)
    if step.name == "set":
        tx.set(key, step.value)
    elif step.name == "clear":
        tx.clear(key)
    elif step.name == "clear_range":
        tx.clear_range(key, end)
    else:
        tx.add(key, step.number)
    return None


class Model:
    """The rows, and each operation on them."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = rows

    def copy(self) -> Model:
        return Model(dict(self.rows))

    def range(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> Rows:
        rows = sorted(((key, value) for key, value in self.rows.items() if begin <= key < end), reverse=reverse)
        return rows[:limit] if limit else rows

    def play(self, prefix: bytes, step: Operation) -> object:
        """Do it here; returns what was read."""
        key, end = prefix + step.key, prefix + step.end
        if step.name == "get":
            return self.rows.get(key)
        if step.name == "get_range":
            return self.range(key, end, step.limit, step.reverse)
        if step.name == "set":
            self.rows[key] = step.value
        elif step.name == "clear":
            self.rows.pop(key, None)
        elif step.name == "clear_range":
            for gone in [gone for gone in self.rows if key <= gone < end]:
                del self.rows[gone]
        else:
            self.rows[key] = counter_sum(self.rows.get(key), step.number)
        return None
