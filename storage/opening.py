"""Opening a local store by name. Composition roots call this; nothing else needs to know which backend it got."""

from __future__ import annotations

from pathlib import Path

from windlass.storage.embedded import EmbeddedStorage
from windlass.storage.embedded_files import MAP_BYTES
from windlass.storage.embedded_groups import Groups
from windlass.storage.embedded_strict import StrictEmbeddedStorage
from windlass.storage.memory import MemoryWorld
from windlass.storage.port import Storage


def open_embedded(directory: Path | str, *, strict: bool = False, map_bytes: int = MAP_BYTES) -> Storage:
    """Open the store in this directory, making it if there is none, on the running event loop.

    `map_bytes` is the first size of the memory map, which grows by itself. `strict` makes bodies interleave and
    conflict as on FoundationDB. Raises `StoreLocked` if another process has it open, `StoreReadOnly`, `StoreFull`,
    and `StoreFormat` if this is not a store that the program knows.
    """
    groups = Groups(Path(directory), map_bytes)
    return StrictEmbeddedStorage(groups) if strict else EmbeddedStorage(groups)


def open_memory() -> Storage:
    """A store that is gone when the process ends."""
    return MemoryWorld().open(shared=False)
