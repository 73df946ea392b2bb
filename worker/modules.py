"""Task code by digest: from memory, from this worker's own disk cache, or from the engine.

Nothing is trusted but the digest: bytes from the engine and bytes from the disk are hashed before they are used, and
the cache folder is readable by this user alone. A file that does not have its digest is removed and fetched again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from windlass.runtimes.port import digest_of
from windlass.worker.journal import Journal

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")

Fetch = Callable[[str], Awaitable[bytes]]
#: Who is said to have signed a module: public keys and signatures.
Claims = Sequence[tuple[bytes, bytes]]


class ModuleUnusable(Exception):
    """There is no code of this digest: the name is malformed, or the bytes that came have another digest."""


class Untrusted(Exception):
    """No key that this worker trusts has signed the module. The message says which module, and what to do."""


class Trust(Protocol):
    """Says whose code runs here: `trust.TrustedKeys`."""

    def approved(self, digest: str) -> bool:
        """Tell whether the module of this digest was found to be signed."""

    async def approve(self, digest: str, claims_of: Callable[[str], Awaitable[Claims]]) -> None:
        """Find out, given where to ask who signed it. Raises Untrusted, or whatever `claims_of` raises."""


class ModuleCache:
    """Code by digest. One fetch per digest at a time, however many tasks wait for it."""

    def __init__(self, folder: Path | None, journal: Journal, memory_bytes: int = 64 << 20) -> None:
        """`folder` None: keep in memory only. Raises OSError if the folder cannot be made private."""
        self._folder = folder
        self._journal = journal
        self._memory_bytes = memory_bytes
        self._memory: OrderedDict[str, bytes] = OrderedDict()
        self._used_bytes = 0
        self._coming: dict[str, asyncio.Task[bytes]] = {}
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)

    def at_hand(self, digest: str) -> bytes | None:
        """Return the code if it is in memory."""
        code = self._memory.get(digest)
        if code is not None:
            self._memory.move_to_end(digest)
        return code

    async def get(self, digest: str, fetch: Fetch) -> bytes:
        """Return the code. Raises ModuleUnusable, or whatever `fetch` raises."""
        code = self.at_hand(digest)
        if code is not None:
            return code
        if not _DIGEST.fullmatch(digest):  # it becomes a file name
            raise ModuleUnusable(f"{digest[:80]!r} is not the sha256 of a module in lower-case hex")
        coming = self._coming.get(digest)
        if coming is None:
            coming = self._coming[digest] = asyncio.ensure_future(self._load(digest, fetch))
            coming.add_done_callback(lambda done: self._arrived(digest, done))
        return await asyncio.shield(coming)  # one task that is cancelled does not take the module from the others

    def _arrived(self, digest: str, done: asyncio.Future[bytes]) -> None:
        self._coming.pop(digest, None)
        if not done.cancelled():
            done.exception()  # read, so that it is not reported as lost when every waiter has been cancelled

    async def _load(self, digest: str, fetch: Fetch) -> bytes:
        code = await self._kept(digest) if self._folder else None
        if code is None:
            code = await fetch(digest)
            if digest_of(code) != digest:
                raise ModuleUnusable(f"the engine sent {len(code)} bytes for module {digest} that have another digest")
            if self._folder:
                await self._keep(digest, code)
        self._remember(digest, code)
        return code

    async def _kept(self, digest: str) -> bytes | None:
        try:
            return await asyncio.to_thread(self._read, digest)
        except OSError as error:  # a disk that cannot be read costs speed, not tasks
            self._journal.warning("module not read from disk", digest=digest, error=error)
            return None

    async def _keep(self, digest: str, code: bytes) -> None:
        try:
            await asyncio.to_thread(self._write, digest, code)
        except OSError as error:  # a full disk costs speed, not tasks
            self._journal.warning("module not cached on disk", digest=digest, error=error)

    def _remember(self, digest: str, code: bytes) -> None:
        self._memory[digest] = code
        self._used_bytes += len(code)
        while self._used_bytes > self._memory_bytes and len(self._memory) > 1:
            _, dropped = self._memory.popitem(last=False)
            self._used_bytes -= len(dropped)

    def _read(self, digest: str) -> bytes | None:
        path = self._path(digest)
        try:
            code = path.read_bytes()
        except FileNotFoundError:
            return None
        if digest_of(code) == digest:
            return code
        path.unlink(missing_ok=True)
        return None

    def _write(self, digest: str, code: bytes) -> None:
        """Write beside, then rename: another worker on the same folder sees all of it or nothing."""
        path = self._path(digest)
        handle, beside = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(code)
            os.replace(beside, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside)
            raise

    def _path(self, digest: str) -> Path:
        assert self._folder is not None
        return self._folder / digest
