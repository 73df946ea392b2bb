"""History in pages, and followed live with a resume token."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Final

from windlass.engine.core import tree
from windlass.engine.core.state import CLOSED, Node, RunState
from windlass.engine.engine import Engine
from windlass.engine.errors import EngineError
from windlass.engine.reading import (
    PAGE_EVENTS,
    Numbered,
    compacted,
    find_run_id,
    get_items,
    get_run,
    history,
    oldest_number,
    page_position,
    page_size,
    page_token,
)
from windlass.engine.service import convert, show
from windlass.storage.port import Transaction
from windlass.v1 import common_pb2
from windlass.v1 import workflow_service_pb2 as pb

#: Events in one message of a watch.
BATCH: Final = 200
#: Of events in one message, below what every gRPC client takes.
EVENTS_BYTES: Final = 3 << 20
#: And of what its tasks report of themselves beside the events.
PROGRESS_BYTES: Final = 900_000
#: An idle watch says "still here" this often, in seconds, so that both ends notice a dead connection.
IDLE_SECONDS: Final = 15.0


async def history_page(engine: Engine, request: pb.GetHistoryRequest) -> pb.GetHistoryResponse:
    """GetHistory."""
    ns, size = request.namespace or "default", page_size(request.page_size, PAGE_EVENTS)
    of, position = _place(request.page_token, request.run_id)

    async def body(tr: Transaction) -> tuple[str, list[Numbered], int, int]:
        run_id = await find_run_id(tr, ns, of, request.workflow_id)
        newest = (await get_run(tr, ns, run_id)).seq
        after, before = (0, position) if request.reverse else (position, 0)
        found = await history(tr, ns, run_id, after=after, before=before, limit=size, reverse=request.reverse)
        return run_id, found, await oldest_number(tr, ns, run_id), newest

    run_id, found, oldest, newest = await engine.storage.read(body)
    response = pb.GetHistoryResponse(events=_fitting(found, full=request.view != pb.VIEW_BASIC), oldest_number=oldest)
    last = response.events[-1].number if response.events else 0
    if response.events and last != (oldest if request.reverse else newest):
        response.next_page_token = page_token(f"{run_id}:{last}")
    return response


def _fitting(found: list[Numbered], *, full: bool) -> list[common_pb2.HistoryEvent]:
    """As many of the events as one message holds, and at least one."""
    events: list[common_pb2.HistoryEvent] = []
    size = 0
    for each in found:
        event = show.event_out(each, full=full)
        size += event.ByteSize()
        if events and size > EVENTS_BYTES:
            break
        events.append(event)
    return events


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise EngineError("BAD_PAGE_TOKEN", "the token was not made by this engine", field="page_token")
    return int(text)


def _place(token: str, run_id: str) -> tuple[str, int]:
    """The run that the token is of ("" = the one that the request names now), and its last event that was told.

    Raises EngineError BAD_PAGE_TOKEN.
    """
    if not token:
        return run_id, 0
    of, _, number = page_position(token).rpartition(":")
    if run_id and of not in ("", run_id):  # earlier versions put no run into it
        raise EngineError("BAD_PAGE_TOKEN", "the token is of another run", field="page_token")
    return of or run_id, _number(number)


def _resumed(request: pb.WatchRunRequest) -> tuple[str, int]:
    try:
        return _place(request.resume_token, request.run_id)
    except EngineError as error:
        message = "the resume token is not from a watch of this run"
        raise EngineError("BAD_RESUME_TOKEN", message, field="resume_token") from error


async def watch(engine: Engine, request: pb.WatchRunRequest) -> AsyncIterator[pb.WatchRunResponse]:
    """WatchRun: events as they are committed, until the run has closed and all was told."""
    ns = request.namespace or "default"
    watched, at = _resumed(request)
    run_id = await engine.storage.read(lambda tr: find_run_id(tr, ns, watched, request.workflow_id))
    if request.from_now and not request.resume_token:
        at = (await engine.storage.read(lambda tr: get_run(tr, ns, run_id))).seq
    oldest = await engine.storage.read(lambda tr: oldest_number(tr, ns, run_id))
    if request.resume_token and at + 1 < oldest:
        raise compacted(oldest)
    full = request.view != pb.VIEW_BASIC
    with engine.notices.watching(ns, run_id) as moved:
        while True:
            moved.clear()
            state, items, found = await _since(engine, ns, run_id, at)
            events = _fitting(found, full=full)
            at = events[-1].number if events else at
            ended = state.status in CLOSED and at >= state.seq
            progress = _progress(engine, state, items)
            yield _message(state, events, at, ended, progress)
            if ended:
                return
            if at < state.seq:
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS):
                    await moved.wait()


async def _since(engine: Engine, ns: str, run_id: str, at: int) -> tuple[RunState, dict[str, Node], list[Numbered]]:
    """The run, its items if one of them says something of itself, and its next events."""
    of_items = any(task[:2] == (ns, run_id) and "#" in task[3] for task in engine.notices.progress)

    async def body(tr: Transaction) -> tuple[RunState, dict[str, Node], list[Numbered]]:
        state = await get_run(tr, ns, run_id)
        items = await get_items(tr, state) if of_items else {}
        return state, items, await history(tr, ns, run_id, after=at, limit=BATCH)

    return await engine.storage.read(body)


def _message(
    state: RunState, events: list[common_pb2.HistoryEvent], at: int, ended: bool, progress: list[pb.TaskProgress]
) -> pb.WatchRunResponse:
    return pb.WatchRunResponse(
        events=events,
        resume_token=page_token(f"{state.run_id}:{at}"),
        result=convert.run_result(state) if ended else None,
        state=convert.STATES[state.status],
        progress=progress,
    )


def _progress(engine: Engine, state: RunState, items: Mapping[str, Node]) -> list[pb.TaskProgress]:
    """What the run's tasks say of themselves, as far as it fits beside the events."""
    told: list[pb.TaskProgress] = []
    room = PROGRESS_BYTES
    for (ns, run_id, visit, path, _), (value, at_us) in engine.notices.progress.items():
        if (ns, run_id) == (state.namespace, state.run_id):
            node = tree.find(state, items, path)
            attempt, time = node.attempt if node is not None else 0, convert.timestamp(at_us)
            each = pb.TaskProgress(visit=visit, path=path, attempt=attempt, progress=value, time=time)
            room -= each.ByteSize()
            if room < 0:
                break
            told.append(each)
    return told
