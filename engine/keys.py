"""Every key of the store, declared in one place. Byte format: `fdb.tuple`'s, packed by hand because this is the hot
path.

A key is a tuple whose first element is its table's number. Layouts (ns = namespace; times in µs since the epoch):

| table        | key after the number                                | value                                          |
|--------------|-----------------------------------------------------|------------------------------------------------|
| RUN          | ns, run_id [, chunk]                                | RunState, in chunks above VALUE_BYTES           |
| ITEM         | ns, run_id, path                                    | Node of a map's item                            |
| EVENTS       | ns, run_id, number of the first [, chunk]           | (time, [events]) of one transition              |
| INBOX        | ns, run_id, signal name, event number               | payload of a buffered signal                    |
| LISTING      | ns, workflow, status, run_id                        | empty: the index behind lists and counts        |
| OPEN         | ns, workflow, revision                              | counter of open runs (atomic add)               |
| WORKFLOW_ID  | ns, workflow_id                                     | run_id of its newest run                        |
| REQUEST      | ns, request_id [, chunk]                            | what was asked and answered (deduplication)     |
| EXPIRY       | time, kind, parts …                                 | empty: what to sweep when                       |
| QUEUE        | ns, queue, kind [+needs], shard, 255 - priority, queued time, run_id, visit, path | attempt           |
| LEASE        | session, ns, run_id, visit, path                    | LeaseRecord                                     |
| SESSION      | session                                             | SessionRecord of a worker                       |
| TIMER        | shard, due, ns, run_id, timer id [, chunk]          | empty, or a command that was put off            |
| VIRTUAL      | ns, due, run_id, timer id                           | as TIMER, for namespaces with virtual time      |
| ESCALATION   | ns, status, escalation_id [, chunk]                 | EscalationRecord                                |
| INCIDENT     | ns, run_id, incident_id                             | IncidentRecord                                  |
| OUTBOX       | ns, versionstamp                                    | OutboxRecord                                    |
| DEFINITION   | ns, name                                            | DefinitionRecord: default revision, etag        |
| REVISION     | ns, name, revision [, chunk]                        | RevisionRecord with the canonical document      |
| MODULE       | ns, digest [, chunk]                                | ModuleRecord, then the bytes in chunks          |
| SUBSCRIPTION | ns, message name, correlation key, run_id, wait id  | empty: a wait that a message may reach          |
| MESSAGE      | ns, message name, correlation key, id [, chunk]     | MessageRecord kept until its time to live ends  |
| NAMESPACE    | ns                                                  | NamespaceRecord                                 |
| ENGINE       | engine id                                           | EngineRecord, renewed while the engine lives    |
| BUMP         | topic …                                             | counter watched by other engines                |
| EMITTED      | ns, run_id, versionstamp                            | empty: the run's rows in the outbox             |
| STEP_TYPE    | session, handler                                    | StepType message: what the worker says of it    |

Run ids begin with their time, so runs lie in the order of their start and neighbours share pages. QUEUE and TIMER carry
a shard (a hash of the run) because on a cluster a single range would be hot; a store of one engine has one shard.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_NAMES: Final = [
    "RUN",
    "ITEM",
    "EVENTS",
    "INBOX",
    "LISTING",
    "OPEN",
    "WORKFLOW_ID",
    "REQUEST",
    "EXPIRY",
    "QUEUE",
    "LEASE",
    "SESSION",
    "TIMER",
    "VIRTUAL",
    "ESCALATION",
    "INCIDENT",
    "OUTBOX",
    "DEFINITION",
    "REVISION",
    "MODULE",
    "SUBSCRIPTION",
    "MESSAGE",
    "NAMESPACE",
    "ENGINE",
    "BUMP",
    "EMITTED",
    "STEP_TYPE",
]
#: Table number to name, for `windlass storage dump`.
TABLES: Final = dict(enumerate(_NAMES, start=1))


_SMALL: Final = [b"\x14", *(bytes((0x15, number)) for number in range(1, 256))]


def integer(number: int) -> bytes:
    """A tuple element: an integer from 0 to 2**64 - 2 (the format has another code for the last one)."""
    if number < 256:
        return _SMALL[number]
    size = (number.bit_length() + 7) >> 3
    return bytes((0x14 + size,)) + number.to_bytes(size, "big")


@lru_cache(maxsize=8192)
def text(value: str) -> bytes:
    """A tuple element: a string. Cached, because the same few names and runs are packed again and again."""
    return b"\x02" + value.encode().replace(b"\x00", b"\x00\xff") + b"\x00"


def end(prefix: bytes) -> bytes:
    """The end of the range of all keys that have `prefix` and at least one element more."""
    return prefix + b"\xff"


def _table(name: str) -> bytes:
    return integer(_NAMES.index(name) + 1)


_RUN, _ITEM, _EVENTS, _INBOX = _table("RUN"), _table("ITEM"), _table("EVENTS"), _table("INBOX")
_LISTING, _OPEN, _QUEUE, _LEASE = _table("LISTING"), _table("OPEN"), _table("QUEUE"), _table("LEASE")
_TIMER, _VIRTUAL, _SESSION = _table("TIMER"), _table("VIRTUAL"), _table("SESSION")
_STEP_TYPE = _table("STEP_TYPE")


def runs(ns: str) -> bytes:
    return _RUN + text(ns)


def of_run(ns: str, run_id: str) -> bytes:
    """The elements that all keys of a run have after their table: packed once for several keys (`*_of`)."""
    return text(ns) + text(run_id)


def run_of(packed: bytes) -> bytes:
    return _RUN + packed


def event_of(packed: bytes, number: int) -> bytes:
    return _EVENTS + packed + integer(number)


def item_of(packed: bytes, path: str) -> bytes:
    return _ITEM + packed + text(path)


def lease_of(session: str, packed: bytes, visit: int, path: str) -> bytes:
    return b"".join((_LEASE, text(session), packed, integer(visit), text(path)))


def run(ns: str, run_id: str) -> bytes:
    return _RUN + text(ns) + text(run_id)


def items(ns: str, run_id: str) -> bytes:
    return _ITEM + text(ns) + text(run_id)


def item(ns: str, run_id: str, path: str) -> bytes:
    return _ITEM + text(ns) + text(run_id) + text(path)


def items_under(ns: str, run_id: str, prefix: str) -> bytes:
    """Begin of the range of items whose path starts with `prefix` (an unfinished string element)."""
    return _ITEM + text(ns) + text(run_id) + b"\x02" + prefix.encode()


def events(ns: str, run_id: str) -> bytes:
    return _EVENTS + text(ns) + text(run_id)


def event(ns: str, run_id: str, number: int) -> bytes:
    return _EVENTS + text(ns) + text(run_id) + integer(number)


def inbox(ns: str, run_id: str, name: str | None = None) -> bytes:
    head = _INBOX + text(ns) + text(run_id)
    return head if name is None else head + text(name)


def listing(ns: str, workflow: str | None = None, status: str | None = None, run_id: str | None = None) -> bytes:
    return _parts(_LISTING, ns, workflow, status, run_id)


def listed(ns: str, workflow: str, status: str, run_id: str) -> bytes:
    """`listing` with all its elements."""
    return _listing_head(ns, workflow, status) + text(run_id)


@lru_cache(maxsize=4096)
def _listing_head(ns: str, workflow: str, status: str) -> bytes:
    return _parts(_LISTING, ns, workflow, status)


@lru_cache(maxsize=4096)
def open_runs(ns: str, workflow: str | None, revision: str | None = None) -> bytes:
    return _parts(_OPEN, ns, workflow, revision)


def workflow_id(ns: str, name: str) -> bytes:
    return _table("WORKFLOW_ID") + text(ns) + text(name)


def request(ns: str, request_id: str) -> bytes:
    return _table("REQUEST") + text(ns) + text(request_id)


def expiries() -> bytes:
    return _table("EXPIRY")


def expiry(time_us: int, kind: str, *parts: str) -> bytes:
    return _table("EXPIRY") + integer(time_us) + text(kind) + b"".join(map(text, parts))


@lru_cache(maxsize=4096)
def queue(ns: str, name: str, kind: str) -> bytes:
    return _QUEUE + text(ns) + text(name) + text(kind)


def queue_entry(head: bytes, shard: int, priority: int, queued_us: int, run_id: str, visit: int, path: str) -> bytes:
    return b"".join(
        (head, integer(shard), integer(255 - priority), integer(queued_us), text(run_id), integer(visit), text(path))
    )


def queue_place(priority: int, queued_us: int) -> bytes:
    """What of a `queue_entry` behind its shard says when its turn comes."""
    return integer(255 - priority) + integer(queued_us)


def queued_task(head: bytes, key: bytes) -> tuple[str, int, str]:
    """The run, visit and path that an entry under `head` names."""
    at = len(head)
    for _ in range(3):  # shard, priority, time
        at += 1 + key[at] - 0x14
    run_id, at = _read_text(key, at + 1)
    size = key[at] - 0x14
    visit = int.from_bytes(key[at + 1 : at + 1 + size], "big")
    return run_id, visit, _read_text(key, at + 2 + size)[0]


def queue_named(ns: str, name: str) -> bytes:
    return _QUEUE + text(ns) + text(name)


def queues(ns: str) -> bytes:
    return _QUEUE + text(ns)


def all_leases() -> bytes:
    return _LEASE


def leases(session: str) -> bytes:
    return _LEASE + text(session)


def lease(session: str, ns: str, run_id: str, visit: int, path: str) -> bytes:
    return _LEASE + text(session) + text(ns) + text(run_id) + integer(visit) + text(path)


def sessions() -> bytes:
    return _SESSION


def session(session_id: str) -> bytes:
    return _SESSION + text(session_id)


def step_types(session_id: str) -> bytes:
    return _STEP_TYPE + text(session_id)


def step_type(session_id: str, handler: str) -> bytes:
    return _STEP_TYPE + text(session_id) + text(handler)


def timers(shard: int) -> bytes:
    return _TIMER + integer(shard)


def timer(shard: int, due_us: int, ns: str, run_id: str, timer_id: str) -> bytes:
    return _TIMER + integer(shard) + integer(due_us) + text(ns) + text(run_id) + text(timer_id)


def virtual_timers(ns: str) -> bytes:
    return _VIRTUAL + text(ns)


def virtual_timer(ns: str, due_us: int, run_id: str, timer_id: str) -> bytes:
    return _VIRTUAL + text(ns) + integer(due_us) + text(run_id) + text(timer_id)


def escalations(ns: str, status: str | None = None, escalation_id: str | None = None) -> bytes:
    return _parts(_table("ESCALATION"), ns, status, escalation_id)


def incidents(ns: str, run_id: str | None = None, incident_id: str | None = None) -> bytes:
    return _parts(_table("INCIDENT"), ns, run_id, incident_id)


def outbox(ns: str) -> bytes:
    return _table("OUTBOX") + text(ns)


def emitted(ns: str, run_id: str) -> bytes:
    return _table("EMITTED") + text(ns) + text(run_id)


@lru_cache(maxsize=4096)
def definition(ns: str, name: str | None = None) -> bytes:
    return _parts(_table("DEFINITION"), ns, name)


def revision(ns: str, name: str, hash_: str | None = None) -> bytes:
    return _parts(_table("REVISION"), ns, name, hash_)


def module(ns: str, digest: str | None = None) -> bytes:
    return _parts(_table("MODULE"), ns, digest)


def subscriptions(ns: str, name: str, correlation_key: str) -> bytes:
    return _parts(_table("SUBSCRIPTION"), ns, name, correlation_key)


def subscription(ns: str, name: str, correlation_key: str, run_id: str, wait_id: str) -> bytes:
    return _parts(_table("SUBSCRIPTION"), ns, name, correlation_key, run_id, wait_id)


def messages(ns: str, name: str, correlation_key: str, message_id: str | None = None) -> bytes:
    return _parts(_table("MESSAGE"), ns, name, correlation_key, message_id)


def namespace(ns: str | None = None) -> bytes:
    return _parts(_table("NAMESPACE"), ns)


def engine(engine_id: str | None = None) -> bytes:
    return _parts(_table("ENGINE"), engine_id)


def bump(*topic: str) -> bytes:
    return _parts(_table("BUMP"), *topic)


def _parts(head: bytes, *parts: str | None) -> bytes:
    return head + b"".join(text(part) for part in parts if part is not None)


def unpack(key: bytes) -> tuple[object, ...]:
    """The elements of a key, read back: strings, integers, and 10 + 2 bytes of a versionstamp as bytes.

    Raises ValueError for bytes that no function of this file makes.
    """
    out: list[object] = []
    at = 0
    while at < len(key):
        code = key[at]
        if code == 0x02:
            value, at = _read_text(key, at + 1)
            out.append(value)
        elif 0x14 <= code <= 0x1C:
            size = code - 0x14
            out.append(int.from_bytes(key[at + 1 : at + 1 + size], "big"))
            at += 1 + size
        elif code == 0x33:
            out.append(key[at + 1 : at + 13])
            at += 13
        else:
            raise ValueError(f"no tuple element begins with byte {code:#x}, at {at} of {key!r}")
    return tuple(out)


def _read_text(key: bytes, at: int) -> tuple[str, int]:
    stop = key.index(b"\x00", at)
    if key[stop + 1 : stop + 2] != b"\xff":
        return key[at:stop].decode(), stop + 1
    parts = bytearray()
    while True:
        stop = key.index(b"\x00", at)
        parts += key[at:stop]
        if key[stop + 1 : stop + 2] != b"\xff":
            return parts.decode(), stop + 1
        parts.append(0)
        at = stop + 2


def describe(key: bytes) -> str:
    """A key as a person reads it: table name and elements."""
    elements = unpack(key)
    table = TABLES.get(elements[0], "?") if elements and isinstance(elements[0], int) else "?"
    return f"{table}({', '.join(e.hex() if isinstance(e, bytes) else repr(e) for e in elements[1:])})"
