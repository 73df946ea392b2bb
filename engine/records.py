"""The shell's stored records, and how values of any size are kept under one key.

A value is stored whole behind a zero byte, or, above CHUNK_BYTES, as a one byte, the number of chunks (2 bytes), and
the chunks under the key followed by their number. Records that are rarely large (`set_record`) do without the zero
byte: msgpack of a record begins with neither. Callers see one value; the absolute limit is VALUE_MAX.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

import msgspec

from windlass.engine import keys
from windlass.engine.core.definition import RetryPolicy
from windlass.engine.errors import EngineError
from windlass.storage.port import Row, Transaction

T = TypeVar("T")

CHUNK_BYTES: Final = 90_000
#: Largest value kept under one key: what fits one transaction with room for the rest of it.
VALUE_MAX: Final = 4_000_000


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """Root of stored records: new fields go to the end and have a default, so that old records still open."""


class LeaseRecord(Stored, frozen=True):
    """One attempt in a worker's hands."""

    epoch: int
    deadline_us: int  #: start-to-close; 0 = none
    heartbeat_us: int = 0  #: longest gap between heartbeats; 0 = not asked
    needs: str = ""  #: units of the worker that it takes, as canonical text (core/units.py)
    stop: str = ""  #: why its worker is to stop the task; until that answers, it has the lease all the same
    poll: int = 0  #: number of the worker's poll it was leased for; 0 = not known, or known to have arrived


class QueuedRecord(Stored, frozen=True):
    """A task in its queue."""

    attempt: int
    start_to_close_us: int
    heartbeat_us: int
    avoid: tuple[str, ...] = ()  #: sessions that cannot run it, not to be asked before `avoid_us`
    avoid_us: int = 0


class SessionRecord(Stored, frozen=True):
    """A worker's registration. Its leases hold as long as `expires_us` is renewed."""

    session: str
    worker: str
    namespace: str
    queues: tuple[str, ...]
    kinds: tuple[str, ...]  #: javascript, wasm, python:<handler>
    slots: int
    expires_us: int
    engine: str = ""
    labels: dict[str, str] = {}
    versions: dict[str, str] = {}
    active_guards: tuple[str, ...] = ()
    missing_guards: tuple[str, ...] = ()
    draining: bool = False
    registered_us: int = 0
    host: str = ""
    sdk: str = ""
    instance: str = ""
    described: tuple[bytes, ...] = ()  #: always empty: what it says of its handlers has rows of its own (step_types.py)
    offer: dict[str, int] = {}  #: units that it has for tasks beside slots (core/units.py)


#: What an escalation's key says of it.
ESCALATION_STATES: Final = ("pending", "approved", "rejected", "timeout", "cancelled")


class EscalationRecord(Stored, frozen=True):
    namespace: str
    escalation_id: str
    run_id: str
    workflow: str
    status: str
    details: bytes  #: JSON: to, message, fields, channel, due
    created_us: int
    closed_us: int = 0
    values: bytes = b""
    by: str = ""


class IncidentRecord(Stored, frozen=True):
    namespace: str
    run_id: str
    incident_id: str
    workflow: str
    code: str
    message: str
    created_us: int


class OutboxRecord(Stored, frozen=True):
    run_id: str
    sequence: int  #: rises within the run and is unique there: consumers deduplicate by (run_id, sequence)
    name: str
    payload: bytes
    created_us: int


class DefinitionRecord(Stored, frozen=True):
    name: str
    default_revision: str
    etag: str
    created_us: int
    updated_us: int
    #: Which revision was default since when, oldest first: children take the one of their parent's start.
    defaults: tuple[tuple[int, str], ...] = ()
    revisions: int = 1  #: how many were registered so far

    def default_at(self, time_us: int) -> str:
        """The revision that was the default at `time_us`; the oldest known one before that."""
        past = [revision for since_us, revision in self.defaults if since_us <= time_us]
        return past[-1] if past else (self.defaults[0][1] if self.defaults else self.default_revision)


class RevisionRecord(Stored, frozen=True):
    name: str
    revision: str
    document: bytes  #: canonical JSON
    modules: tuple[str, ...]
    created_us: int
    number: int = 1  #: 1 for the first revision of the name, rising
    source: bytes = b""  #: as the author wrote it, comments and all; of the first registration


class ModuleSignature(msgspec.Struct, frozen=True, array_like=True):
    """Whoever has the private half of `key` says that the module may be run. Not checked here; see `modules`."""

    key: bytes
    signature: bytes


class ModuleRecord(Stored, frozen=True):
    digest: str
    runtime: str
    size: int
    created_us: int
    abi: str = ""
    signatures: tuple[ModuleSignature, ...] = ()  #: one for each key
    name: str = ""  #: for people; the first uploader's


class NamespaceRecord(Stored, frozen=True):
    name: str
    created_us: int
    description: str = ""
    retention_us: int = 0  #: closed runs are deleted after this; 0 = kept
    virtual_time: bool = False
    virtual_now_us: int = 0
    display_name: str = ""
    updated_us: int = 0
    open_runs: int = 0  #: starts are refused while as many runs are open; 0 = no limit, as with the next two
    queued_tasks: int = 0  #: starts are refused while one queue holds as many tasks
    starts_per_second: float = 0.0
    retry: RetryPolicy | None = None  #: where neither step nor definition say one

    def asks_much(self) -> bool:
        """True if a start must look at it."""
        return bool(self.open_runs or self.queued_tasks or self.starts_per_second or self.retry)


