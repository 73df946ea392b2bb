"""Modules: task code and WebAssembly, stored once per namespace under the hash of its bytes, with its signatures.

Signatures are kept and handed out, and looked at only for their shape: which keys are trusted is the workers' affair,
so that an engine that was taken over cannot make them run anything. It needs no cryptography for that.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from windlass.engine import keys
from windlass.engine.clock import Clock
from windlass.engine.errors import EngineError
from windlass.engine.records import CHUNK_BYTES, ModuleRecord, ModuleSignature, pack, unpack
from windlass.storage.port import Storage, Transaction

#: Largest module in bytes.
MODULE_BYTES_MAX: Final = 10 * 1024 * 1024
#: Chunks written in one transaction (about 1.8 MB).
CHUNKS_AT_ONCE: Final = 20
#: Different keys that may have signed one module. A worker reads them all before it runs the module for the first time.
SIGNATURES_MAX: Final = 16
#: Sizes of Ed25519.
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

Signatures: TypeAlias = Sequence[ModuleSignature]


class CodeFacts(msgspec.Struct, frozen=True):
    """What a piece of code is, as far as it was read."""

    problems: tuple[str, ...] = ()  #: empty when a worker would take it
    abi: str = ""  #: calling convention, where the runtime has several
    limit: int = 0  #: that of its runtime in bytes, if the code is larger


#: Reads a runtime's code.
ReadCode: TypeAlias = Callable[[str, bytes], CodeFacts]


def digest_of(data: bytes) -> str:
    """The name of a module on the wire and in the store: its SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def bare(digest: str) -> str:
    """A digest as people may give it, without the `sha256:` that documents write before it."""
    return digest.removeprefix("sha256:")


def merged(there: Signatures, more: Signatures) -> tuple[ModuleSignature, ...]:
    """All signatures, one for each key: the newest. Raises EngineError INVALID_FIELD."""
    for each in more:
        if len(each.key) != KEY_BYTES or len(each.signature) != SIGNATURE_BYTES:
            raise EngineError(
                "INVALID_FIELD",
                f"an Ed25519 public key has {KEY_BYTES} bytes and a signature {SIGNATURE_BYTES};"
                f" given are {len(each.key)} and {len(each.signature)}",
                field="signatures",
            )
    found = {each.key: each for each in (*there, *more)}
    if len(found) > SIGNATURES_MAX:
        message = f"a module has signatures by at most {SIGNATURES_MAX} keys; this would be the {len(found)}th"
        raise EngineError("INVALID_FIELD", message, field="signatures")
    return tuple(found.values())


def _not_found(ns: str, digest: str) -> EngineError:
    return EngineError("MODULE_NOT_FOUND", f"there is no module {digest} in namespace {ns!r}", digest=digest)


def _too_large(what: str, size: int, limit: int) -> EngineError:
    return EngineError("MODULE_TOO_LARGE", f"{what} has {size:,} bytes, the limit is {limit:,}", limit=str(limit))


