"""Runs, events and open work as messages for people and programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

import msgspec
from google.protobuf.message import Message

from windlass.engine.core.branches import branch_at, task_of
from windlass.engine.core.definition import Definition
from windlass.engine.core.events import Event
from windlass.engine.core.state import CLOSED, Node, RunState
from windlass.engine.core.waits import received
from windlass.engine.reading import Numbered
from windlass.engine.service import convert
from windlass.v1 import common_pb2
from windlass.v1 import workflow_service_pb2 as pb

M = TypeVar("M", bound=Message)
#: Of one page, below what every gRPC client takes: 4 MiB.
PAGE_BYTES: Final = 3 << 20


def fitting(messages: Iterable[M]) -> list[M]:
    """As many of the messages as one page holds, and at least one."""
    found: list[M] = []
    size = 0
    for message in messages:
        size += message.ByteSize()
        if found and size > PAGE_BYTES:
            break
        found.append(message)
    return found


def run_out(
    state: RunState,
    items: Mapping[str, Node] | None = None,
    definition: Definition | None = None,
    *,
    full: bool = True,
) -> pb.Run:
    """A run; without context, config, output and open work unless `full`. The definition tells queues and runtimes."""
    message = pb.Run(
        ref=convert.run_ref(state),
        state=convert.STATES[state.status],
        current_state=state.state,
        visit=state.visit,
        create_time=convert.timestamp(state.created_us),
        start_time=convert.timestamp(state.started_us),
        update_time=convert.timestamp(state.updated_us),
        close_time=convert.timestamp(state.closed_us),
        last_event_number=state.seq,
        failure=convert.failure_of(state),
        queue=state.queue,
        priority=state.priority,
        metadata=state.metadata,
        parent_run_id=state.parent.run_id if state.parent else "",
        root_run_id=state.root_run_id or state.run_id,
        forked_from_run_id=state.forked_from,
        unread_signals=state.inbox,
        virtual_time=state.virtual_time,
    )
    if full:
        if state.status == "completed":
            message.output.data = state.output
        message.config = state.config
        for key, value in state.context.items():
            message.context[key] = value
        message.open_work.extend(open_work(state, items or {}, definition))
    return message


def open_work(
    state: RunState, items: Mapping[str, Node], definition: Definition | None = None
) -> Iterator[pb.OpenWork]:
    """The open nodes of a run, its map items included."""
    if state.node is None or state.status in CLOSED:
        return
    for top, root in ((state.node_path, state.node), *items.items()):
        for path, node in _open(top, root):
            message = _work(state, path, node)
            if definition is not None and node.kind in ("task", "poll"):
                task = task_of(branch_at(definition, state, path))
                message.queue, message.runtime = task.queue or state.queue, task.runtime
            yield message


def _open(path: str, node: Node) -> Iterator[tuple[str, Node]]:
    if node.phase != "done":
        yield path, node
    for name, child in node.children.items():
        yield from _open(f"{path}/{name}" if path else name, child)


def _work(state: RunState, path: str, node: Node) -> pb.OpenWork:
    waits = node.kind in ("wait", "ask:wait") and node.phase == "waiting"
    is_map = node.kind == "map" and len(node.counts) >= 5
    return pb.OpenWork(
        path=path,
        visit=state.visit,
        kind=node.kind,
        phase=node.phase,
        attempt=node.attempt,
        worker_id=node.worker,
        open_time=convert.timestamp(node.opened_us),
        due_time=convert.timestamp(min((due for _, due in node.timers), default=node.lease_us)),
        wait_id=f"{state.visit}:{path}" if waits else "",
        signal_names=received(node).names if waits else (),
        child_run_id=node.child,
        escalation_id=f"{state.run_id}:{state.visit}:{path}" if node.kind in ("escalate", "ask:escalate") else "",
        failure=convert.failure_out(node.failure),
        total=node.counts[0] if is_map else 0,
        finished=node.counts[3] + node.counts[4] if is_map else 0,
    )


def event_out(numbered: Numbered, *, full: bool = True) -> common_pb2.HistoryEvent:
    """An event of a run's history; without the user's values unless `full`."""
    event = numbered.event
    return common_pb2.HistoryEvent(
        number=numbered.number,
        time=convert.timestamp(event.at_us),
        type=type(event).__name__,
        state=numbered.state or _text(event, "state"),
        visit=numbered.visit,
        path=_text(event, "path"),
        attributes=msgspec.json.encode(_plain(event, full)),
    )


def _text(event: Event, field: str) -> str:
    value = getattr(event, field, "")
    return value if isinstance(value, str) else ""


def _plain(value: object, full: bool = True) -> object:
    """A record as JSON values: default fields left out, JSON bytes put in as what they say.

    What users gave is JSON bytes wherever it stands: unless `full`, fields of it are left out. Other bytes are the
    engine's own notes (what a wait has by now, a question's form), and no words for anybody: they are left out, too.
    """
    if isinstance(value, msgspec.Struct):
        kept = ((f.name, getattr(value, f.name), f.default) for f in msgspec.structs.fields(value))
        return {
            name: _plain(field, full)
            for name, field, default in kept
            if field != default and name != "at_us" and (full or not _of_the_user(field)) and not _own_notes(field)
        }
    if isinstance(value, bytes):
        return _json(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each, full) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, full) for each in value]
    return value


def _of_the_user(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(isinstance(each, bytes) for each in value.values())
    return isinstance(value, bytes)


def _own_notes(value: object) -> bool:
    """True for packed records: those begin with a byte that no UTF-8 text, so no JSON, can begin with."""
    return isinstance(value, bytes) and 0x80 <= (value[0] if value else 0) < 0xC0


def _json(value: bytes) -> object:
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value.decode(errors="replace")