class EngineRecord(Stored, frozen=True):
    engine: str
    expires_us: int
    started_us: int


class RequestRecord(Stored, frozen=True):
    """A mutating call's answer, so that the same call repeated gets the same answer."""

    method: str
    digest: bytes  #: hash of the arguments
    reply: bytes
    expires_us: int
    run_id: str = ""  #: not forgotten while this run is open


class MessageRecord(Stored, frozen=True):
    payload: bytes
    expires_us: int
    created_us: int
    delivered: bool = False  #: kept only to refuse the same message id again


_encode = msgspec.msgpack.Encoder().encode
_decoders: dict[type, msgspec.msgpack.Decoder[object]] = {}


def pack(record: object) -> bytes:
    """A record as stored bytes (msgpack)."""
    return _encode(record)


def unpack(kind: type[T], value: bytes) -> T:
    """Read a record back. Raises msgspec.DecodeError for foreign bytes."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    return decoder.decode(value)  # type: ignore[return-value]


async def get_large(tr: Transaction, key: bytes, *, snapshot: bool = False) -> bytes | None:
    """The value kept under `key` by `set_large` or `set_record`, or None."""
    head = await tr.get(key, snapshot=snapshot)
    if head is None or head[0] == 0:
        return head and head[1:]
    if head[0] != 1:
        return head
    rows = await tr.get_range(key + b"\x14", key + b"\x1d", snapshot=snapshot)
    return b"".join(value for _, value in rows)


def set_large(tr: Transaction, key: bytes, value: bytes, before: int = 0) -> None:
    """Keep a value of any size up to VALUE_MAX. `before` is the length of the value it replaces, 0 if unknown or none.

    Raises EngineError PAYLOAD_TOO_LARGE above VALUE_MAX.
    """
    if before > CHUNK_BYTES:
        tr.clear_range(key + b"\x14", key + b"\x1d")
    if len(value) <= CHUNK_BYTES:
        tr.set(key, b"\0" + value)
        return
    for suffix, chunk in chunks_of(value):
        tr.set(key + suffix, chunk)


def set_record(tr: Transaction, key: bytes, value: bytes) -> None:
    """Keep a packed record that is seldom above CHUNK_BYTES. Raises EngineError PAYLOAD_TOO_LARGE above VALUE_MAX."""
    if len(value) <= CHUNK_BYTES:
        tr.set(key, value)
    else:
        set_large(tr, key, value)


async def whole_rows(
    tr: Transaction, begin: bytes, end: bytes, limit: int, parts: int, *, snapshot: bool = False
) -> list[Row]:
    """The next `limit` rows of a range, with the whole values of those kept by `set_large` or `set_record`.

    `parts`: elements of a key; rows whose keys have more are chunks, and do not count.
    """
    found: list[Row] = []
    while len(found) < limit:
        rows = await tr.get_range(begin, end, limit=limit, snapshot=snapshot)
        for key, value in rows:
            if len(keys.unpack(key)) != parts or len(found) == limit:
                continue
            if value[:1] == b"\1":
                value = await get_large(tr, key, snapshot=snapshot) or b""
            elif value[:1] == b"\0":
                value = value[1:]
            found.append((key, value))
        if len(rows) < limit:
            break
        begin = rows[-1][0] + b"\x00"
    return found


def chunks_of(value: bytes) -> Iterator[Row]:
    """What a value is kept as: a suffix of its key and the bytes to be stored there, the head first.

    Raises EngineError PAYLOAD_TOO_LARGE above VALUE_MAX.
    """
    if len(value) <= CHUNK_BYTES:
        yield b"", b"\0" + value
        return
    if len(value) > VALUE_MAX:
        raise EngineError(
            "PAYLOAD_TOO_LARGE",
            f"a record of {len(value):,} bytes is over the limit of {VALUE_MAX:,}",
            limit=str(VALUE_MAX),
            size=str(len(value)),
        )
    starts = range(0, len(value), CHUNK_BYTES)
    yield b"", b"\1" + len(starts).to_bytes(2, "big")
    for number, at in enumerate(starts):
        yield keys.integer(number), value[at : at + CHUNK_BYTES]


def clear_large(tr: Transaction, key: bytes, before: int = CHUNK_BYTES + 1) -> None:
    """Remove a value kept by `set_large`, with its chunks. `before` is its length, if that is known."""
    tr.clear(key)
    if before > CHUNK_BYTES:
        tr.clear_range(key + b"\x14", key + b"\x1d")


def joined(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows of a range that holds values kept by `set_large`: each key once, with its whole value."""
    key, parts = b"", [b""]
    for each, value in rows:
        if key and each.startswith(key):
            parts.append(value)
            continue
        if key:
            yield key, b"".join(parts)
        key, parts = each, [value[1:] if value[:1] == b"\0" else b""]
    if key:
        yield key, b"".join(parts)