class Modules:
    """Stores and reads modules. The record is written after all chunks, so a module that is found is whole."""

    def __init__(self, storage: Storage, clock: Clock, read: ReadCode | None = None) -> None:
        self._storage, self._clock, self.read = storage, clock, read

    def check(self, runtime: str, data: bytes) -> list[str]:
        """What is wrong with a piece of code."""
        return list(self.read(runtime, data).problems) if self.read else []

    async def put(
        self, ns: str, runtime: str, data: bytes, expected: str = "", signatures: Signatures = (), name: str = ""
    ) -> tuple[ModuleRecord, bool]:
        """Store a module: its record and whether it is new. Signatures are added to those that are there.

        Raises EngineError MODULE_TOO_LARGE, BAD_MODULE (the hash differs, or the code cannot run), INVALID_FIELD.
        """
        abi = await self.verify(runtime, data, expected)
        record = ModuleRecord(digest_of(data), runtime, len(data), self._clock.now_us(), abi, name=name)
        known = await self._storage.read(lambda tr: tr.get(keys.module(ns, record.digest)))
        if known is not None:
            signed = await self.sign(ns, record.digest, signatures) if signatures else unpack(ModuleRecord, known)
            return signed, False
        merged((), signatures)  # refused before anything is written
        chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        for first in range(0, len(chunks), CHUNKS_AT_ONCE):
            await self._write(ns, record.digest, first, chunks[first : first + CHUNKS_AT_ONCE])

        async def finish(tr: Transaction) -> tuple[ModuleRecord, bool]:
            meanwhile = await tr.get(keys.module(ns, record.digest))
            there = record if meanwhile is None else unpack(ModuleRecord, meanwhile)
            signed = msgspec.structs.replace(there, signatures=merged(there.signatures, signatures))
            tr.set(keys.module(ns, record.digest), pack(signed))
            return signed, there.created_us == record.created_us  # also if its own commit had landed before

        return await self._storage.transact(finish)

    async def sign(self, ns: str, digest: str, signatures: Signatures) -> ModuleRecord:
        """Put signatures beside a stored module. Raises EngineError MODULE_NOT_FOUND, INVALID_FIELD."""
        digest = bare(digest)

        async def body(tr: Transaction) -> ModuleRecord:
            record = await self._record(tr, ns, digest)
            signed = msgspec.structs.replace(record, signatures=merged(record.signatures, signatures))
            if signed != record:
                tr.set(keys.module(ns, digest), pack(signed))
            return signed

        return await self._storage.transact(body)

    async def record(self, ns: str, digest: str) -> ModuleRecord:
        """What is known of a module. Raises EngineError MODULE_NOT_FOUND."""
        return await self._storage.read(lambda tr: self._record(tr, ns, bare(digest)))

    @staticmethod
    async def _record(tr: Transaction, ns: str, digest: str) -> ModuleRecord:
        value = await tr.get(keys.module(ns, digest))
        if value is None:
            raise _not_found(ns, digest)
        return unpack(ModuleRecord, value)

    async def verify(self, runtime: str, data: bytes, expected: str = "") -> str:
        """The calling convention found in it. Raises EngineError MODULE_TOO_LARGE, BAD_MODULE."""
        if len(data) > MODULE_BYTES_MAX:
            raise _too_large("the module", len(data), MODULE_BYTES_MAX)
        if expected and bare(expected) != digest_of(data):
            raise EngineError(
                "DIGEST_MISMATCH", f"the bytes hash to {digest_of(data)}, not to {expected}", digest=expected
            )
        # Aside, since code of the largest size takes a second to read.
        facts = await asyncio.to_thread(self.read, runtime, data) if self.read else CodeFacts()
        if facts.limit:
            raise _too_large(f"the {runtime} code", len(data), facts.limit)
        if facts.problems:
            raise EngineError("BAD_MODULE", "; ".join(facts.problems), runtime=runtime)
        return facts.abi

    async def _write(self, ns: str, digest: str, first: int, chunks: list[bytes]) -> None:
        async def body(tr: Transaction) -> None:
            for number, chunk in enumerate(chunks, start=first):
                tr.set(keys.module(ns, digest) + keys.integer(number), chunk)

        await self._storage.transact(body)

    async def get(self, ns: str, digest: str) -> tuple[ModuleRecord, bytes]:
        """A module's record and bytes. Raises EngineError MODULE_NOT_FOUND."""
        digest = bare(digest)

        async def body(tr: Transaction) -> tuple[ModuleRecord, bytes] | None:
            value = await tr.get(keys.module(ns, digest))
            if value is None:
                return None
            begin = keys.module(ns, digest)
            rows = await tr.get_range(begin + b"\x14", begin + b"\x1d")
            return unpack(ModuleRecord, value), b"".join(chunk for _, chunk in rows)

        found = await self._storage.read(body)
        if found is None:
            raise _not_found(ns, digest)
        return found

    async def page(self, ns: str, after: str, size: int) -> list[ModuleRecord]:
        """Up to `size` modules in the order of their digests, after `after`."""
        found: list[ModuleRecord] = []
        begin, end = keys.module(ns, after) + b"\xff" if after else keys.module(ns), keys.end(keys.module(ns))
        while len(found) < size:
            at = begin
            rows = await self._storage.read(lambda tr, at=at: tr.get_range(at, end, limit=1))  # type: ignore[misc]
            if not rows:
                break
            record = unpack(ModuleRecord, rows[0][1])
            found.append(record)
            begin = keys.module(ns, record.digest) + b"\xff"
        return found
