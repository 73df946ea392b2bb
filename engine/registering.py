"""Registering definitions: modules first, then the revision and the pointers, so that what can be found is whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from windlass.definition.code import is_digest
from windlass.definition.compile import Compiled
from windlass.definition.source import Authored
from windlass.engine import keys
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.modules import bare, digest_of
from windlass.engine.reading import open_runs
from windlass.engine.records import DefinitionRecord, RevisionRecord, clear_large, get_large, pack, set_large, unpack
from windlass.storage.port import Transaction

#: Changes of the default revision remembered per workflow.
DEFAULTS_KEPT = 100


class Registered(msgspec.Struct, frozen=True):
    """What a registration did."""

    record: DefinitionRecord
    revision: str
    created: bool


async def store_modules(engine: Engine, ns: str, compiled: Compiled) -> None:
    """Store the code that came with a document, and make sure that what it names elsewhere is there.

    Raises EngineError MODULE_NOT_FOUND, MODULE_TOO_LARGE, BAD_MODULE.
    """
    for module in compiled.modules:
        await engine.modules.put(ns, module.runtime, module.content, module.digest)
    for digest in (bare(digest) for digest, _ in compiled.digests):
        if not await engine.storage.read(lambda tr, d=digest: tr.get(keys.module(ns, d))):  # type: ignore[misc]
            raise EngineError(
                "MODULE_NOT_FOUND",
                f"the definition names module {digest}, which is not stored in namespace {ns!r}; upload it first",
                digest=digest,
            )


async def store_revision(
    engine: Engine,
    ns: str,
    compiled: Compiled,
    *,
    make_default: bool | None = None,
    etag: str = "",
    source: bytes = b"",
) -> Registered:
    """Store a compiled definition. `make_default` None: yes, if it is new or the name's first.

    Raises EngineError as `store_modules` does, ETAG_MISMATCH, NAMESPACE_NOT_FOUND.
    """
    await store_modules(engine, ns, compiled)
    return await engine.storage.transact(
        lambda tr: write_revision(engine, tr, ns, compiled, make_default, etag, source)
    )


async def write_revision(
    engine: Engine, tr: Transaction, ns: str, compiled: Compiled, make_default: bool | None, etag: str, source: bytes
) -> Registered:
    """The second half of `store_revision`, in a transaction; the modules are there."""
    name, revision, now = compiled.definition.name, compiled.revision, engine.clock.now_us()
    digests = tuple(bare(digest) for digest, _ in compiled.digests)
    await engine.definitions.namespace(tr, ns)
    value = await tr.get(keys.definition(ns, name))
    known = unpack(DefinitionRecord, value) if value is not None else None
    check_etag(known, name, etag)
    created = await get_large(tr, keys.revision(ns, name, revision)) is None
    number = (known.revisions if known else 0) + 1
    if created:
        record = RevisionRecord(name, revision, compiled.document, digests, now, number, source)
        set_large(tr, keys.revision(ns, name, revision), pack(record))
    fresh = known or DefinitionRecord(name, revision, "", now, now, ((0, revision),), 0)
    if created:
        fresh = msgspec.structs.replace(fresh, revisions=number, updated_us=now)
    if make_default or (make_default is None and created):
        fresh = with_default(fresh, revision, now)
    if fresh != known:
        fresh = touched(fresh, now)
    tr.set(keys.definition(ns, name), pack(fresh))
    return Registered(fresh, revision, created)


def check_etag(known: DefinitionRecord | None, name: str, etag: str) -> None:
    """Raises EngineError ETAG_MISMATCH if the caller looked at another version."""
    if etag and (known.etag if known else "0") != etag:
        raise EngineError("ETAG_MISMATCH", f"workflow {name!r} was changed meanwhile; read it again", workflow=name)


def with_default(record: DefinitionRecord, revision: str, now: int) -> DefinitionRecord:
    """The record with another default revision."""
    if record.default_revision == revision and record.defaults:
        return record
    defaults = (*record.defaults, (now, revision))[-DEFAULTS_KEPT:]
    return msgspec.structs.replace(record, default_revision=revision, defaults=defaults, updated_us=now)


async def set_default(
    engine: Engine, tr: Transaction, ns: str, name: str, revision: str, etag: str
) -> DefinitionRecord:
    """Point the default at a stored revision. Raises EngineError WORKFLOW_NOT_REGISTERED, REVISION_NOT_FOUND,
    ETAG_MISMATCH.
    """
    record = await engine.definitions.record(tr, ns, name)
    check_etag(record, name, etag)
    full = await engine.definitions.revision(tr, ns, name, revision)
    record = touched(with_default(record, full, engine.clock.now_us()), engine.clock.now_us())
    tr.set(keys.definition(ns, name), pack(record))
    return record


def touched(record: DefinitionRecord, now: int) -> DefinitionRecord:
    """The record with a new etag: one that it never had, also before its name was deleted."""
    etag = digest_of(pack((record.default_revision, record.revisions, now)))[:16]
    return msgspec.structs.replace(record, etag=etag, updated_us=now)


async def delete(engine: Engine, tr: Transaction, ns: str, name: str, revision: str, etag: str) -> int:
    """Delete one revision, or the whole workflow if `revision` is "". The number of revisions deleted.

    The record is written or removed too: a start under way has read it, and must look again. Raises EngineError
    REVISION_IN_USE while runs are open, WORKFLOW_NOT_REGISTERED, REVISION_NOT_FOUND, ETAG_MISMATCH.
    """
    record = await engine.definitions.record(tr, ns, name)
    check_etag(record, name, etag)
    stored = await _stored(tr, ns, name)
    chosen = {await engine.definitions.revision(tr, ns, name, revision)} if revision else stored
    busy = {r: n for r, n in (await open_runs(tr, ns, name)).items() if n and r in chosen}
    if busy:
        raise EngineError(
            "REVISION_IN_USE",
            f"{sum(busy.values())} open runs use workflow {name!r}: wait for them, or cancel them first",
            workflow=name,
            open_runs=str(sum(busy.values())),
        )
    if revision and record.default_revision in chosen and stored - chosen:
        raise EngineError("REVISION_IN_USE", "it is the default revision: set another default first", workflow=name)
    for each in chosen:
        clear_large(tr, keys.revision(ns, name, each))
    if stored - chosen:
        tr.set(keys.definition(ns, name), pack(touched(record, engine.clock.now_us())))
    else:
        tr.clear(keys.definition(ns, name))
    return len(chosen)


async def _stored(tr: Transaction, ns: str, name: str) -> set[str]:
    head = keys.revision(ns, name)
    return {str(keys.unpack(key)[3]) for key, _ in await tr.get_range(head, keys.end(head))}


async def stored_modules(engine: Engine, ns: str, authored: Authored) -> frozenset[str]:
    """Of the modules that a document and its files name by digest, those that are stored, under the same names."""
    named = {content for content in authored.files.values() if isinstance(content, str)} | set(_digests(authored.value))

    async def body(tr: Transaction) -> frozenset[str]:
        return frozenset([digest for digest in named if await tr.get(keys.module(ns, bare(digest))) is not None])

    return await engine.storage.read(body)


def _digests(value: Any) -> Iterator[str]:
    """Every text of a document that can be a module's name."""
    if isinstance(value, str):
        if is_digest(value):
            yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _digests(each)
